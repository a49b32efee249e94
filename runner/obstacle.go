package runner

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/runner/seccomp"
)

// Obstacle is what is in the way of a rung. It is an error: one line for people, with the setting to change.
type Obstacle struct {
	What string // what was being done; empty if nothing had to be tried
	Call string // the system call or the program that failed; empty if none did
	Err  error  // what it returned
	Why  string // what is behind it; may be empty
	Fix  string // the command or setting that mends it; empty if there is none
	// NotRoot: this rung is for another user, so nothing is amiss.
	NotRoot bool
}

func (o *Obstacle) Error() string {
	var parts []string
	if o.What != "" {
		parts = append(parts, o.What)
	}
	if o.Err != nil {
		parts = append(parts, o.Err.Error())
	}
	for _, p := range []string{o.Why, o.Fix} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, ": ")
}

func (o *Obstacle) Unwrap() error { return o.Err }

// Capabilities by number (linux/capability.h).
const (
	capChown       = 0
	capDACOverride = 1
	capFowner      = 3
	capFsetid      = 4
	capKill        = 5
	capSetgid      = 6
	capSetuid      = 7
	capSetpcap     = 8
	capSysChroot   = 18
	capSysAdmin    = 21
	capMknod       = 27
	capSetfcap     = 31
)

// ownersNeed are the capabilities without which files of a layer would fail, or lose owners, modes (set-group-ID bits) or capabilities.
const ownersNeed uint64 = 1<<capChown | 1<<capDACOverride | 1<<capFowner | 1<<capFsetid | 1<<capSetfcap

// chrootNeeds are those without which there is no box by chroot: it would lack devices, keep capabilities or leave processes behind.
const chrootNeeds = ownersNeed | 1<<capKill | 1<<capSetgid | 1<<capSetuid | 1<<capSetpcap | 1<<capMknod

// machine is what is known of this process and its kernel: what says why a system call may have failed.
type machine struct {
	uid, euid, gid int
	userNS         bool // it is in another user namespace than the first one
	ids            int  // how many ids its user namespace has
	seccomp        bool // a filter is on it
	noNewPrivs     bool
	caps           uint64 // the effective capabilities
	bounding       uint64 // those that a program may get
	apparmor       string // its profile, "" without AppArmor
	sysctl         func(name string) string
}

// thisMachine finds out what there is to know of the process and its machine.
func thisMachine() machine {
	m := machine{uid: os.Getuid(), euid: os.Geteuid(), gid: os.Getgid(), sysctl: sysctl, userNS: inUserNS()}
	if ids, err := ownIDs("/proc/self/uid_map"); err == nil {
		m.ids = ids.size()
	}
	mode, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0)
	m.seccomp = err != nil || mode != 0
	nnp, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	m.noNewPrivs = err == nil && nnp == 1
	if data, err := os.ReadFile("/proc/self/status"); err == nil {
		for line := range strings.Lines(string(data)) {
			name, value, _ := strings.Cut(line, ":")
			switch name {
			case "CapEff":
				_, _ = fmt.Sscanf(value, "%x", &m.caps)
			case "CapBnd":
				_, _ = fmt.Sscanf(value, "%x", &m.bounding)
			}
		}
	}
	if data, err := os.ReadFile("/proc/self/attr/apparmor/current"); err == nil {
		m.apparmor = strings.TrimRight(string(data), "\n\x00")
	}
	return m
}

// initUserNS is the first user namespace (PROC_USER_INIT_INO in the kernel's sources).
const initUserNS = "user:[4026531837]"

// inUserNS says whether this process is in another user namespace than the first one.
func inUserNS() bool {
	name, err := os.Readlink("/proc/self/ns/user")
	return err == nil && name != initUserNS
}

