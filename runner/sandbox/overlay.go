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

// overlay stacks the root and returns it as a detached mount.
//
// Layers are named by descriptors of this process (/proc/self/fd/7): names are short whatever the store's path
// (fsconfig takes 255 bytes, mount a page for all of them), and the step does not see the host's paths in /proc/mounts.
func (b *box) overlay() (int, error) {
	var open []int
	defer func() {
		for _, fd := range open {
			unix.Close(fd)
		}
	}()
	name := func(dir string) (string, error) {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", fmt.Errorf("opening the layer %s: %w", dir, err)
		}
		open = append(open, fd)
		return strconv.Itoa(fd), nil
	}
	var lower []string
	for _, dir := range b.Lower {
		n, err := name(dir)
		if err != nil {
			return -1, err
		}
		lower = append(lower, n)
	}
	var upper, work string
	if b.Upper != "" {
		var err error
		if upper, err = name(b.Upper); err != nil {
			return -1, err
		}
		if work, err = name(b.Work); err != nil {
			return -1, err
		}
	}
	fd, err := b.overlayNew(lower, upper, work)
	if errors.Is(err, errNoLowerPlus) {
		fd, err = b.overlayOld(lower, upper, work)
	}
	return fd, err
}

var errNoLowerPlus = errors.New("this kernel has no lowerdir+")

const fdDir = "/proc/self/fd"

// overlayNew mounts with fsconfig's lowerdir+ (Linux 6.8).
func (b *box) overlayNew(lower []string, upper, work string) (int, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("opening the overlay file system: %w", err)
	}
	defer unix.Close(fs)
	for i, l := range lower {
		if err := unix.FsconfigSetString(fs, "lowerdir+", filepath.Join(fdDir, l)); err != nil {
			if i == 0 {
				return -1, errNoLowerPlus
			}
			return -1, fsError(fs, "stacking layer "+b.Lower[i], err)
		}
	}
	opts := append(overlayOptions(), [2]string{"source", "overlay"})
	if upper != "" {
		opts = append(opts, [2]string{"upperdir", filepath.Join(fdDir, upper)}, [2]string{"workdir", filepath.Join(fdDir, work)})
	}
	for _, o := range opts {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return -1, fsError(fs, "setting overlay's "+o[0], err)
		}
	}
	if upper != "" {
		if err := unix.FsconfigSetFlag(fs, "volatile"); err != nil {
			return -1, fsError(fs, "setting overlay's volatile", err)
		}
	}
	if b.UserXattr {
		if err := unix.FsconfigSetFlag(fs, "userxattr"); err != nil {
			return -1, fsError(fs, "setting overlay's userxattr", err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fsError(fs, "mounting the root file system", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return -1, fsError(fs, "mounting the root file system", err)
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
func (b *box) overlayOld(lower []string, upper, work string) (int, error) {
	// Names relative to fdDir: 500 layers fit.
	if err := unix.Chdir(fdDir); err != nil {
		return -1, fmt.Errorf("entering %s: %w", fdDir, err)
	}
	opts := []string{"lowerdir=" + strings.Join(lower, ":")}
	for _, o := range overlayOptions() {
		opts = append(opts, o[0]+"="+o[1])
	}
	if upper != "" {
		opts = append(opts, "upperdir="+upper, "workdir="+work, "volatile")
	}
	if b.UserXattr {
		opts = append(opts, "userxattr")
	}
	data := strings.Join(opts, ",")
	if len(data) >= unix.Getpagesize() {
		return -1, fmt.Errorf("mounting the root file system: %d layers are too many for this kernel (Linux 6.8 takes 500)", len(lower))
	}
	if err := unix.Mount("overlay", b.Attach, "overlay", 0, data); err != nil {
		return -1, fmt.Errorf("mounting the root file system from %d layers: %w", len(lower), err)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, b.Attach, unix.OPEN_TREE_CLOEXEC|unix.OPEN_TREE_CLONE)
	if err != nil {
		return -1, fmt.Errorf("opening the root file system: %w", err)
	}
	if err := unix.Unmount(b.Attach, unix.MNT_DETACH); err != nil {
		return -1, fmt.Errorf("opening the root file system: %w", err)
	}
	return fd, nil
}
