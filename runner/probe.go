package runner

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/runner/seccomp"
)

// Isolation is the result of Choose.
type Isolation struct {
	Rung   Rung
	Reason string // one line: why this rung, for people
	// UserNS: the process is in a user namespace: strake's own (after Enter), or the one of a container around it.
	UserNS bool
	// OneID: files can be given to one user and group only, those of this process: the user namespace has a single id, or (on None) the
	// process may not change owners. Who owns a file is recorded in the extended attribute user.containers.override_stat of it, by the init
	// for what a step does.
	OneID bool
	// SharedPID: a box has no pid namespace of its own, since no /proc can be mounted for it. Its init finds and kills
	// what the step leaves behind.
	SharedPID bool
	// NoHostname: a box has a namespace for its host name, but may not set it. Its init tells the step the name instead.
	NoHostname bool
	// NoOverlay: there is no overlay file system, or the store's directory cannot hold an upper directory (ProbeStore):
	// snapshots are copies.
	NoOverlay bool
	// Better are the rungs above this one, which do not work.
	Better []Finding
}

// RecordsOwners says whether owners of files are recorded instead of given.
func (i Isolation) RecordsOwners() bool { return i.OneID }

// CheckRun returns an error if no process can be boxed at all: it says what is in the way of each rung.
func (i Isolation) CheckRun() error {
	if i.Rung != None {
		return nil
	}
	return &NoRunError{i.Better}
}

// NoRunError says that no process can be run in a box, and why.
type NoRunError struct{ Better []Finding }

func (e *NoRunError) Error() string {
	text := "isolation none: no command can be run here"
	for _, f := range e.Better {
		text += fmt.Sprintf("\n  %s: %v", f.Name(), f.Obstacle)
	}
	if len(e.Better) == 0 {
		text += ": it was asked for with --isolation none"
	}
	return text
}

// Hint is the one setting to change: that of the last rung that has one, which needs the least.
func (e *NoRunError) Hint() string {
	for _, f := range []Rung{Rootless, Root, Chroot} {
		for i := len(e.Better) - 1; i >= 0; i-- {
			if b := e.Better[i]; b.Rung == f && b.Obstacle != nil && b.Obstacle.Fix != "" {
				return b.Obstacle.Fix
			}
		}
	}
	return "see \"strake doctor\""
}

// Finding is what was found about one rung of the ladder.
type Finding struct {
	Isolation           // if Obstacle is nil, how the rung works here
	Obstacle  *Obstacle // why it does not work
}

// Name is the rung, with what tells it from another one of the same name.
func (i Isolation) Name() string {
	if i.Rung == Rootless && i.OneID {
		return "rootless, one id"
	}
	return string(i.Rung)
}

// prober looks at the rungs; it tries nothing twice.
type prober struct {
	machine
	here *boxResult // of try without a mapping; nil before
}

// boxResult is what became of boxAttempts.
type boxResult struct {
	obstacle  *Obstacle
	sharedPID bool
	noName    bool
	noOverlay string // why there is no overlay
}

// Survey looks at all rungs, best first: root, rootless, rootless with one id, chroot, none.
func Survey() []Finding {
	p := newProber()
	var rungs []Finding
	for n := range p.ladder() {
		rungs = append(rungs, p.look(n))
	}
	return rungs
}

// Choose finds the best rung that works, or checks the one that is asked for. The error names the
// setting to change. It takes about 2 ms and changes nothing. fits, if not nil, says what is in the way of using an isolation that works, such as
// a store of another form, and may change it to one that fits.
//
// Nothing is concluded from names or versions: what a box needs is done in a process that is thrown away. Whether the store can hold
// overlays is for ProbeStore to say, after Enter.
func Choose(want Rung, fits func(*Isolation) *Obstacle) (Isolation, error) {
	p := newProber()
	switch want {
	case Auto, Root, Rootless, Chroot, None:
	default:
		return Isolation{}, fmt.Errorf("unknown isolation %q: it is auto, root, rootless, chroot or none", want)
	}
	var failed []Finding
	for n, rung := range p.ladder() {
		if want != Auto && rung != want {
			continue
		}
		f := p.look(n)
		if f.Obstacle == nil && fits != nil {
			f.Obstacle = fits(&f.Isolation)
		}
		if f.Obstacle == nil {
			f.Better = failed
			return f.Isolation, nil
		}
		failed = append(failed, f)
	}
	return Isolation{}, &ProbeError{want, failed}
}

