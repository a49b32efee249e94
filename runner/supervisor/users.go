package supervisor

import "golang.org/x/sys/unix"

// userRules are the calls by which the kernel lets users of a step do what only root may, and that are not reported by the other rules: a filter knows
// nothing of users, so they are for steps that begin as another user than root, and root does not pay for them.
const userRules = `{"syscalls": [{"action": "SCMP_ACT_NOTIFY", "names": ["open", "openat", "unlink", "unlinkat", "rmdir",
	"chmod", "fchmod", "fchmodat", "fchmodat2", "chdir", "fchdir", "truncate", "truncate64", "readlink", "readlinkat",
	"utime", "utimes", "futimesat", "utimensat", "utimensat_time64"]}]}`

// userCalls are those of userRules that no other rules have.
func (o *Ownership) userCalls() map[string]handler {
	out := map[string]handler{}
	for _, name := range []string{"unlink", "unlinkat", "rmdir"} {
		out[name] = o.ofUsers(o.remove)
	}
	for name, check := range map[string]check{
		"chmod":     {path: 0, of: o.asOwner},
		"fchmod":    {fd: true, of: o.asOwner},
		"fchmodat":  {at: true, path: 1, of: o.asOwner},
		"fchmodat2": {at: true, path: 1, flags: 3, of: o.asOwner},
		"chdir":     {path: 0, of: o.able(1)},
		"fchdir":    {fd: true, of: o.able(1)},
		"truncate":  {path: 0, of: o.able(2)},
		"readlink":  {path: 0, noFollow: true},
		"utime":     {path: 0, of: o.setsTimes(1)},
		"utimes":    {path: 0, of: o.setsTimes(1)},
		"futimesat": {at: true, path: 1, of: o.setsTimes(2)},
		"utimensat": {at: true, path: 1, flags: 3, of: o.setsTimes(2)},

		"readlinkat": {at: true, path: 1, noFollow: true},
	} {
		out[name] = o.ofUsers(func(r *request, who *credentials) error { return o.checked(r, who, check) })
	}
	out["truncate64"], out["utimensat_time64"] = out["truncate"], out["utimensat"]
	return out
}

// ofUsers leaves the calls of root to the kernel, and those of users for which may has no error.
func (o *Ownership) ofUsers(may func(*request, *credentials) error) handler {
	return func(r *request) (int64, error) {
		who, err := o.processes.of(r)
		if err != nil || who.user.fs == 0 {
			return 0, errKernel
		}
		leave, err := o.enter(r)
		if err != nil {
			return 0, errKernel
		}
		defer leave()
		if err := may(r, who); err != nil {
			return 0, err
		}
		return 0, errKernel
	}
}

// check says where a call names a file, and what it asks of that.
type check struct {
	at, fd   bool // the first argument is a directory, the file
	path     int  // the argument that is the path
	flags    int  // that has AT_SYMLINK_NOFOLLOW and AT_EMPTY_PATH, 0 for none
	noFollow bool
	of       func(r *request, who *credentials, fd int, st *unix.Stat_t) error // nil: the way there is all
}

