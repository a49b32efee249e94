package runner

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Isolation is the result of Probe.
type Isolation struct {
	Rung   Rung
	Reason string // one line: why this rung, for people
	// UserNS: the process is in a user namespace: strake's own (after Enter), or the one of a container around it.
	UserNS bool
	// OneID: the user namespace has a single id. Who owns a file is recorded in the extended attribute
	// user.containers.override_stat of it, by the init for what a step does.
	OneID bool
	// SharedPID: a box has no pid namespace of its own, since no /proc can be mounted for it. Its init finds and kills
	// what the step leaves behind.
	SharedPID bool
}

// Probe finds the best rung that works, or checks the one that is asked for. The error names the
// setting to change. It takes about 2 ms and changes nothing.
//
// Root, and a process that is root in a user namespace already, try what a box needs on a thread of their own. An ordinary user tries to
// make a user namespace, and looks for the subordinate ids and the helpers that Enter needs.
func Probe(want Rung) (Isolation, error) {
	switch want {
	case Auto, Root, Rootless:
	default:
		return Isolation{}, fmt.Errorf("unknown isolation %q: it is auto, root or rootless", want)
	}
	inside := inUserNS()
	if os.Geteuid() == 0 {
		mountErr := tryMounts()
		switch {
		case mountErr == nil && inside && want != Root:
			return Isolation{Rung: Rootless, Reason: "root in a user namespace", UserNS: true}, nil
		case mountErr == nil && !inside && want != Rootless:
			return Isolation{Rung: Root, Reason: "root that can mount"}, nil
		case want == Root && inside:
			return Isolation{}, errors.New("isolation root: this process is in a user namespace, where root is not the host's: use --isolation rootless")
		case want == Root:
			return Isolation{}, fmt.Errorf("isolation root: %w", mountErr)
		}
		if err := tryUserNS(); err != nil {
			if mountErr == nil { // rootless, asked for by root
				return Isolation{}, fmt.Errorf("isolation rootless: %w", err)
			}
			return Isolation{}, fmt.Errorf("no isolation works: root: %w; rootless: %w", mountErr, err)
		}
		return Isolation{Rung: Rootless, Reason: "root, in a user namespace of its own", UserNS: false}, nil
	}
	if want == Root {
		return Isolation{}, errors.New("isolation root: this process is not root: use sudo, or --isolation rootless")
	}
	if err := tryUserNS(); err != nil {
		return Isolation{}, fmt.Errorf("isolation rootless: %w", err)
	}
	m, err := userMap()
	if err != nil {
		return Isolation{}, fmt.Errorf("isolation rootless: %w", err)
	}
	return Isolation{Rung: Rootless, Reason: fmt.Sprintf("user %d with %d subordinate ids", os.Getuid(), m.uids.size())}, nil
}

// initUserNS is the first user namespace (PROC_USER_INIT_INO in the kernel's sources).
const initUserNS = "user:[4026531837]"

// inUserNS says whether this process is in another user namespace than the first one.
func inUserNS() bool {
	name, err := os.Readlink("/proc/self/ns/user")
	return err == nil && name != initUserNS
}

// tryMounts tries what a box needs in a mount namespace of a thread, which is thrown away with it.
func tryMounts() error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		if unix.Gettid() == unix.Getpid() {
			// The main thread does not end, and would keep the mounts. While it is held here, another one is taken.
			done <- tryMounts()
			runtime.UnlockOSThread()
			return
		}
		done <- mountOnThread()
	}()
	return <-done
}

// Preconditions: the goroutine is locked to its thread, which is thrown away.
func mountOnThread() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("making a mount namespace: %w%s", err, containerHint(err))
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w%s", err, containerHint(err))
	}
	const over = "/proc" // any directory that is there for sure
	if err := unix.Mount("tmpfs", over, "tmpfs", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mounting a tmpfs: %w%s", err, containerHint(err))
	}
	if err := unix.Chdir(over); err != nil {
		return fmt.Errorf("entering a tmpfs: %w", err)
	}
	for _, d := range []string{"a", "b"} {
		if err := unix.Mkdir(d, 0o700); err != nil {
			return fmt.Errorf("making a directory in a tmpfs: %w", err)
		}
	}
	if err := unix.Mount("overlay", "a", "overlay", unix.MS_RDONLY, "lowerdir=a:b"); err != nil {
		if errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("mounting an overlay: %w: the kernel has no overlay file system: modprobe overlay", err)
		}
		return fmt.Errorf("mounting an overlay: %w%s", err, containerHint(err))
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, "a", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("copying a mount: %w%s", err, kernelHint(err))
	}
	defer unix.Close(fd)
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV}); err != nil {
		return fmt.Errorf("changing a mount: %w%s", err, kernelHint(err))
	}
	return nil
}

// containerHint says what could be behind a refusal that root gets.
func containerHint(err error) string {
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) {
		return kernelHint(err)
	}
	if seccomp() {
		return ": the container's seccomp profile or capabilities forbid it: run the container with --privileged, or with --security-opt seccomp=unconfined"
	}
	return ": this root has no CAP_SYS_ADMIN: run the container with --privileged"
}

func kernelHint(err error) string {
	if errors.Is(err, unix.ENOSYS) {
		return ": Linux 5.12 or newer is needed, or a container's seccomp profile forbids it"
	}
	return ""
}

// seccomp says whether a filter is on this process.
func seccomp() bool {
	mode, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0)
	return err != nil || mode != 0
}

