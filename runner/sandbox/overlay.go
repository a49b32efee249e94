package sandbox

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// overlayOptions are the same for every box: the upper directory must be a layer that
// means something without this mount (no redirects, no metadata-only copies, no index).
// A redirect that a hostile layer brings is not followed either.
func overlayOptions() [][2]string {
	return [][2]string{{"metacopy", "off"}, {"index", "off"}, {"redirect_dir", "nofollow"}}
}

// layers are the opened directories of an Overlay.
//
// They are named by descriptors of this process (/proc/self/fd/7): names are short whatever the store's path
// (fsconfig takes 255 bytes, mount a page for all of them), and the step does not see the host's paths in /proc/mounts.
type layers struct {
	Overlay
	lower       []string // descriptors
	upper, work string
	open        []int
}

// openLayers opens the directories of a stack of layers.
func openLayers(o Overlay) (*layers, error) {
	l := &layers{Overlay: o}
	var err error
	name := func(dir string) (n string) {
		if err != nil {
			return ""
		}
		var fd int
		if fd, err = unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			err = fmt.Errorf("opening the layer %s: %w", dir, err)
			return ""
		}
		l.open = append(l.open, fd)
		return strconv.Itoa(fd)
	}
	for _, dir := range o.Lower {
		l.lower = append(l.lower, name(dir))
	}
	if o.Upper != "" {
		l.upper = name(o.Upper)
	}
	if o.Work != "" {
		l.work = name(o.Work)
	}
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *layers) close() {
	for _, fd := range l.open {
		unix.Close(fd)
	}
}

// mount stacks the layers and returns them as a detached mount. The directory attach may be mounted over for a moment.
func (l *layers) mount(attach string) (int, error) {
	if len(l.open) == 0 {
		return -1, errors.New("there are no layers")
	}
	// Overlay wants a lower directory below an upper one, or two. An upper one alone is a whole file system: a copy.
	if len(l.Lower) == 0 || l.Upper == "" && len(l.Lower) == 1 {
		return cloneTree(l.open[0], "", false)
	}
	if legacyOverlay() {
		return l.overlayOld(attach)
	}
	fd, err := l.overlayNew()
	if errors.Is(err, errNoLowerPlus) {
		fd, err = l.overlayOld(attach)
	}
	return fd, err
}

// errNoLowerPlus is what a kernel before Linux 6.7 leads to.
var errNoLowerPlus = errors.New("this kernel has no lowerdir+")

// legacyOverlay says whether overlay is of the old kind (before Linux 6.5), for which fsconfig takes whatever it is told and fails in
// the end, with a line in the kernel's log, if it does not know it. Package snapshot has the same: no wall knows another.
func legacyOverlay() bool {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return false
	}
	defer unix.Close(fs)
	return unix.FsconfigSetString(fs, "no-option-of-overlay", "x") == nil
}

// fdDir is where this process's descriptors have names.
const fdDir = "/proc/self/fd"

// overlayNew mounts with fsconfig's lowerdir+ (Linux 6.7).
func (l *layers) overlayNew() (int, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("opening the overlay file system: %w", err)
	}
	defer unix.Close(fs)
	for i, name := range l.lower {
		if err := unix.FsconfigSetString(fs, "lowerdir+", filepath.Join(fdDir, name)); err != nil {
			if i == 0 {
				return -1, errNoLowerPlus
			}
			return -1, fsError(fs, "stacking layer "+l.Lower[i], err)
		}
	}
	opts := append(overlayOptions(), [2]string{"source", "overlay"})
	if l.upper != "" {
		opts = append(opts, [2]string{"upperdir", filepath.Join(fdDir, l.upper)}, [2]string{"workdir", filepath.Join(fdDir, l.work)})
	}
	for _, o := range opts {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return -1, fsError(fs, "setting overlay's "+o[0], err)
		}
	}
	if l.upper != "" {
		if err := unix.FsconfigSetFlag(fs, "volatile"); err != nil {
			return -1, fsError(fs, "setting overlay's volatile", err)
		}
	}
	if l.UserXattr {
		if err := unix.FsconfigSetFlag(fs, "userxattr"); err != nil {
			return -1, fsError(fs, "setting overlay's userxattr", err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fsError(fs, "mounting an overlay file system", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return -1, fsError(fs, "mounting an overlay file system", err)
	}
	return fd, nil
}

// fsError adds what the kernel has to say about fs to err.
func fsError(fs int, what string, err error) error {
	var text []string
	buf := make([]byte, 4096)
	for {
		n, rerr := unix.Read(fs, buf)
		if rerr != nil || n <= 0 {
			break
		}
		text = append(text, strings.TrimSpace(strings.TrimPrefix(string(buf[:n]), "e ")))
	}
	if len(text) == 0 {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w (%s)", what, err, strings.Join(text, "; "))
}

// overlayOld mounts with mount(2), which cuts its options at a page without a word: what would not fit is refused.
func (l *layers) overlayOld(attach string) (int, error) {
	// Names relative to fdDir: 500 layers fit.
	if err := unix.Chdir(fdDir); err != nil {
		return -1, fmt.Errorf("entering %s: %w", fdDir, err)
	}
	opts := []string{"lowerdir=" + strings.Join(l.lower, ":")}
	for _, o := range overlayOptions() {
		opts = append(opts, o[0]+"="+o[1])
	}
	if l.upper != "" {
		opts = append(opts, "upperdir="+l.upper, "workdir="+l.work, "volatile")
	}
	if l.UserXattr {
		opts = append(opts, "userxattr")
	}
	data := strings.Join(opts, ",")
	if len(data) >= unix.Getpagesize() {
		return -1, fmt.Errorf("mounting an overlay file system: %d layers are too many for this kernel (Linux 6.7 takes 500)", len(l.lower))
	}
	if err := unix.Mount("overlay", attach, "overlay", 0, data); err != nil {
		return -1, fmt.Errorf("mounting an overlay file system from %d layers: %w", len(l.lower), err)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, attach, unix.OPEN_TREE_CLOEXEC|unix.OPEN_TREE_CLONE)
	if err != nil {
		return -1, fmt.Errorf("opening an overlay file system: %w", err)
	}
	if err := unix.Unmount(attach, unix.MNT_DETACH); err != nil {
		return -1, fmt.Errorf("opening an overlay file system: %w", err)
	}
	return fd, nil
}
