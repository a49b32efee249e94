package runner

import (
	"os"
	"path"
	"path/filepath"
	"time"
)

// maxLayers is how many lower directories an overlay takes.
const maxLayers = 500

// stubs returns layers with mount points, to be put below all others, so that the upper directory need not get them. One of them, own,
// is for this box alone: the init, which knows what is mounted, fills it. Where there is no room for them, or no overlay, the
// init makes the mount points in the root, and removes them again.
//
// A step of a build whose root has no /proc, /sys or /dev makes these for good, as BuildKit has it: they are
// stubs only if the root cannot be written.
func (l *Linux) stubs(s Sandbox) (layers []string, own *ownDir, err error) {
	readOnly := s.ReadOnly || s.Root.Upper == ""
	if s.Stubs == "" || len(s.Root.Lower) == 0 || len(s.Root.Lower)+3 > maxLayers {
		return nil, nil, nil
	}
	files := filepath.Join(s.Stubs, "files")
	layers = append(layers, files)
	if err := fillStubs(files, []string{"etc/resolv.conf", "etc/hosts"}, false); err != nil {
		return nil, nil, err
	}
	if readOnly {
		dirs := filepath.Join(s.Stubs, "dirs")
		layers = append(layers, dirs)
		if err := fillStubs(dirs, []string{"proc", "sys", "dev"}, true); err != nil {
			return nil, nil, err
		}
	}
	if len(s.Mounts) == 0 || l.Dir == "" {
		return layers, nil, nil
	}
	if own, err = newOwnDir(l.Dir, ""); err != nil {
		return nil, nil, err
	}
	if err := os.Chmod(own.path, 0o755); err != nil { //nolint:gosec // a layer: it becomes the root directory that a step sees
		own.remove()
		return nil, nil, err
	}
	return append([]string{own.path}, layers...), own, nil
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