// tryUserNS makes a user namespace and uses a privilege in it, in a child that has nothing to execute: that the
// file is missing is the last thing that can go wrong.
func tryUserNS() error {
	try := func(chroot string) error {
		_, err := syscall.ForkExec("/nonexistent/strake", []string{"strake"}, &syscall.ProcAttr{
			Sys: &syscall.SysProcAttr{
				Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
				UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
				Chroot:      chroot,
			},
		})
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	}
	if err := try(""); err != nil {
		return fmt.Errorf("making a user namespace: %w: %s", err, userNSHint(err))
	}
	if err := try("/"); err != nil {
		hint := "something forbids privileges in user namespaces"
		if sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1" {
			hint = "AppArmor forbids privileges in user namespaces: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or give strake an AppArmor profile with the rule «userns,»"
		}
		return fmt.Errorf("using a user namespace: %w: %s", err, hint)
	}
	return nil
}

// userNSHint says which setting is in the way of user namespaces.
func userNSHint(err error) string {
	switch {
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS):
		return "the kernel has no user namespaces (CONFIG_USER_NS)"
	case sysctl("user/max_user_namespaces") == "0":
		return "sysctl -w user.max_user_namespaces=15000"
	case errors.Is(err, unix.ENOSPC):
		return "user.max_user_namespaces (or the depth of 32 namespaces) is used up"
	case sysctl("kernel/unprivileged_userns_clone") == "0":
		return "sysctl -w kernel.unprivileged_userns_clone=1"
	case sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1":
		return "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or give strake an AppArmor profile with the rule «userns,»"
	case seccomp():
		return "the container's seccomp profile forbids it: run the container with --security-opt seccomp=unconfined"
	}
	return "the process may not: is it in a chroot?"
}

// sysctl returns a kernel setting, empty if there is none.
func sysctl(name string) string {
	data, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// idMap is a mapping of a user namespace.
type idMap []syscall.SysProcIDMap

func (m idMap) size() (n int) {
	for _, r := range m {
		n += r.Size
	}
	return n
}

// args are the arguments of newuidmap and newgidmap.
func (m idMap) args(pid int) []string {
	out := []string{strconv.Itoa(pid)}
	for _, r := range m {
		out = append(out, strconv.Itoa(r.ContainerID), strconv.Itoa(r.HostID), strconv.Itoa(r.Size))
	}
	return out
}

// mapping is what Enter maps, and with which programs; they are empty if this process may write the maps itself.
type mapping struct {
	uids, gids           idMap
	newuidmap, newgidmap string
}

// userMap finds the mapping for an ordinary user: root is the user itself, the other ids are its subordinate ones.
func userMap() (mapping, error) {
	var m mapping
	var err error
	if nnp, e := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); e == nil && nnp == 1 {
		return m, errors.New("no_new_privs is set, so newuidmap cannot work: run the container without --security-opt no-new-privileges (Kubernetes: allowPrivilegeEscalation: true)")
	}
	if m.newuidmap, err = helper("newuidmap"); err != nil {
		return m, err
	}
	if m.newgidmap, err = helper("newgidmap"); err != nil {
		return m, err
	}
	name := userName(os.Getuid())
	if m.uids, err = subIDs("/etc/subuid", "--add-subuids", name, os.Getuid(), os.Getuid()); err != nil {
		return m, err
	}
	m.gids, err = subIDs("/etc/subgid", "--add-subgids", name, os.Getuid(), os.Getgid())
	return m, err
}

// helper finds newuidmap or newgidmap and checks that it has the rights that it needs.
func helper(name string) (string, error) {
	file, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is missing: install the package uidmap (shadow-utils on Fedora)", name)
	}
	st, err := os.Stat(file)
	if err != nil {
		return "", fmt.Errorf("looking at %s: %w", file, err)
	}
	if st.Mode()&os.ModeSetuid != 0 {
		return file, nil
	}
	if n, err := unix.Getxattr(file, "security.capability", nil); err == nil && n > 0 {
		return file, nil
	}
	return "", fmt.Errorf("%s is neither setuid nor has capabilities: chmod u+s %s", file, file)
}

// userName returns the name of uid, or its number.
func userName(uid int) string {
	name := strconv.Itoa(uid)
	data, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return name
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Split(line, ":"); len(f) > 3 && f[2] == name {
			return f[0]
		}
	}
	return name
}

// maxSubIDs is the number of subordinate ids that are mapped: with the user's own one, 0 to 65536.
const maxSubIDs = 65536

// subIDs reads the subordinate ranges of a user (subuid(5)) and puts own at 0 before them.
func subIDs(file, option, name string, uid, own int) (idMap, error) {
	data, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("reading the subordinate ids: %w", err)
	}
	m, next := idMap{{ContainerID: 0, HostID: own, Size: 1}}, 1
	for line := range strings.Lines(string(data)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 || f[0] != name && f[0] != strconv.Itoa(uid) {
			continue
		}
		start, err1 := strconv.ParseUint(f[1], 10, 32)
		count, err2 := strconv.ParseUint(f[2], 10, 32)
		size := min(int(count), maxSubIDs+1-next)
		if err1 != nil || err2 != nil || size <= 0 {
			continue
		}
		m = append(m, syscall.SysProcIDMap{ContainerID: next, HostID: int(start), Size: size})
		next += size
	}
	if len(m) == 1 {
		return nil, fmt.Errorf("user %s has no subordinate ids in %s: usermod %s 100000-165535 %s (or add the line «%s:100000:65536»)", name, file, option, name, name)
	}
	return m, nil
}
