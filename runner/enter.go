package runner

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The names (os.Args[0]) of the two children of Enter. The first waits, without any rights, for the ids of its user
// namespace; executing the program again makes it root there, under the second name: that carries the pid of the
// process outside and the name that strake had.
const (
	waitMarker    = "strake-userns:" // and the number of the descriptor that says that the ids are mapped
	enteredMarker = "strake-entered:"
)

// Enter makes sure that this process has the privileges of i. On Rootless, outside the namespace, it executes
// this program again with the same arguments in a new user and mount namespace (newuidmap, newgidmap), passes signals on,
// and exits with the child's code: it does not return then. Otherwise it returns at once.
//
// Before it returns in the child, Main has set up what the child needs; Choose there finds Rootless with UserNS.
func Enter(i Isolation) error {
	if i.Rung != Rootless || i.UserNS {
		_ = keepFiles() // where it is not allowed, nothing is lost but a precaution
		return nil
	}
	m, err := mappingFor(i.OneID)
	if err != nil {
		return fmt.Errorf("entering a user namespace: %w", err)
	}
	code, err := enter(m)
	if err != nil {
		return fmt.Errorf("entering a user namespace: %w", err)
	}
	os.Exit(code)
	return nil
}

// enter runs this program in a user namespace with the ids of m and returns its exit code.
func enter(m mapping) (int, error) {
	// From now on: a signal that comes before the child is there must not be lost.
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT, unix.SIGHUP, unix.SIGWINCH, unix.SIGUSR1, unix.SIGUSR2)

	runtime.LockOSThread() // the child dies with the thread that made it
	defer runtime.UnlockOSThread()
	start := startMapped
	if m.newuidmap == "" && m.uids.size() == 1 {
		start = startOne
	}
	child, err := start(m)
	if err != nil {
		return 0, err
	}
	go func() {
		for s := range signals {
			if !fromTerminal(s) {
				_ = child.Signal(s)
			}
		}
	}()
	state, err := child.Wait()
	signal.Stop(signals)
	if err != nil {
		return 0, fmt.Errorf("waiting for the child: %w", err)
	}
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return state.ExitCode(), nil
}

// inherited returns the descriptors that a program which is executed now gets, by their numbers: standard input, output and error, and
// what else strake was given, such as the pipes of a shell's <(…), which an argument may name. Those that are to be closed are -1.
func inherited() ([]uintptr, error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, fmt.Errorf("listing the open files: %w", err)
	}
	files := []uintptr{0, 1, 2}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd < len(files) && fd < 3 {
			continue
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 { // strake's own
			continue
		}
		for len(files) <= fd {
			files = append(files, ^uintptr(0))
		}
		files[fd] = uintptr(fd)
	}
	return files, nil
}

// startMapped executes this program again in a user namespace, maps the ids of m, and lets it go on.
func startMapped(m mapping) (*os.Process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	defer w.Close()
	files, err := inherited()
	if err != nil {
		r.Close()
		return nil, err
	}
	args := append([]string{waitMarker + strconv.Itoa(len(files)), os.Args[0]}, os.Args[1:]...)
	child, err := again(args, append(files, r.Fd()), &syscall.SysProcAttr{})
	r.Close()
	if err != nil {
		return nil, err
	}
	if err = m.write(child.Pid); err == nil {
		if _, err = w.WriteString(strconv.Itoa(os.Getpid())); err != nil {
			err = fmt.Errorf("telling the child to go on: %w", err)
		}
	}
	if err != nil {
		_ = child.Kill()
		_, _ = child.Wait()
		return nil, err
	}
	return child, nil
}

// startOne executes this program again in a user namespace with the one id of m. The kernel learns it before the program begins, so that this works with
// no_new_privs too: nothing gains rights by being executed.
func startOne(m mapping) (*os.Process, error) {
	files, err := inherited()
	if err != nil {
		return nil, err
	}
	args := append([]string{enteredMarker + strconv.Itoa(os.Getpid()) + ":" + os.Args[0]}, os.Args[1:]...)
	return again(args, files, &syscall.SysProcAttr{UidMappings: m.uids, GidMappings: m.gids})
}

