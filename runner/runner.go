// Package runner runs one process in a box: a root file system, namespaces,
// Docker's default capabilities and seccomp profile, and nothing else of the host.
//
// The box is this program itself, executed again (package sandbox is the child's
// side): no runc, no helper binary. Everything the process started is gone when
// Run returns, and also when strake is killed.
package runner

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// Rung is a level of the isolation ladder.
type Rung string

// The rungs that are built. With Auto, Choose takes the best that works.
const (
	Auto     Rung = "auto"
	Root     Rung = "root"     // real root with mounts
	Rootless Rung = "rootless" // a user namespace
	Chroot   Rung = "chroot"   // root that may neither mount nor make namespaces, as in a container with Docker's defaults
	None     Rung = "none"     // no process can be run at all: builds without RUN work
)

// Overlay says how the root file system is stacked: host paths, topmost first.
type Overlay struct {
	Lower       []string
	Upper, Work string // empty: read-only
	UserXattr   bool
}

// MountType is the kind of a Mount.
type MountType string

// The kinds of mounts.
const (
	Bind  MountType = "bind"
	Tmpfs MountType = "tmpfs"
	// Volume is a directory of the root by itself: it can be written where the root is read-only. It has a Target only.
	Volume MountType = "volume"
)

// Mount is one more file system in the box.
type Mount struct {
	Type   MountType
	Source string // host path, for Bind; with Overlay, a path in that, its links resolved inside
	// Target is an absolute path, resolved inside the root and what is mounted before. It is made if it is missing, and removed
	// after Run if it was made in the root; in another mount it stays.
	Target   string
	ReadOnly bool
	Data     []byte // if not nil, for Bind: a file with this content and mode instead of Source
	Mode     uint32 // permissions of Data's file, or of the tmpfs: 0 for those of the directory that it hides
	Size     int64  // of the tmpfs, in bytes; 0 is the kernel's default
	// Overlay, for Bind, is a file system of its own that Source is a path in: files of another stage.
	Overlay *Overlay
	// Inside, for Bind, is a path in Source, which is then not the host's to trust: links in it are resolved inside Source.
	Inside   string
	UID, GID int // of Data's file, or of the tmpfs
	// NoSuid, NoDev and NoExec restrict a mount as mount(8) says; a tmpfs is always without setuid programs and devices.
	NoSuid, NoDev, NoExec bool
}

// Network is what of the network a box sees.
type Network string

// The networks.
const (
	HostNetwork   Network = "host"
	NoNetwork     Network = "none"   // loopback only
	BridgeNetwork Network = "bridge" // a private one with a way out; see package network
)

// Sandbox is the box. Root and the network are mandatory.
type Sandbox struct {
	Root       Overlay
	ReadOnly   bool // the root is mounted read-only
	Mounts     []Mount
	Network    Network
	Hostname   string   // empty leaves the machine's
	ExtraHosts []string // lines of /etc/hosts, "IP\tNAME"
	// Stubs is a directory of strake's own for mount points (/etc/resolv.conf …): what is in it are the lowest layers, so that the
	// upper never contains them. It is filled when empty. A root that has no /proc, /sys or /dev gets these in its upper, for good, unless it
	// is read-only: that is what BuildKit does.
	Stubs string
	// Container: a container that a person runs, not a step of a build. /etc/hostname is bound as well, and it, hosts
	// and resolv.conf can be written if the root can (a build step cannot write them), as docker run and docker build have it.
	Container bool
	// Insecure gives the process all capabilities, all devices, and a writable /sys and /proc, without seccomp (RUN --security=insecure).
	Insecure bool
	ShmSize  int64 // of /dev/shm, in bytes; 0 is 64 MiB
	Ulimits  []Ulimit
	// Limits need a control group. Where none can be made, Run fails.
	Limits Limits
	// Secrets says that the box has files or variables that other boxes must not see: what was told of them ends with its init.
	Secrets bool
	// Hooks are programs of the host. They come from its administrator, never from what is built.
	Hooks []Hook
}

// Process is what runs in the box.
type Process struct {
	Args []string // Args[0] is looked up in the PATH of Env
	Env  []string // NAME=VALUE; see JoinEnv
	Dir  string   // working directory, made if missing
	User string   // user[:group], names looked up in the root's /etc/passwd and /etc/group; empty is 0:0

	Groups []uint32 // more supplementary groups than those of User

	Stdin          io.Reader // nil is /dev/null
	Stdout, Stderr io.Writer
	// Terminal, if not nil, is strake's own terminal: the process gets a pseudo terminal, which is joined to it in raw
	// mode, its size followed. Stdin, Stdout and Stderr are not used then.
	Terminal *os.File
	// OutputOnly leaves what is typed at Terminal to strake, and its mode as it is; it may be any file then.
	OutputOnly bool
	Signals    <-chan os.Signal // passed on to the process; may be nil
}

// JoinEnv joins lists of variables, as NAME=VALUE, for Process.Env. A later one takes the place of an earlier one of its name.
func JoinEnv(lists ...[]string) []string {
	var env []string
	at := make(map[string]int) // the places of names in env
	for _, kv := range slices.Concat(lists...) {
		name, _, _ := strings.Cut(kv, "=")
		if i, ok := at[name]; ok {
			env[i] = kv
			continue
		}
		at[name] = len(env)
		env = append(env, kv)
	}
	return env
}

// ExitError says that the process ended with another code than 0.
type ExitError struct {
	Code   int       // 128+signal for a signal
	Signal os.Signal // nil if it exited
	OOM    bool      // killed for want of memory
}

func (e *ExitError) Error() string {
	text := fmt.Sprintf("exit code: %d", e.Code)
	if e.Signal != nil {
		text = fmt.Sprintf("killed by signal: %v", e.Signal)
	}
	if e.OOM {
		text += ": out of memory"
	}
	return text
}

// StartError says that the process could not be started: its code is 127 if the program was not
// found and 126 if it could not be executed, as in a shell.
type StartError struct {
	Code int
	Path string
	Err  error
}

func (e *StartError) Error() string { return fmt.Sprintf("starting %s: %v", e.Path, e.Err) }

func (e *StartError) Unwrap() error { return e.Err }
