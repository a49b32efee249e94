package sandbox

import (
	"time"

	"github.com/strake-build/strake/runner/supervisor"
)

// Marker is the name (os.Args[0]) under which the program is executed as the
// init of a box.
const Marker = "strake-init"

// The descriptor that the parent gives the init.
const (
	// sockFD is one of a SOCK_SEQPACKET pair. First comes a message that carries standard input, output and error, a memfd with a Config as
	// JSON, and perhaps a network namespace; then signals come in and reports go out, until the init is free for the next box. Its end is the parent's death.
	sockFD = 3
)

// End comes in the place of a signal: it tells the init of a box without a pid namespace to kill what is in it, as the end of the parent does.
const End = 254

// Config is all that the init knows. It travels in a memfd: never in arguments or environment,
// which others on the host could read.
type Config struct {
	Root     Overlay
	ReadOnly bool   // the root is read-only for the step
	Attach   string // any host directory, over which file systems are mounted for a moment
	StubDir  string // an empty directory among Root's layers, for the mount points of Mounts; may be empty

	Mounts   []Mount
	Files    []Mount // hosts, resolv.conf, hostname: binds of Data, made before Mounts
	Loopback bool    // a network namespace of its own: bring lo up
	JoinNet  bool    // with Loopback: that namespace is given, as the fifth descriptor
	Hostname string  // empty: left alone
	// SharedPID: the box has no pid namespace. The init adopts and at the end kills what descends from it, and /proc is the one around.
	SharedPID bool
	// Chroot: no namespaces at all, with SharedPID. Root.Upper is a plain directory; what is mounted otherwise is put into it for the time
	// of the step. Binds are copies if they are read-only; directories that can be written are moved.
	Chroot bool
	Aside  string // a directory of this box's own, on the file system of the root, for what was there before
	UserNS bool   // in a user namespace: devices are bound, and sysfs if Loopback is false
	NoDev  bool   // device nodes in the root and in directories that are bound cannot be opened
	OneID  bool   // the user namespace has a single id

	Args, Env  []string
	Dir, User  string
	NullStdin  bool
	Terminal   bool
	Rows       uint16 // of the terminal
	Cols       uint16
	Filter     []byte               // seccomp program, as the kernel takes it; may be empty if Insecure
	UserFilter []byte               // in its place, where the step's user is not root; empty: the same
	Supervise  []supervisor.RuleSet // calls that Filter reports, for the init to answer
	Insecure   bool                 // all capabilities and devices, nothing masked
	ShmSize    int64                // of /dev/shm; 0 is the default
	Limits     []Limit
	Cgroup     bool // this process is in a control group for the box
	// Again: the init makes another box after this one, if it ends as it should (Report.Free).
	Again bool

	Groups []uint32 // more supplementary groups of the process
	Hooks  []Hook   // run while the host is still in sight, before the box lets go of it
	State  []byte   // what hooks read, all but the pid that they see
	Sync   bool     // report Created before Hooks and wait for GoOn
}

// Hook is a program of the host that is run in the box's namespaces; see runner.Hook for the meaning of the fields.
type Hook struct {
	Path      string
	Args, Env []string
	Timeout   time.Duration
}

// GoOn is what the parent writes instead of a signal when its answer to Created is to go on.
const GoOn = 0

// Limit is a resource limit of the step (setrlimit).
type Limit struct {
	Resource   int
	Soft, Hard uint64
}

// Overlay is a stack of layers.
type Overlay struct {
	Lower       []string // host directories, topmost first
	Upper, Work string   // empty: read-only
	UserXattr   bool
}

// Mount is one more file system in the box; see runner.Mount for the meaning of the fields.
type Mount struct {
	Type     string // "bind", "tmpfs" or "volume"
	Source   string
	Overlay  *Overlay
	Inside   string
	Target   string
	ReadOnly bool
	HasData  bool
	Data     []byte
	Mode     uint32
	Size     int64
	UID, GID int

	NoSuid, NoDev, NoExec bool // of a bind; a tmpfs is always without setuid and devices
}

// Kind says what a Report reports.
type Kind string

// The reports of an init, in the order in which they may come.
const (
	Created Kind = "created" // the box is made, and waits for GoOn
	Started Kind = "started" // the process runs; carries the terminal's master if there is one
	Failed  Kind = "failed"  // the box could not be made: Text
	NoStart Kind = "nostart" // the process could not be started: Code, Path, Text
	Ended   Kind = "ended"   // the process ended with the wait status Status
)

// Report is one message of the init to its parent.
type Report struct {
	Kind   Kind
	Text   string `json:",omitempty"`
	Path   string `json:",omitempty"`
	Code   int    `json:",omitempty"`
	Errno  int    `json:",omitempty"`
	Status uint32 `json:",omitempty"`
	Free   bool   `json:",omitempty"` // with Ended: the init waits for the next box
}
