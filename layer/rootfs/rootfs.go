// Package rootfs does file operations inside a root directory.
//
// Every name given to a Root is looked up as a process would that has the
// directory as its "/": absolute symbolic links, "..", and links that somebody
// swaps while the lookup runs all stay inside (openat2 with RESOLVE_IN_ROOT).
// It is the only package that turns names from Dockerfiles, archives and images
// into system calls.
package rootfs

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

var errTodo = errors.New("not written yet")

// Root is an open directory that serves as "/".
type Root struct{ dir *os.File }

// Open opens the directory dir of the host as a root.
func Open(dir string) (*Root, error) { return nil, errTodo }

// FromFile makes a root of an open directory, such as a detached mount. The Root owns f.
func FromFile(f *os.File) *Root { return &Root{dir: f} }

// Close releases the root.
func (r *Root) Close() error { return r.dir.Close() }

// File is the root directory itself.
func (r *Root) File() *os.File { return r.dir }

// OpenFile opens name, following symbolic links inside the root. flag is as for
// open(2), O_CLOEXEC is added; perm is used only with O_CREAT (umask does not apply to it).
func (r *Root) OpenFile(name string, flag int, perm uint32) (*os.File, error) { return nil, errTodo }

// Parent opens the directory that holds name (its links followed inside the
// root) and returns it with name's last component, which is not followed. It is
// the handle for *at system calls on an entry itself. The root itself is an error.
func (r *Root) Parent(name string) (dir *os.File, base string, err error) { return nil, "", errTodo }

// Lstat describes name without following a link in its last component.
func (r *Root) Lstat(name string) (unix.Stat_t, error) { return unix.Stat_t{}, errTodo }

// Stat describes what name leads to.
func (r *Root) Stat(name string) (unix.Stat_t, error) { return unix.Stat_t{}, errTodo }

// Readlink returns the target of the symbolic link name.
func (r *Root) Readlink(name string) (string, error) { return "", errTodo }

// Resolve follows every symbolic link in name and returns the clean path,
// relative to the root and without links ("." for the root). Trailing components
// that do not exist are kept as they are.
func (r *Root) Resolve(name string) (string, error) { return "", errTodo }

// MkdirAll makes the directory name and its missing parents, each with perm and
// owner, following links inside the root. What exists keeps its mode and owner.
// It returns the paths it made, outermost first.
func (r *Root) MkdirAll(name string, perm uint32, uid, gid int) ([]string, error) { return nil, errTodo }

// RemoveAll removes name and what is below it, without following links. A name
// that does not exist is no error.
func (r *Root) RemoveAll(name string) error { return errTodo }

// Entry is what ReadDir says of a directory's entry without a stat of it.
type Entry struct {
	Name string
	Type uint8 // unix.DT_*; never DT_UNKNOWN
	Ino  uint64
}

// ReadDir lists the open directory dir by getdents(2), sorted by name.
func ReadDir(dir *os.File) ([]Entry, error) { return nil, errTodo }
