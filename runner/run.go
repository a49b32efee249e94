package runner

import (
	"context"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/runner/network"
	"github.com/strake-build/strake/runner/sandbox"
	"github.com/strake-build/strake/runner/seccomp"
	"github.com/strake-build/strake/runner/supervisor"
)

// Linux runs boxes on this kernel. It must not be copied.
type Linux struct {
	Isolation Isolation
	// Dir holds what a running box needs on disk (mode 0700); what dead processes have left in it is removed by Sweep. It should be on the
	// file system of the layers.
	Dir string

	once   sync.Once
	err    error
	exe    *os.File // this program, through a read-only mount
	filter []byte   // the seccomp program
	open   []byte   // that of a box without restrictions; nil if it needs none
	// With one id, those of steps that begin as another user than root.
	userFilter, userOpen []byte
	oom                  oomFile
	guard                guard
	turns                turns
	inits                chan spawned  // from start
	free                 chan spawned  // that have made a box and can make another
	quit                 chan struct{} // ends start
	ended                chan struct{} // when start has ended
}

// prepare does what all boxes need, once.
func (l *Linux) prepare() error {
	l.once.Do(func() {
		if l.err = l.Isolation.CheckRun(); l.err != nil {
			return
		}
		if l.err = l.compile(); l.err != nil {
			return
		}
		if l.exe, l.err = openSelf(); l.err != nil {
			return
		}
		if l.err = l.hide(); l.err != nil {
			return
		}
		l.oom = findOOM()
		if l.err = l.sweepNetwork(); l.err != nil {
			return
		}
		l.guard, l.turns = l.newGuard(), newTurns(l.Isolation)
		l.inits, l.quit, l.ended = make(chan spawned), make(chan struct{}), make(chan struct{})
		l.free = make(chan spawned, maxFree)
		go l.start()
	})
	return l.err
}

// compile makes the filters of boxes.
func (l *Linux) compile() (err error) {
	if l.filter, err = supervisor.Filter(seccomp.Capabilities, l.ruleSets()...); err != nil {
		return err
	}
	if sets := l.supervisedOpen(); len(sets) > 0 {
		if l.open, err = supervisor.OpenFilter(sets...); err != nil {
			return err
		}
	}
	if !l.Isolation.OneID {
		return nil
	}
	if l.userFilter, err = supervisor.Filter(seccomp.Capabilities, append(l.ruleSets(), supervisor.Users)...); err != nil {
		return err
	}
	l.userOpen, err = supervisor.OpenFilter(append(l.supervisedOpen(), supervisor.Users)...)
	return err
}

// supervised says what the init of a box has to do in the kernel's place.
func (l *Linux) supervised() []supervisor.RuleSet {
	var sets []supervisor.RuleSet
	if l.Isolation.UserNS {
		sets = append(sets, supervisor.Devices)
	}
	if l.Isolation.OneID {
		sets = append(sets, supervisor.Owners)
	}
	if l.Isolation.shared() {
		sets = append(sets, supervisor.Processes)
		if !sandbox.Scoped() {
			sets = append(sets, supervisor.Signals)
		}
		if l.Isolation.Rung == Chroot {
			sets = append(sets, supervisor.Proc)
		}
	}
	if l.Isolation.NoHostname {
		sets = append(sets, supervisor.Names)
	}
	return sets
}

// ruleSets are those, and what a step must not do that an overlay would refuse.
func (l *Linux) ruleSets() []supervisor.RuleSet {
	sets := l.supervised()
	if l.Isolation.NoOverlay {
		sets = append(sets, supervisor.Whiteouts)
	}
	return sets
}

// supervisedOpen is what remains of that for a box without restrictions.
func (l *Linux) supervisedOpen() []supervisor.RuleSet {
	var sets []supervisor.RuleSet
	if l.Isolation.OneID {
		sets = append(sets, supervisor.Owners)
	}
	if l.Isolation.NoHostname {
		sets = append(sets, supervisor.Names)
	}
	return sets
}

// hide keeps this process from being looked into by others of its user, if steps see it.
func (l *Linux) hide() error {
	if !l.Isolation.shared() {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("hiding this process: %w", err)
	}
	return nil
}

// Close frees what Run keeps between boxes. No box may be running.
func (l *Linux) Close() error {
	if l.exe == nil {
		return nil
	}
	if l.quit != nil { // or it could not be prepared
		close(l.quit)
		<-l.ended
		close(l.free)
		for s := range l.free {
			s.discard()
		}
		l.guard.close()
	}
	return l.exe.Close()
}

// Run runs p in s until it ends, and returns nil, an *ExitError, a *StartError or what went wrong in strake.
// When ctx ends, the process and everything it started are killed, and the error is context.Cause(ctx).
//
// A Stdin that is a pipe without a name, or a socket, is handed to the process itself; any other reader is copied, and the read that waits for
// more when the process ends is left behind.
func (l *Linux) Run(ctx context.Context, s Sandbox, p Process) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := l.prepare(); err != nil {
		return err
	}
	if err := l.check(s); err != nil {
		return err
	}
	end, err := l.turns.wait(ctx, s.Secrets)
	if err != nil {
		return err
	}
	defer end()
	net, err := l.connect(ctx, s.Network)
	if err != nil {
		return err
	}
	err = l.runIn(ctx, s, p, net)
	if net != nil {
		// The box is gone; what is left of its network the next one removes, or says why it cannot.
		_ = net.Close()
	}
	return err
}

// runIn runs p in s, in the private network net if that is not nil.
func (l *Linux) runIn(ctx context.Context, s Sandbox, p Process, net *network.Network) error {
	cfg, done, err := l.config(s, p, net)
	if err != nil {
		return err
	}
	defer done()
	b := &box{linux: l, process: p, oom: l.oom}
	defer b.close()
	if err := b.hook(s, cfg); err != nil {
		return err
	}
	if s.Limits.Any() {
		if err := b.limit(s.Limits); err != nil {
			return err
		}
		cfg.Cgroup = true
	}
	if net != nil {
		b.net = net.NS
	}
	cfg.Again = !s.Secrets && b.reusable(cfg)
	if err := b.start(cfg); err != nil {
		return err
	}
	err = b.wait(ctx)
	return b.hooks.after(ctx, err, p.Stderr)
}
