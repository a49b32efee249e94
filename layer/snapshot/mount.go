package snapshot

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
)

// MaxLayers is how many layers overlayfs stacks (OVL_MAX_STACK of the kernel).
const MaxLayers = 500

// Mount says how overlayfs makes a file system: pure data, mounted by
// Mount.Open or by a sandbox. Without overlayfs it names the directory that is the file system: Upper
// alone if it may be written to, or a single Lower.
type Mount struct {
	Lower       []string // host paths, topmost first; at least two for a read-only mount
	Upper, Work string   // empty for a read-only mount
	UserXattr   bool
}

// plain returns the directory that is the file system, if no overlayfs is needed.
func (m Mount) plain() (dir string, ok bool) {
	switch {
	case len(m.Lower) == 0:
		return m.Upper, true
	case m.Upper == "" && len(m.Lower) == 1:
		return m.Lower[0], true
	}
	return "", false
}

// Open mounts the file system detached (fsmount: no mount point, gone with the last descriptor,
// so a crash leaves nothing) and returns its root. Devices in it cannot be opened. What needs no mount
// is just opened.
func (m Mount) Open() (*rootfs.Root, error) {
	if dir, ok := m.plain(); ok {
		return rootfs.Open(dir)
	}
	var f *os.File
	err := errNoLowerPlus
	if !legacyOverlay() {
		f, err = m.fsconfig()
	}
	if errors.Is(err, errNoLowerPlus) {
		f, err = m.mount()
	}
	if err != nil {
		return nil, fmt.Errorf("mounting %d layers: %w", len(m.Lower), err)
	}
	return rootfs.FromFile(f), nil
}

// errNoLowerPlus is what a kernel before Linux 6.7 leads to.
var errNoLowerPlus = errors.New("this kernel does not know overlay's option lowerdir+")

// legacyOverlay says whether overlay is of the old kind (before Linux 6.5), for which fsconfig takes whatever it is told and fails in
// the end, with a line in the kernel's log, if it does not know it. Package sandbox has the same: no wall knows another.
func legacyOverlay() bool {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return false
	}
	defer unix.Close(fs)
	return unix.FsconfigSetString(fs, "no-option-of-overlay", "x") == nil
}

// fdDir is where the open directories of this process are by number: names that are short however long the
// store's path is (fsconfig takes 255 bytes, mount(2) a page for all), and have no comma or colon.
const fdDir = "/proc/self/fd"

// numbered opens the directories, and returns m with their names in fdDir.
func (m Mount) numbered() (n Mount, closeAll func(), err error) {
	var files []*os.File
	closeAll = func() {
		for _, f := range files {
			_ = f.Close()
		}
	}
	number := func(dir string) string {
		if err != nil {
			return ""
		}
		var f *os.File
		if f, err = os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err != nil {
			return ""
		}
		files = append(files, f)
		return strconv.Itoa(int(f.Fd()))
	}
	n.UserXattr = m.UserXattr
	for _, dir := range m.Lower {
		n.Lower = append(n.Lower, number(dir))
	}
	if m.Upper != "" {
		n.Upper, n.Work = number(m.Upper), number(m.Work)
	}
	if err != nil {
		closeAll()
		return n, nil, err
	}
	return n, closeAll, nil
}

// options are overlay's options but for the directories; a flag has no value. The upper directory must be a
// layer that means something without this mount: no redirects (nor are those of a hostile layer
// followed), no copies of metadata only, no index.
func (m Mount) options() [][2]string {
	o := [][2]string{{"redirect_dir", "nofollow"}, {"metacopy", "off"}, {"index", "off"}, {"xino", "off"}}
	if m.UserXattr {
		o = append(o, [2]string{"userxattr", ""})
	}
	if m.Upper != "" {
		// The end of the mount would sync the whole file system else.
		o = append(o, [2]string{"volatile", ""})
	}
	return o
}

// attributes are of the mount, which serves to copy files and not to run them.
const attributes = unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC

// fsconfig mounts layer by layer.
func (m Mount) fsconfig() (*os.File, error) {
	m, closeAll, err := m.numbered()
	if err != nil {
		return nil, err
	}
	defer closeAll()
	fsfd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("opening overlayfs: %w", err)
	}
	defer unix.Close(fsfd) // nothing to lose
	for i, l := range m.Lower {
		if err := unix.FsconfigSetString(fsfd, "lowerdir+", fdDir+"/"+l); err != nil {
			if i == 0 && errors.Is(err, unix.EINVAL) {
				return nil, errNoLowerPlus
			}
			return nil, kernelError(fsfd, err)
		}
	}
	opts := m.options()
	if m.Upper != "" {
		opts = append(opts, [2]string{"upperdir", fdDir + "/" + m.Upper}, [2]string{"workdir", fdDir + "/" + m.Work})
	}
	for _, o := range opts {
		if o[1] == "" {
			err = unix.FsconfigSetFlag(fsfd, o[0])
		} else {
			err = unix.FsconfigSetString(fsfd, o[0], o[1])
		}
		if err != nil {
			return nil, kernelError(fsfd, fmt.Errorf("option %s: %w", o[0], err))
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return nil, kernelError(fsfd, err)
	}
	attr := attributes
	if m.Upper == "" {
		attr |= unix.MOUNT_ATTR_RDONLY
	}
	fd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return nil, kernelError(fsfd, err)
	}
	return os.NewFile(uintptr(fd), "/"), nil
}

// kernelError adds to err what the kernel says of it in the log of the file system context.
func kernelError(fsfd int, err error) error {
	var text []string
	buf := make([]byte, 4096)
	for {
		n, rerr := unix.Read(fsfd, buf)
		if rerr != nil || n <= 0 {
			break
		}
		// "e overlay: …"; w and i are warnings and information.
		text = append(text, strings.TrimSpace(strings.TrimPrefix(string(buf[:n]), "e ")))
	}
	if text == nil {
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.Join(text, "; "))
}

// mount is for kernels where fsconfig cannot take the layers one by one: mount(2) in a mount namespace that
// only one thread is in, so that nobody sees the mount and nothing is left of it whenever the process dies.
func (m Mount) mount() (*os.File, error) {
	done := make(chan struct{})
	var f *os.File
	var err error
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot end, and /proc/self is about it. While it is taken, another goroutine has another.
			defer runtime.UnlockOSThread()
			f, err = m.mount()
			return
		}
		// Never unlocked: the thread, whose namespace is unlike the others', ends with the goroutine.
		f, err = m.mountAlone()
	}()
	<-done
	return f, err
}

// data is the options of mount(2). The directories are names in fdDir.
func (m Mount) data() (string, error) {
	var b strings.Builder
	b.WriteString("lowerdir=" + strings.Join(m.Lower, ":"))
	if m.Upper != "" {
		b.WriteString(",upperdir=" + m.Upper + ",workdir=" + m.Work)
	}
	for _, o := range m.options() {
		b.WriteString("," + o[0])
		if o[1] != "" {
			b.WriteString("=" + o[1])
		}
	}
	// The kernel cuts what does not fit, without an error.
	if b.Len() >= 4096 {
		return "", fmt.Errorf("too many layers (%d) for this kernel; Linux 6.7 and newer take %d", len(m.Lower), MaxLayers)
	}
	return b.String(), nil
}

// mountAlone mounts in a namespace of the calling thread.
//
// Preconditions: the thread is locked and will not be used again.
func (m Mount) mountAlone() (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return nil, fmt.Errorf("making a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("making mounts private: %w", err)
	}
	// Opened here: overlayfs takes only directories of the namespace it is mounted in.
	m, closeAll, err := m.numbered()
	if err != nil {
		return nil, err
	}
	defer closeAll()
	data, err := m.data()
	if err != nil {
		return nil, err
	}
	if err := unix.Chdir(fdDir); err != nil {
		return nil, err
	}
	flags := uintptr(unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC)
	if m.Upper == "" {
		flags |= unix.MS_RDONLY
	}
	// Anything serves as the mount point, for nobody else sees it.
	const point = "/"
	if err := unix.Mount("overlay", point, "overlay", flags, data); err != nil {
		return nil, err
	}
	// A path is looked up from the thread's root, below the new mount; ".." of the root steps on it.
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/..", unix.OPEN_TREE_CLOEXEC|unix.OPEN_TREE_CLONE)
	if err != nil {
		return nil, fmt.Errorf("detaching the mount: %w", err)
	}
	return os.NewFile(uintptr(fd), "/"), nil
}