// sysctl returns a kernel setting, empty if there is none.
func sysctl(name string) string {
	data, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

func (m machine) has(capability int) bool { return m.caps&(1<<capability) != 0 }

// lacking says which capabilities of a set this root has not; nil if it has all.
func (m machine) lacking(set uint64) *Obstacle {
	names := seccomp.Names(set &^ m.caps)
	if len(names) == 0 {
		return nil
	}
	o := &Obstacle{Why: "this root has no " + strings.Join(names, ", "), Fix: "run the container with"}
	for _, name := range names {
		o.Fix += " --cap-add " + strings.TrimPrefix(name, "CAP_")
	}
	o.Fix += " (Kubernetes: securityContext.capabilities.add)"
	return o
}

// confined says whether an AppArmor profile restricts this process: one that only gives it a name does not ("strake (unconfined)").
func (m machine) confined() bool {
	return m.apparmor != "" && m.apparmor != "unconfined" && !strings.HasSuffix(m.apparmor, "(unconfined)")
}

// What people are told to change where a container is the obstacle.
const (
	fixPrivileged  = "run the container with --privileged (Kubernetes: securityContext.privileged: true)"
	fixSeccomp     = "run the container with --security-opt seccomp=unconfined (Kubernetes: securityContext.seccompProfile.type: Unconfined)"
	fixAppArmor    = "run the container with --security-opt apparmor=unconfined (Kubernetes: securityContext.appArmorProfile.type: Unconfined)"
	fixRestriction = "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or give strake an AppArmor profile with the rule «userns,»"
	whyKernel      = "Linux 5.12 or newer is needed"
)

// hint says what is behind the failure of what a box needs, of a process that has the rights of root in its namespace: of root (the rung root), or
// of what made a user namespace (inside).
func (m machine) hint(a attempt, errno unix.Errno, inside bool) *Obstacle {
	o := &Obstacle{What: a.what, Call: a.call, Err: errno}
	restricted := m.sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1"
	switch {
	case errno == unix.ENOSYS && m.seccomp:
		o.Why, o.Fix = whyKernel+", or a container's seccomp profile forbids it", fixSeccomp
	case errno == unix.ENOSYS:
		o.Why = whyKernel
	case errno == unix.ENODEV && a.call == "mount":
		o.Why, o.Fix = "the kernel has no such file system", "modprobe overlay"
	case errno != unix.EPERM && errno != unix.EACCES:
	case inside && restricted && !m.has(capSysAdmin):
		o.Why, o.Fix = "AppArmor forbids privileges in user namespaces", fixRestriction
	case !inside && !m.has(capSysAdmin):
		o.Why, o.Fix = "this root has no CAP_SYS_ADMIN", fixPrivileged
	case m.confined() && a.call != "pivot_root":
		o.Why, o.Fix = fmt.Sprintf("the AppArmor profile %s forbids it", m.apparmor), fixAppArmor
	case m.seccomp:
		o.Why, o.Fix = "the container's seccomp profile forbids it", fixSeccomp
	default:
		o.Why = "something forbids privileges in user namespaces"
		if !inside {
			o.Why = "a security module forbids it"
		}
	}
	return o
}

// cloneHint says what is behind a namespace that cannot be made.
func (m machine) cloneHint(err error, user bool) *Obstacle {
	if !user {
		o := &Obstacle{What: "making a mount namespace", Call: "clone", Err: err}
		switch {
		case errors.Is(err, unix.ENOSPC):
			o.Why, o.Fix = "user.max_mnt_namespaces or another limit of namespaces is used up", "sysctl -w user.max_mnt_namespaces=15000 user.max_pid_namespaces=15000"
		case !errors.Is(err, unix.EPERM):
		case !m.has(capSysAdmin):
			o.Why, o.Fix = "this root has no CAP_SYS_ADMIN", fixPrivileged
		case m.seccomp:
			o.Why, o.Fix = "the container's seccomp profile forbids it", fixSeccomp
		}
		return o
	}
	o := &Obstacle{What: "making a user namespace", Call: "clone", Err: err}
	switch {
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) && !m.seccomp:
		o.Why = "the kernel has no user namespaces (CONFIG_USER_NS)"
	case m.sysctl("user/max_user_namespaces") == "0":
		o.Why, o.Fix = "user.max_user_namespaces is 0", "sysctl -w user.max_user_namespaces=15000"
	case errors.Is(err, unix.ENOSPC):
		o.Why, o.Fix = "user.max_user_namespaces (or the depth of 32 namespaces) is used up", "sysctl -w user.max_user_namespaces=30000"
	case m.sysctl("kernel/unprivileged_userns_clone") == "0" && !m.has(capSysAdmin):
		o.Why, o.Fix = "kernel.unprivileged_userns_clone is 0", "sysctl -w kernel.unprivileged_userns_clone=1"
	case m.sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1" && !m.seccomp:
		o.Why, o.Fix = "AppArmor forbids user namespaces", fixRestriction
	case m.seccomp:
		o.Why, o.Fix = "the container's seccomp profile forbids it", fixSeccomp
	case m.confined():
		o.Why, o.Fix = fmt.Sprintf("the AppArmor profile %s forbids it", m.apparmor), fixAppArmor
	default:
		o.Why = "the process may not: is it in a chroot?"
	}
	return o
}

// userNSHint says which setting is in the way of user namespaces.
func userNSHint(err error) string {
	o := thisMachine().cloneHint(err, true)
	o.What, o.Err = "", nil
	return o.Error()
}
