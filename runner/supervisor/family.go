package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Family is all that descends from this process. In a box without a pid namespace it takes the place of one: the init adopts orphans (it is
// a child subreaper), so whatever the step starts stays its descendant, and the init kills them all at the end.
type Family struct {
	proc int // a proc file system of this process's pid namespace, O_PATH
}

// relative is a process as /proc/PID/stat shows it.
type relative struct {
	pid, parent, group int
	state              byte
}

// NewFamily makes this process the one that orphans go to.
func NewFamily() (*Family, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("adopting orphans: %w", err)
	}
	proc, err := unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening /proc: %w", err)
	}
	return &Family{proc: proc}, nil
}

// Proc is the proc file system that shows the family, O_PATH.
func (f *Family) Proc() int { return f.proc }

// read returns what is known of a process, or of a thread, which looks like its process.
func (f *Family) read(pid int) (relative, error) {
	fd, err := unix.Openat(f.proc, strconv.Itoa(pid)+"/stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return relative{}, err
	}
	defer unix.Close(fd)
	var buf [512]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		return relative{}, err
	}
	return parseStat(pid, buf[:n])
}

// parseStat parses /proc/PID/stat (proc_pid_stat(5)): the name of the program, in parentheses, may hold anything.
func parseStat(pid int, text []byte) (relative, error) {
	end := bytes.LastIndexByte(text, ')')
	if end < 0 {
		return relative{}, unix.ESRCH
	}
	fields := bytes.Fields(text[end+1:])
	if len(fields) < 4 {
		return relative{}, unix.ESRCH
	}
	r := relative{pid: pid, state: fields[0][0]}
	var err1, err2 error
	r.parent, err1 = strconv.Atoi(string(fields[1]))
	r.group, err2 = strconv.Atoi(string(fields[2]))
	return r, errors.Join(err1, err2)
}

// all returns the descendants of this process.
func (f *Family) all() ([]relative, error) {
	fd, err := unix.Openat(f.proc, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	dir := os.NewFile(uintptr(fd), "/proc")
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	children := map[int][]relative{}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if r, err := f.read(pid); err == nil {
			children[r.parent] = append(children[r.parent], r)
		}
	}
	found := children[os.Getpid()]
	for i := 0; i < len(found); i++ {
		found = append(found, children[found[i].pid]...)
	}
	return found, nil
}

// maxDepth limits how many parents of a process are looked at.
const maxDepth = 1 << 16

// alive says whether there is a process pid, whosever.
func (f *Family) alive(pid int) bool {
	_, err := f.read(pid)
	return err == nil
}

// has says whether pid is a descendant of this process.
func (f *Family) has(pid int) bool {
	for range maxDepth {
		r, err := f.read(pid)
		if err != nil || r.parent <= 1 && os.Getpid() != r.parent {
			return false
		}
		if r.parent == os.Getpid() {
			return true
		}
		pid = r.parent
	}
	return false
}

// kill kills all descendants that there are now, and returns how many. First come the children of this process, which can be found faster than a
// process forks and exits: who wants to get away that way has no parent.
func (f *Family) kill() int {
	n := 0
	for range 4 {
		n += f.killChildren()
	}
	all, err := f.all()
	if err != nil {
		return n
	}
	for _, r := range all {
		if f.signal(r.pid, unix.SIGKILL) == nil {
			n++
		}
	}
	return n
}

// killChildren kills the children of this process. Their pids stay theirs until this process buries them; should that happen meanwhile, signal
// finds out.
func (f *Family) killChildren() int {
	dir, err := unix.Openat(f.proc, "self/task", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	tasks := os.NewFile(uintptr(dir), "task")
	defer tasks.Close()
	names, err := tasks.Readdirnames(-1)
	if err != nil {
		return 0
	}
	n := 0
	for _, name := range names {
		fd, err := unix.Openat(dir, name+"/children", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue // a kernel without CONFIG_PROC_CHILDREN
		}
		buf := make([]byte, 1<<14)
		got, _ := unix.Read(fd, buf)
		unix.Close(fd)
		for _, word := range bytes.Fields(buf[:max(got, 0)]) {
			if pid, err := strconv.Atoi(string(word)); err == nil && f.signal(pid, unix.SIGKILL) == nil {
				n++
			}
		}
	}
	return n
}

// signal sends a signal to pid if it is a descendant of this process when it gets it.
func (f *Family) signal(pid int, s unix.Signal) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// The pid may have become another's since it was found; now it cannot any more.
	if !f.has(pid) {
		return unix.ESRCH
	}
	return unix.PidfdSendSignal(fd, s, nil, 0)
}

// pause is how long to wait for processes that are about to be seen, or to end.
const pause = time.Millisecond

// End kills all descendants and buries them; those that they start meanwhile as well.
func (f *Family) End() error {
	for {
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG|unix.WALL, nil)
			if errors.Is(err, unix.ECHILD) {
				return nil // and so nobody has orphans that could come here
			}
			if err != nil && !errors.Is(err, unix.EINTR) {
				return fmt.Errorf("waiting for what the step left behind: %w", err)
			}
			if pid == 0 {
				break
			}
		}
		if f.kill() == 0 {
			time.Sleep(pause)
			continue
		}
		var info unix.Siginfo
		if err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOWAIT|unix.WALL, nil); err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ECHILD) {
			return fmt.Errorf("waiting for what the step left behind: %w", err)
		}
	}
}

// WatchEnd kills what there is of the step, again and again, until the init has seen it and ends.
func (f *Family) WatchEnd() {
	for {
		f.kill()
		time.Sleep(pause)
	}
}
