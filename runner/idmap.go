package runner

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

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

// mappingFor finds out what to map: for root, all that it has, as it is; with one id, only its own.
func mappingFor(one bool) (mapping, error) {
	switch {
	case one:
		return oneID(os.Geteuid(), os.Getegid()), nil
	case os.Geteuid() != 0:
		return userMap()
	}
	uids, err := ownIDs("/proc/self/uid_map")
	if err != nil {
		return mapping{}, err
	}
	gids, err := ownIDs("/proc/self/gid_map")
	return mapping{uids: uids, gids: gids}, err
}

// oneID maps root to the process's own ids. setgroups(2) is denied, without which the kernel lets no ordinary user map his group.
func oneID(uid, gid int) mapping {
	return mapping{
		uids: idMap{{ContainerID: 0, HostID: uid, Size: 1}},
		gids: idMap{{ContainerID: 0, HostID: gid, Size: 1}},
	}
}

// ownIDs reads the ids of this user namespace, each mapped to itself.
func ownIDs(file string) (idMap, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the own ids: %w", err)
	}
	var m idMap
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		start, err1 := strconv.ParseUint(f[0], 10, 32)
		size, err2 := strconv.ParseUint(f[2], 10, 32)
		if err1 != nil || err2 != nil {
			return nil, fmt.Errorf("reading the own ids: %q", line)
		}
		m = append(m, syscall.SysProcIDMap{ContainerID: int(start), HostID: int(start), Size: int(size)})
	}
	return m, nil
}

// userMap finds the mapping for an ordinary user: root is the user itself, the other ids are its subordinate ones. The error is
// an *Obstacle.
func userMap() (mapping, error) {
	var m mapping
	var err error
	if nnp, e := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); e == nil && nnp == 1 {
		return m, &Obstacle{
			Why: "no_new_privs is set, so newuidmap cannot work",
			Fix: "run the container without --security-opt no-new-privileges (Kubernetes: securityContext.allowPrivilegeEscalation: true)",
		}
	}
	if m.newuidmap, err = helper("newuidmap", "cap_setuid"); err != nil {
		return m, err
	}
	if m.newgidmap, err = helper("newgidmap", "cap_setgid"); err != nil {
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
func helper(name, capability string) (string, error) {
	file, err := exec.LookPath(name)
	if err != nil {
		return "", &Obstacle{Call: name, Why: name + " is missing", Fix: "install the package uidmap (shadow-utils on Fedora)"}
	}
	st, err := os.Stat(file)
	if err != nil {
		return "", &Obstacle{What: "looking at " + file, Err: err}
	}
	if st.Mode()&os.ModeSetuid != 0 {
		return file, nil
	}
	if n, err := unix.Getxattr(file, "security.capability", nil); err == nil && n > 0 {
		return file, nil
	}
	return "", &Obstacle{Call: name, Why: file + " is neither setuid nor has capabilities", Fix: fmt.Sprintf("setcap %s=ep %s (or chmod u+s %s)", capability, file, file)}
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
		return nil, &Obstacle{What: "reading the subordinate ids", Err: err}
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
		return nil, &Obstacle{
			Why: fmt.Sprintf("user %s has no subordinate ids in %s", name, file),
			Fix: fmt.Sprintf("usermod %s 100000-165535 %s (or add the line «%s:100000:65536»)", option, name, name),
		}
	}
	return m, nil
}
