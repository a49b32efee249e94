package supervisor

import (
	"errors"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many links the kernel follows on the way to a file.
const maxLinks = 40

// find opens (O_PATH) the file that t is for who, the caller: with open, but a directory on the way that who may not search is EACCES.
// Of all other errors the kernel knows better which it is.
// Preconditions: this thread has the caller's root.
func (o *Ownership) find(r *request, who *credentials, t target) (int, error) {
	if who.user.fs == 0 || t.path == "" {
		return o.open(r, t)
	}
	if _, own := t.own(r); own {
		return o.open(r, t)
	}
	if t.special() {
		return -1, errKernel
	}
	w := walk{o: o, who: who, dir: -1}
	defer func() { unix.Close(w.dir) }()
	if err := w.start(r, t); err != nil {
		return -1, err
	}
	if err := r.valid(); err != nil {
		return -1, err
	}
	for rest := t.path; ; {
		name, after, slash := strings.Cut(strings.TrimLeft(rest, "/"), "/")
		if name == "" {
			fd := w.dir
			w.dir = -1
			return fd, nil
		}
		var err error
		if rest, err = w.enter(name, after, t.follow || slash); err != nil {
			return -1, err
		}
	}
}

// special says whether t is a path to what has no recorded owner.
func (t target) special() bool {
	for _, dir := range []string{"/proc/", "/sys/", "/dev/"} {
		if strings.HasPrefix(t.path, dir) {
			return !strings.HasPrefix(t.path, "/dev/shm/")
		}
	}
	return false
}

// openToAll says whether t leads, by directories that everybody may search and by no link, to what allows everybody what want says (as credentials.may).
// That is so of most files, and found out without a descriptor. What it says of another process that has got the pid does no harm: the kernel looks itself at what is allowed.
func (t target) openToAll(r *request, want uint32) bool {
	full, from := t.path, 0
	if base := t.base(r); base != "" {
		full, from = base+"/"+t.path, len(base)
		if allows(full[:from+1], 1) != unix.S_IFDIR {
			return false
		}
	}
	for i := from + 1; i < len(full); i++ {
		if full[i] == '/' && full[i-1] != '/' && allows(full[:i], 1) != unix.S_IFDIR {
			return false
		}
	}
	if t.path == "" || from == 0 && allows("/", 1) != unix.S_IFDIR {
		return false
	}
	typ := allows(full, want)
	return typ == unix.S_IFDIR || typ == unix.S_IFREG || typ == unix.S_IFLNK && !t.follow
}

// allows returns the type of what has the name, a path of this thread, if that allows everybody what want says; else 0.
func allows(name string, want uint32) uint32 {
	var st unix.Stat_t
	all := want | want<<3 | want<<6
	if err := unix.Fstatat(unix.AT_FDCWD, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Mode&all != all {
		return 0
	}
	return st.Mode & unix.S_IFMT
}

// walk goes a path for a caller, name by name.
type walk struct {
	o     *Ownership
	who   *credentials
	dir   int         // where it is (O_PATH)
	st    unix.Stat_t // of dir
	links int         // that it has followed
}

// start opens the directory that the name of t is relative to: the root for an absolute one.
func (w *walk) start(r *request, t target) (err error) {
	base := t.base(r)
	if base == "" {
		return w.root()
	}
	if w.dir, err = unix.Open(base, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return errKernel
	}
	return unix.Fstat(w.dir, &w.st)
}

// root goes back to the root.
func (w *walk) root() (err error) {
	unix.Close(w.dir)
	if w.dir, err = unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	return unix.Fstat(w.dir, &w.st)
}

// enter goes on to name, and returns what is to be gone after it: rest, and what a link says before it. The last name may be a link
// that is not to be followed.
func (w *walk) enter(name, rest string, follow bool) (string, error) {
	if w.st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return "", errKernel
	}
	if !w.o.permits(w.who, w.dir, &w.st, 1) {
		return "", unix.EACCES
	}
	next, err := unix.Openat(w.dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", errKernel
	}
	dev := w.st.Dev
	if err := unix.Fstat(next, &w.st); err != nil || w.st.Dev != dev && serves(next) {
		unix.Close(next)
		return "", errKernel
	}
	if w.st.Mode&unix.S_IFMT != unix.S_IFLNK || rest == "" && !follow {
		unix.Close(w.dir)
		w.dir = next
		return rest, nil
	}
	defer unix.Close(next)
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(next, "", buf)
	if w.links++; err != nil || w.links > maxLinks {
		return "", errKernel
	}
	to := string(buf[:n])
	if path.IsAbs(to) {
		err = w.root()
	} else {
		err = unix.Fstat(w.dir, &w.st)
	}
	if rest != "" {
		to += "/" + rest
	}
	return to, err
}

// serves says whether fd is of a file system whose files are no files: their links lead anywhere, and nobody owns them.
func serves(fd int) bool {
	var fs unix.Statfs_t
	return unix.Fstatfs(fd, &fs) != nil || fs.Type == unix.PROC_SUPER_MAGIC || fs.Type == unix.SYSFS_MAGIC
}

// refusal leaves to the kernel what find has not found, but for what the kernel would not refuse.
func refusal(err error) error {
	if errors.Is(err, unix.EACCES) {
		return unix.EACCES
	}
	return errKernel
}