// ProbeError says that no rung that was asked for works.
type ProbeError struct {
	Want   Rung
	Failed []Finding
}

func (e *ProbeError) Error() string {
	var reasons []string
	for n, f := range e.Failed {
		reason := f.Obstacle.Error()
		switch {
		case n > 0 && reason == e.Failed[n-1].Obstacle.Error():
			continue
		case f.Name() != string(e.Want):
			reason = f.Name() + ": " + reason
		}
		reasons = append(reasons, reason)
	}
	return fmt.Sprintf("isolation %s: %s", e.Want, strings.Join(reasons, "; "))
}

// Advice says in one line which better rung a person could have here, and what to do for it; it is empty if none. It is the next better one, or
// one above that for which the same is to be done. Nobody who has many ids and namespaces is told to become root.
func (i Isolation) Advice() string {
	best := -1
	for n, f := range slices.Backward(i.Better) {
		switch {
		case f.Obstacle.NotRoot || f.Rung == Root && i.Rung == Rootless && !i.OneID:
		case best < 0 || f.Obstacle.Fix != "" && f.Obstacle.Fix == i.Better[best].Obstacle.Fix:
			best = n
		}
	}
	if best < 0 {
		return ""
	}
	return fmt.Sprintf("%s: %v", i.Better[best].Name(), i.Better[best].Obstacle)
}

func newProber() *prober {
	return &prober{machine: thisMachine()}
}

// ladder is all rungs, best first; there are two ways of Rootless, the second with one id.
func (p *prober) ladder() []Rung { return []Rung{Root, Rootless, Rootless, Chroot, None} }

// look finds out about the rung n of the ladder.
func (p *prober) look(n int) Finding {
	switch n {
	case 0:
		return p.root()
	case 1:
		return p.rootless()
	case 2:
		return p.oneID()
	case 3:
		return p.chroot()
	default:
		return p.none()
	}
}

func (p *prober) root() Finding {
	f := Finding{Isolation: Isolation{Rung: Root, Reason: "root that can mount"}}
	switch {
	case p.euid != 0:
		f.Obstacle = &Obstacle{NotRoot: true, Why: "this process is not root", Fix: "sudo strake …"}
	case p.userNS:
		f.Obstacle = &Obstacle{NotRoot: true, Why: "this process is in a user namespace, where root is not the host's"}
	default:
		f.take(p.try(nil))
	}
	return f
}

// rootless finds out whether the rung rootless works.
func (p *prober) rootless() Finding {
	f := Finding{Isolation: Isolation{Rung: Rootless}}
	if p.euid == 0 && p.userNS {
		if r := p.try(nil); r.obstacle == nil {
			if p.ids == 1 {
				f.Obstacle = &Obstacle{Why: "the user namespace that this process is in has one id"}
				return f
			}
			f.Reason, f.UserNS = "root in a user namespace", true
			f.take(r)
			return f
		}
	}
	m, err := mappingFor(false)
	if err != nil {
		f.Obstacle = asObstacle(err)
		return f
	}
	if p.euid != 0 {
		f.Reason = fmt.Sprintf("user %d with %d subordinate ids", p.uid, m.uids.size()-1)
	} else if f.Reason = "root, in a user namespace of its own"; m.uids.size() == 1 {
		f.Obstacle = &Obstacle{Why: "this process has one id"}
		return f
	}
	f.take(p.try(&m))
	return f
}

