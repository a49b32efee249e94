package runner

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxLayers is how many lower directories an overlay takes.
const maxLayers = 500

// stubs returns layers with mount points, to be put below all others, so that the upper directory need not get them; the
// function it returns removes what is for this box alone. Where there is no room for them, the init makes the mount points, and removes them again.
//
// A step of a build whose root has no /proc, /sys or /dev makes these for good, as BuildKit has it: they are
// stubs only if the root cannot be written.
func (l *Linux) stubs(s Sandbox) (layers []string, done func(), err error) {
	done = func() {}
	readOnly := s.ReadOnly || s.Root.Upper == ""
	if s.Stubs == "" || len(s.Root.Lower)+3 > maxLayers {
		return nil, done, nil
	}
	own, err := l.mountStubs(s.Mounts)
	if err != nil {
		os.RemoveAll(own) // nothing if it is empty
		return nil, nil, err
	}
	if own != "" {
		done = func() { os.RemoveAll(own) }
		layers = append(layers, own)
	}
	files := filepath.Join(s.Stubs, "files")
	layers = append(layers, files)
	err = fillStubs(files, []string{"etc/resolv.conf", "etc/hosts"}, false)
	if readOnly && err == nil {
		dirs := filepath.Join(s.Stubs, "dirs")
		layers = append(layers, dirs)
		err = fillStubs(dirs, []string{"proc", "sys", "dev"}, true)
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	return layers, done, nil
}

// fillStubs makes names in dir. The last one that is made says that all are there.
func fillStubs(dir string, names []string, isDir bool) error {
	if _, err := os.Lstat(filepath.Join(dir, names[len(names)-1])); err == nil {
		return nil
	}
	if err := makeStub(filepath.Dir(dir), filepath.Base(dir), true); err != nil {
		return err
	}
	for _, name := range names {
		if err := makeStub(dir, name, isDir); err != nil {
			return err
		}
	}
	return nil
}

// makeStub makes name in dir, and the directories above it, with modes and times that do not depend on this
// process: a step may copy a directory up into its layer.
func makeStub(dir, name string, isDir bool) error {
	if parent := path.Dir(name); parent != "." {
		if err := makeStub(dir, parent, true); err != nil {
			return err
		}
	}
	file, mode := filepath.Join(dir, name), os.FileMode(0o755)
	var err error
	if isDir {
		err = os.MkdirAll(file, mode)
	} else {
		mode = 0o644
		var f *os.File
		if f, err = os.OpenFile(file, os.O_CREATE|os.O_WRONLY, mode); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		return err
	}
	if err := os.Chmod(file, mode); err != nil {
		return err
	}
	return os.Chtimes(file, time.Unix(0, 0), time.Unix(0, 0))
}

// mountStubs makes a layer with the mount points of mounts, so that the upper directory need not get them. It returns
// an empty name if none is needed, or if there is no place for it.
func (l *Linux) mountStubs(mounts []Mount) (dir string, err error) {
	for _, m := range mounts {
		target := strings.TrimPrefix(path.Clean(m.Target), "/")
		top, _, _ := strings.Cut(target, "/")
		if l.Dir == "" || top == "" || top == "proc" || top == "sys" || top == "dev" {
			continue
		}
		isDir := m.Type == Tmpfs
		if m.Type == Bind && m.Data == nil {
			st, err := os.Stat(m.Source)
			if err != nil {
				return dir, fmt.Errorf("mounting %s: %w", m.Target, err)
			}
			isDir = st.IsDir()
		}
		if dir == "" {
			if dir, err = os.MkdirTemp(l.Dir, fmt.Sprintf(boxName, os.Getpid())); err != nil {
				return "", err
			}
			if err := os.Chmod(dir, 0o755); err != nil {
				return dir, err
			}
		}
		// Mount points that lie in each other's way are left to the init, which sees what is really there.
		if err := makeStub(dir, target, isDir); err != nil && !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EEXIST) {
			return dir, err
		}
	}
	return dir, nil
}
