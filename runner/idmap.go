package runner

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
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
	uids, err := readSubIDs("/etc/subuid")
	if err != nil {
		return m, err
	}
	gids, err := readSubIDs("/etc/subgid")
	if err != nil {
		return m, err
	}
	m.uids, m.gids = uids.of(name, os.Getuid(), os.Getuid()), gids.of(name, os.Getuid(), os.Getgid())
	if o := noSubIDs(name, len(m.uids) == 1, len(m.gids) == 1, slices.Concat(uids, gids).free()); o != nil {
		return m, o
	}
	return m, nil
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

// subRange is a line of /etc/subuid or /etc/subgid.
type subRange struct {
	user         string // its name or number
	start, count uint64
}

type subRanges []subRange

// readSubIDs reads the ranges in file (subuid(5)). A missing file has none; lines that are none are left out.
func readSubIDs(file string) (all subRanges, err error) {
	data, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, &Obstacle{What: "reading the subordinate ids", Err: err}
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 {
			continue
		}
		start, err1 := strconv.ParseUint(f[1], 10, 32)
		count, err2 := strconv.ParseUint(f[2], 10, 32)
		if err1 == nil && err2 == nil && count > 0 {
			all = append(all, subRange{f[0], start, count})
		}
	}
	return all, nil
}

// of returns the mapping of a user: own at 0, and then the ranges, as far as they are mapped.
func (all subRanges) of(name string, uid, own int) idMap {
	m, next := idMap{{ContainerID: 0, HostID: own, Size: 1}}, 1
	for _, r := range all {
		size := min(int(r.count), maxSubIDs+1-next)
		if r.user != name && r.user != strconv.Itoa(uid) || size <= 0 {
			continue
		}
		m = append(m, syscall.SysProcIDMap{ContainerID: next, HostID: int(r.start), Size: size})
		next += size
	}
	return m
}

// firstSubID is where useradd(8) begins to give away subordinate ids.
const firstSubID = 100000

// free returns the start of as many ids as a user gets that are nobody's yet.
func (all subRanges) free() uint64 {
	start := uint64(firstSubID)
	for _, r := range slices.SortedFunc(slices.Values(all), func(a, b subRange) int { return cmp.Compare(a.start, b.start) }) {
		if r.start < start+maxSubIDs {
			start = max(start, r.start+r.count)
		}
	}
	return start
}

// noSubIDs says which ranges a user lacks, and the command that adds them from free on; nil if there are all.
func noSubIDs(name string, uids, gids bool, free uint64) *Obstacle {
	var files, options []string
	ids := fmt.Sprintf("%d-%d", free, free+maxSubIDs-1)
	if uids {
		files, options = append(files, "/etc/subuid"), append(options, "--add-subuids "+ids)
	}
	if gids {
		files, options = append(files, "/etc/subgid"), append(options, "--add-subgids "+ids)
	}
	if len(files) == 0 {
		return nil
	}
	in := strings.Join(files, " and ")
	return &Obstacle{
		Why: fmt.Sprintf("user %s has no subordinate ids in %s", name, in),
		Fix: fmt.Sprintf("usermod %s %s (or add the line «%s:%d:%d» to %s)", strings.Join(options, " "), name, name, free, maxSubIDs, in),
	}
}