func (p *prober) oneID() Finding {
	f := Finding{Isolation: Isolation{Rung: Rootless, OneID: true, Reason: fmt.Sprintf("user %d with one id", p.uid)}}
	if p.euid == 0 && p.userNS && p.ids == 1 {
		if r := p.try(nil); r.obstacle == nil {
			f.Reason, f.UserNS = "root in a user namespace with one id", true
			f.take(r)
			return f
		}
	}
	m := oneID(p.euid, os.Getegid())
	f.take(p.try(&m))
	return f
}

// chroot finds out whether the rung chroot works.
func (p *prober) chroot() Finding {
	f := Finding{Isolation: Isolation{Rung: Chroot, NoOverlay: true, UserNS: p.userNS, Reason: "root, without namespaces"}}
	if p.euid != 0 {
		f.Obstacle = &Obstacle{NotRoot: true, Why: "this process is not root", Fix: "run the container as root (Kubernetes: securityContext.runAsUser: 0)"}
		return f
	}
	attempts := chrootAttempts()
	out, err := try(0, nil, attempts)
	if err != nil {
		f.Obstacle = asObstacle(err)
		return f
	}
	if a, errno := failure(attempts, out); errno != 0 {
		f.Obstacle = &Obstacle{What: a.what, Call: a.call, Err: errno}
		if !p.has(capSysChroot) {
			f.Obstacle.Why, f.Obstacle.Fix = "this root has no CAP_SYS_CHROOT", "run the container with --cap-add SYS_CHROOT"
		}
		return f
	}
	f.Obstacle = p.lacking(chrootNeeds)
	return f
}

// none works always. Only a root that may set all that a layer says of files gives them to others.
func (p *prober) none() Finding {
	own := p.euid == 0 && p.lacking(ownersNeed) == nil && p.ids != 1
	return Finding{Isolation: Isolation{Rung: None, NoOverlay: true, OneID: !own, UserNS: p.userNS, Reason: "builds without RUN"}}
}

// take fills f with what became of boxAttempts.
func (f *Finding) take(r boxResult) {
	f.Obstacle, f.SharedPID, f.NoHostname, f.NoOverlay = r.obstacle, r.sharedPID, r.noName, r.noOverlay != ""
	if r.obstacle != nil {
		return
	}
	if r.sharedPID {
		f.Reason += ", without a pid namespace"
	}
	if r.noOverlay != "" {
		f.Reason += ", without overlay (" + r.noOverlay + ")"
	}
}

// try tries what a box needs: in a user namespace with the ids of m, or in none of its own if that is nil.
func (p *prober) try(m *mapping) boxResult {
	if m == nil && p.here != nil {
		return *p.here
	}
	flags := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS)
	if m != nil {
		flags |= unix.CLONE_NEWUSER
	}
	attempts := boxAttempts()
	out, err := try(flags, m, attempts)
	r := p.judge(attempts, out, err, m != nil)
	if m == nil {
		p.here = &r
	}
	return r
}

