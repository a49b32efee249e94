package supervisor

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// relatives keeps a step without a pid namespace among its own: calls that name a process reach the step's only, others are as if they were not
// there.
type relatives struct{ family *Family }

// processRules ask for calls that change how another process runs. Making a process is not among them: a call that is asked for can be
// interrupted by a signal, and no program expects that of fork(2).
const processRules = `{"syscalls": [
	{"names": ["setpriority", "ioprio_set"], "action": "SCMP_ACT_NOTIFY", "args": [{"index": 1, "value": 0, "op": "SCMP_CMP_NE"}]},
	{"names": ["setpriority"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]},
	{"names": ["ioprio_set"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 3, "op": "SCMP_CMP_EQ"}]},
	{"names": ["prlimit64", "sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr"], "action": "SCMP_ACT_NOTIFY",
		"args": [{"index": 0, "value": 0, "op": "SCMP_CMP_NE"}]}
]}`

// signalRules ask for calls that signal or look into another process (16 and 16902 are PTRACE_ATTACH and PTRACE_SEIZE). Where Landlock has scopes, the kernel does that itself.
const signalRules = `{"syscalls": [
	{"names": ["kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_open"], "action": "SCMP_ACT_NOTIFY"},
	{"names": ["process_vm_readv", "process_vm_writev"], "action": "SCMP_ACT_NOTIFY"},
	{"names": ["ptrace"], "action": "SCMP_ACT_NOTIFY", "args": [{"index": 0, "value": 16, "op": "SCMP_CMP_EQ"}]},
	{"names": ["ptrace"], "action": "SCMP_ACT_NOTIFY", "args": [{"index": 0, "value": 16902, "op": "SCMP_CMP_EQ"}]}
]}`

func (r *relatives) calls() map[string]handler {
	first := func(q *request) (int64, error) { return 0, r.only(int(int32(q.args[0]))) }
	second := func(q *request) (int64, error) { return 0, r.only(int(int32(q.args[1]))) }
	return map[string]handler{
		"kill": r.kill, "tkill": first, "tgkill": first, "rt_sigqueueinfo": first, "rt_tgsigqueueinfo": first, "pidfd_open": first,
		"setpriority": r.priority, "ioprio_set": r.ioPriority, "ptrace": second,
		"prlimit64": first, "sched_setaffinity": first, "sched_setscheduler": first, "sched_setparam": first, "sched_setattr": first,
		"process_vm_readv": first, "process_vm_writev": first,
	}
}

func (r *relatives) prepare(*Supervisor) error { return nil }

func (r *relatives) end() error { return nil }

// only leaves a call to the kernel if it is about a process of the step. Numbers that are none are for the kernel to refuse.
func (r *relatives) only(pid int) error {
	if pid <= 0 || r.family.has(pid) {
		return errKernel
	}
	return unix.ESRCH
}

// The first arguments of setpriority(2) and ioprio_set(2).
const (
	prioProcess   = 0
	ioprioProcess = 1
)

func (r *relatives) priority(q *request) (int64, error) {
	return 0, r.processOrGroup(int(int32(q.args[1])), q.args[0] == prioProcess)
}

func (r *relatives) ioPriority(q *request) (int64, error) {
	return 0, r.processOrGroup(int(int32(q.args[1])), q.args[0] == ioprioProcess)
}

func (r *relatives) processOrGroup(id int, process bool) error {
	if process {
		return r.only(id)
	}
	return r.group(id)
}

// group leaves a call to the kernel if it is about a group of the step's processes. A group does not reach beyond its session, and the step's sessions
// are its own.
func (r *relatives) group(id int) error {
	all, err := r.family.all()
	if err != nil {
		return unix.EPERM
	}
	for _, p := range all {
		if p.group == id {
			return errKernel
		}
	}
	return unix.ESRCH
}

func (r *relatives) kill(q *request) (int64, error) {
	pid, s := int(int32(q.args[0])), unix.Signal(q.args[1])
	switch {
	case pid == -1:
		return 0, r.killAll(q, s)
	case pid < 0:
		return 0, r.group(-pid)
	}
	return 0, r.only(pid)
}

// killAll does what the kernel does for kill(-1): all processes but the caller that it may signal. The kernel would reach all of the container.
func (r *relatives) killAll(q *request, s unix.Signal) error {
	all, err := r.family.all()
	if err != nil {
		return unix.EPERM
	}
	own, uid, err := r.caller(q)
	if err != nil {
		return err
	}
	if err := q.valid(); err != nil {
		return err
	}
	result := unix.ESRCH
	for _, p := range all {
		if p.pid == own {
			continue
		}
		if uid != 0 && r.owner(p.pid) != uid {
			if result == unix.ESRCH {
				result = unix.EPERM
			}
			continue
		}
		if r.family.signal(p.pid, s) == nil {
			result = 0
		}
	}
	if result == 0 {
		return nil
	}
	return result
}

// caller returns the process of the calling thread, and its user.
func (r *relatives) caller(q *request) (pid int, uid uint32, err error) {
	fd, err := unix.Openat(r.family.proc, strconv.Itoa(int(q.pid))+"/status", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, 0, unix.ESRCH
	}
	f := os.NewFile(uintptr(fd), "status")
	defer f.Close()
	return parseOwner(f)
}

// owner returns the user of a process; one that is gone has none.
func (r *relatives) owner(pid int) uint32 {
	fd, err := unix.Openat(r.family.proc, strconv.Itoa(pid)+"/status", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ^uint32(0)
	}
	f := os.NewFile(uintptr(fd), "status")
	defer f.Close()
	_, uid, err := parseOwner(f)
	if err != nil {
		return ^uint32(0)
	}
	return uid
}

func parseOwner(f *os.File) (pid int, uid uint32, err error) {
	var buf [1024]byte
	n, err := f.Read(buf[:])
	if err != nil {
		return 0, 0, unix.ESRCH
	}
	return statusOwner(string(buf[:n]))
}

// statusOwner finds the process id and the real user in /proc/PID/status.
func statusOwner(text string) (pid int, uid uint32, err error) {
	found := 0
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, ":")
		if key != "Tgid" && key != "Uid" {
			continue
		}
		f := strings.Fields(value)
		if len(f) == 0 {
			return 0, 0, unix.EINVAL
		}
		n, err := strconv.ParseUint(f[0], 10, 32)
		if err != nil {
			return 0, 0, unix.EINVAL
		}
		if found++; key == "Tgid" {
			pid = int(n)
		} else {
			uid = uint32(n)
		}
	}
	if found != 2 {
		return 0, 0, unix.EINVAL
	}
	return pid, uid, nil
}