// again executes this program in new namespaces, with args and files. Other than os.StartProcess, it leaves files as they
// are that others share: that would make those block that do not.
func again(args []string, files []uintptr, attr *syscall.SysProcAttr) (*os.Process, error) {
	attr.Cloneflags, attr.Pdeathsig = unix.CLONE_NEWUSER|unix.CLONE_NEWNS, unix.SIGKILL
	pid, err := syscall.ForkExec(selfPath, args, &syscall.ProcAttr{Env: os.Environ(), Files: files, Sys: attr}) //nolint:gosec // this program with its own arguments
	if err != nil {
		return nil, fmt.Errorf("starting the program again: %w: %s", err, userNSHint(err))
	}
	child, err := os.FindProcess(pid)
	if err != nil {
		return nil, fmt.Errorf("starting the program again: %w", err)
	}
	return child, nil
}

// fromTerminal says whether s is a signal of the kind that a terminal sends to all of its foreground group, and this
// process is in it: then the child, which is in the same group, has it already, and a second one could mean more than the first.
func fromTerminal(s os.Signal) bool {
	if s != unix.SIGINT && s != unix.SIGQUIT && s != unix.SIGWINCH {
		return false
	}
	fd, err := unix.Open("/dev/tty", unix.O_RDONLY|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// write maps the ids of the namespace that pid is in.
func (m mapping) write(pid int) error {
	if m.newuidmap == "" {
		if m.gids.size() == 1 {
			// Without this the kernel lets nobody map his own group alone.
			if err := os.WriteFile(fmt.Sprintf("/proc/%d/setgroups", pid), []byte("deny"), 0); err != nil {
				return fmt.Errorf("mapping ids: %w", err)
			}
		}
		for _, f := range []struct {
			name string
			ids  idMap
		}{{"gid_map", m.gids}, {"uid_map", m.uids}} {
			var text strings.Builder
			for _, r := range f.ids {
				fmt.Fprintf(&text, "%d %d %d\n", r.ContainerID, r.HostID, r.Size)
			}
			if err := os.WriteFile(fmt.Sprintf("/proc/%d/%s", pid, f.name), []byte(text.String()), 0); err != nil {
				return fmt.Errorf("mapping ids: %w", err)
			}
		}
		return nil
	}
	for _, c := range []*exec.Cmd{exec.Command(m.newuidmap, m.uids.args(pid)...), exec.Command(m.newgidmap, m.gids.args(pid)...)} {
		var text bytes.Buffer
		c.Stdout, c.Stderr = &text, &text
		if err := c.Run(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(c.Args, " "), err, bytes.TrimSpace(text.Bytes()))
		}
	}
	return nil
}

// waitForIDs is the first child of Enter.
func waitForIDs() error {
	if len(os.Args) < 2 {
		return errors.New("arguments are missing")
	}
	fd, err := strconv.Atoi(strings.TrimPrefix(os.Args[0], waitMarker))
	if err != nil {
		return fmt.Errorf("reading the number of the pipe: %w", err)
	}
	pipe := os.NewFile(uintptr(fd), "pipe")
	data, err := io.ReadAll(pipe)
	if err != nil || len(data) == 0 {
		return errors.New("the process outside is gone")
	}
	pipe.Close()
	args := append([]string{enteredMarker + string(data) + ":" + os.Args[1]}, os.Args[2:]...)
	return unix.Exec("/proc/self/exe", args, os.Environ())
}

// keepFiles keeps what strake was given, such as the pipe of a secret, from what it executes: git, hooks, credential helpers.
func keepFiles() error {
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("keeping descriptors: %w", err)
	}
	return nil
}

// entered is the start of the second child: it takes its old name, dies with the process outside, and has mounts of
// its own that see those of the host come and go.
func entered() error {
	if err := keepFiles(); err != nil {
		return err
	}
	pid, name, _ := strings.Cut(strings.TrimPrefix(os.Args[0], enteredMarker), ":")
	os.Args[0] = name
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("tying the process to the one outside: %w", err)
	}
	if strconv.Itoa(os.Getppid()) != pid {
		return errors.New("the process outside is gone")
	}
	// Gaining rights made the process one that cannot be looked into, even by itself.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("making the process dumpable: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("separating the mounts: %w", err)
	}
	return nil
}