// judge says what the outcomes of boxAttempts mean.
func (m machine) judge(attempts []attempt, out []outcome, err error, user bool) boxResult {
	var mapping errMapping
	switch {
	case errors.As(err, &mapping):
		o := asObstacle(mapping.error)
		switch {
		case o.Fix != "":
		case m.euid == 0 && (!m.has(capSetuid) || !m.has(capSetgid) || !m.has(capSetfcap)):
			o.Why, o.Fix = "this root has not CAP_SETUID, CAP_SETGID and CAP_SETFCAP", "run the container with --cap-add SETUID --cap-add SETGID --cap-add SETFCAP"
		case m.euid != 0 && m.bounding&(1<<capSysAdmin) == 0:
			o.Why = "a setuid newuidmap has no CAP_SYS_ADMIN in this container"
			o.Fix = "chmod u-s /usr/bin/newuidmap /usr/bin/newgidmap; setcap cap_setuid=ep /usr/bin/newuidmap; setcap cap_setgid=ep /usr/bin/newgidmap (in the container's image)"
		}
		return boxResult{obstacle: o}
	case err != nil:
		return boxResult{obstacle: m.cloneHint(err, user)}
	}
	if a, errno := failure(attempts, out); errno != 0 {
		return boxResult{obstacle: m.hint(a, errno, user || m.userNS)}
	}
	if !user { // a step gets these, and who makes a user namespace has them there
		if o := m.lacking(seccomp.Capabilities); o != nil {
			return boxResult{obstacle: o}
		}
	}
	r := boxResult{sharedPID: out[procAttempt] != worked, noName: out[nameAttempt] != worked}
	if e := out[overlayAttempt].errno(); e != 0 {
		r.noOverlay = m.hint(attempts[overlayAttempt], e, user || m.userNS).Error()
	}
	return r
}

// asObstacle returns the *Obstacle that err is or wraps, else one with the text of err.
func asObstacle(err error) *Obstacle {
	var o *Obstacle
	if errors.As(err, &o) {
		return o
	}
	return &Obstacle{Err: err}
}

// ProbeStore finds out, by mounting one, whether an overlay's upper directory can be in dir, which must exist, and sets NoOverlay if not; it says
// why in Reason.
func ProbeStore(i Isolation, dir string) (Isolation, error) {
	if i.NoOverlay {
		return i, nil
	}
	o, err := SurveyStore(i, dir)
	if err != nil {
		return i, err
	}
	if o != nil {
		i.NoOverlay = true
		why := o.Why
		if why == "" {
			why = o.Error()
		}
		i.Reason += ", by copies: " + why
	}
	return i, nil
}

// SurveyStore says what is in the way of an overlay whose upper directory is in dir, mounted under i; nil if nothing is.
func SurveyStore(i Isolation, dir string) (*Obstacle, error) {
	temp, err := os.MkdirTemp(dir, ".probe-")
	if err != nil {
		return nil, fmt.Errorf("probing the store: %w", err)
	}
	defer os.RemoveAll(temp)
	for _, d := range []string{"l", "u", "w", "m"} {
		if err := os.Mkdir(filepath.Join(temp, d), 0o700); err != nil { //nolint:gosec // a directory just made
			return nil, fmt.Errorf("probing the store: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(temp, "l/f"), nil, 0o600); err != nil { //nolint:gosec // the same
		return nil, fmt.Errorf("probing the store: %w", err)
	}
	flags, user := uintptr(unix.CLONE_NEWNS), i.Rung == Rootless || i.UserNS
	var m *mapping
	if user && !i.UserNS { // before Enter
		ids, err := mappingFor(i.OneID)
		if err != nil {
			return nil, fmt.Errorf("probing the store: %w", err)
		}
		flags, m = flags|unix.CLONE_NEWUSER, &ids
		// Overlay leaves directories that only root may enter.
		defer func() {
			for _, d := range []string{"w/work", "w/work/incompat", "w/work/incompat/volatile"} {
				_ = os.Chmod(filepath.Join(temp, d), 0o700) //nolint:gosec // a directory of the caller's
			}
		}()
	}
	attempts := storeAttempts(temp, user)
	out, err := try(flags, m, attempts)
	if err != nil {
		return nil, fmt.Errorf("probing the store: %w", err)
	}
	a, errno := failure(attempts, out)
	if errno == 0 {
		return nil, nil
	}
	o := &Obstacle{What: a.what, Call: a.call, Err: errno}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err == nil && st.Type == unix.OVERLAYFS_SUPER_MAGIC {
		o.Why = "the store is on an overlay file system"
	}
	o.Fix = "put the store on a volume with --root (ext4, xfs, btrfs; tmpfs since Linux 6.6)"
	return o, nil
}