// checked finds the file that the call r names, and has c decide whether the caller may do to it what the call does.
func (o *Ownership) checked(r *request, who *credentials, c check) (err error) {
	t := target{dir: unix.AT_FDCWD, follow: !c.noFollow, empty: c.fd}
	if c.at || c.fd {
		t.dir = int(int32(r.args[0]))
	}
	if c.flags != 0 {
		t.follow, t.empty = r.args[c.flags]&unix.AT_SYMLINK_NOFOLLOW == 0, r.args[c.flags]&unix.AT_EMPTY_PATH != 0
	}
	switch {
	case c.fd:
	case c.at && r.args[c.path] == 0: // the descriptor is meant
		t.empty = true
	default:
		if t.path, err = r.text(r.args[c.path]); err != nil {
			return errKernel
		}
	}
	if c.of == nil && t.openToAll(r, 0) {
		return nil
	}
	fd, err := o.find(r, who, t)
	if err != nil {
		return refusal(err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if c.of == nil || unix.Fstat(fd, &st) != nil || serves(fd) {
		return errKernel
	}
	return c.of(r, who, fd, &st)
}

// asOwner is the check of chmod: only the owner of a file, or root, may change its mode.
func (o *Ownership) asOwner(_ *request, who *credentials, fd int, st *unix.Stat_t) error {
	if !o.owns(who, fd, st) {
		return unix.EPERM
	}
	return nil
}

// able asks for the right want of a file or a directory.
func (o *Ownership) able(want uint32) func(*request, *credentials, int, *unix.Stat_t) error {
	return func(_ *request, who *credentials, fd int, st *unix.Stat_t) error {
		if dir := st.Mode&unix.S_IFMT == unix.S_IFDIR; !carries(st.Mode) || dir != (want == 1) {
			return nil // the kernel says what is wrong with that
		}
		if !o.permits(who, fd, st, want) {
			return unix.EACCES
		}
		return nil
	}
}

// setsTimes is what a call asks whose argument times has the new times of a file: the owner may set any, and who may write the file the present one.
func (o *Ownership) setsTimes(times int) func(*request, *credentials, int, *unix.Stat_t) error {
	return func(r *request, who *credentials, fd int, st *unix.Stat_t) error {
		if o.owns(who, fd, st) {
			return nil
		}
		now, err := r.present(times)
		if err != nil {
			return errKernel
		}
		if !now {
			return unix.EPERM
		}
		if !o.permits(who, fd, st, 2) {
			return unix.EACCES
		}
		return nil
	}
}

// utimeNow and utimeOmit are UTIME_NOW and UTIME_OMIT.
const (
	utimeNow  = 1<<30 - 1
	utimeOmit = 1<<30 - 2
)

// present says whether both times in argument i are the present one, or left as they are.
func (r *request) present(i int) (bool, error) {
	if r.args[i] == 0 {
		return true, nil
	}
	if r.name != "utimensat" || r.compat {
		return false, nil
	}
	t, err := r.words(r.args[i], 8, 4) // two of seconds and nanoseconds
	if err != nil {
		return false, err
	}
	return t[2] == utimeNow && t[6] == utimeNow || t[2] == utimeOmit && t[6] == utimeOmit, nil
}

// remove is what the calls ask that take a name away.
func (o *Ownership) remove(r *request, who *credentials) (err error) {
	t, at := target{dir: unix.AT_FDCWD}, 0
	if r.name == "unlinkat" {
		t.dir, at = int(int32(r.args[0])), 1
	}
	if t.path, err = r.text(r.args[at]); err != nil {
		return errKernel
	}
	dir, name, err := o.parentOf(r, who, t, true)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return o.mayRemove(who, place{dir, name})
}

// opens says whether c is of a call that opens.
func (c *creation) opens() bool { return c.kind == unix.S_IFREG && !c.node }

// wants is what an opened file has to allow.
func (c *creation) wants() uint32 {
	want := []uint32{4, 2, 6, 6}[c.how.Flags&unix.O_ACCMODE]
	if c.how.Flags&unix.O_TRUNC != 0 {
		want |= 2
	}
	return want
}

// mayOpen returns what the kernel would say to who about opening a file that is there.
func (o *Ownership) mayOpen(r *request, who *credentials, c creation) error {
	c.follow = c.how.Flags&unix.O_NOFOLLOW == 0
	if who.user.fs == 0 || c.special() || c.how.Flags&unix.O_NOATIME == 0 && c.openToAll(r, c.wants()) {
		return errKernel
	}
	fd, err := o.find(r, who, c.target)
	if err != nil {
		return refusal(err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || c.how.Flags&unix.O_PATH != 0 || serves(fd) {
		return errKernel
	}
	want := c.wants()
	if typ := st.Mode & unix.S_IFMT; typ != unix.S_IFREG && typ != unix.S_IFIFO && (typ != unix.S_IFDIR || want&2 != 0) {
		return errKernel // of a device or a link, and EISDIR
	}
	if !o.permits(who, fd, &st, want) {
		return unix.EACCES
	}
	if c.how.Flags&unix.O_NOATIME != 0 && !o.owns(who, fd, &st) {
		return unix.EPERM
	}
	return errKernel
}
