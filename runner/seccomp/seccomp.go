// Package seccomp compiles seccomp profiles: profiles and rules in their JSON form go in, and programs come out as the
// kernel takes them. The profile that it has is Docker's default one. What answers the calls that a program reports is not its matter.
package seccomp

import (
	_ "embed" // the profile
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sort"

	"golang.org/x/sys/unix"
)

// The profile is Docker's default one: seccomp/default.json of github.com/moby/profiles v0.2.3, unchanged, Apache
// License 2.0 (the licence of this repository, see LICENSE). Copyright The Moby Project Authors.
//
//go:embed seccomp_default.json
var defaultProfile []byte

//go:generate go run gensyscalls.go

// Call is a system call of an architecture.
type Call struct {
	Number uint32
	Name   string
}

// Architecture is an ABI whose programs the machine runs.
type Architecture struct {
	Audit uint32 // AUDIT_ARCH_…, as in struct seccomp_data
	Calls []Call // by number
	extra []Call // numbers apart from the others (__ARM_NR_…)
}

// profile is the JSON form of a seccomp profile, as far as Docker's default one goes.
type profile struct {
	DefaultAction   string
	DefaultErrnoRet *uint16
	Syscalls        []struct {
		Names    []string
		Action   string
		ErrnoRet *uint16
		Args     []argument
		Includes condition
		Excludes condition
	}
}

// condition restricts a rule to kernels, architectures and capability sets.
type condition struct {
	Caps, Arches []string
	MinKernel    string
}

// argument compares one argument of a system call.
type argument struct {
	Index           uint
	Value, ValueTwo uint64
	Op              string
}

// rule is what a profile says of a system call: if all args hold, action.
type rule struct {
	args   []argument
	action uint32
}

// filter compiles p for the capability set caps and this machine's architecture.
func (p *profile) filter(caps uint64) ([]byte, error) {
	prog, err := compile(p, Architectures(), caps)
	if err != nil {
		return nil, fmt.Errorf("compiling the seccomp profile: %w", err)
	}
	out := make([]byte, 0, len(prog)*insnSize)
	for _, i := range prog {
		out = binary.NativeEndian.AppendUint16(out, i.Code)
		out = append(out, i.Jt, i.Jf)
		out = binary.NativeEndian.AppendUint32(out, i.K)
	}
	return out, nil
}

const enosys = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)

func action(name string, ret *uint16) (uint32, error) {
	switch name {
	case "SCMP_ACT_ALLOW":
		return unix.SECCOMP_RET_ALLOW, nil
	case "SCMP_ACT_NOTIFY":
		return unix.SECCOMP_RET_USER_NOTIF, nil
	case "SCMP_ACT_ERRNO":
		if ret == nil {
			return unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM), nil
		}
		return unix.SECCOMP_RET_ERRNO | uint32(*ret), nil
	}
	return 0, fmt.Errorf("unknown action %q", name)
}

// rules returns what p says of each call for programs on arch with caps, by name.
func (p *profile) rules(arch string, caps uint64) (map[string][]rule, error) {
	byName := map[string][]rule{}
	for _, s := range p.Syscalls {
		// MinKernel is 4.8 at most: older ones cannot run a box at all.
		if len(s.Includes.Arches) > 0 && !slices.Contains(s.Includes.Arches, arch) || slices.Contains(s.Excludes.Arches, arch) {
			continue
		}
		if !hasAll(s.Includes.Caps, caps) || hasAny(s.Excludes.Caps, caps) {
			continue
		}
		a, err := action(s.Action, s.ErrnoRet)
		if err != nil {
			return nil, err
		}
		for _, n := range s.Names {
			byName[n] = append(byName[n], rule{s.Args, a})
		}
	}
	return byName, nil
}

func hasAll(names []string, caps uint64) bool {
	for _, n := range names {
		if !hasCap(n, caps) {
			return false
		}
	}
	return true
}

func hasAny(names []string, caps uint64) bool {
	return slices.ContainsFunc(names, func(n string) bool { return hasCap(n, caps) })
}

func hasCap(name string, caps uint64) bool {
	i := slices.Index(capNames(), name)
	return i >= 0 && caps&(1<<i) != 0
}

// span is a run of call numbers, from first to the next span's, that are treated alike.
type span struct {
	first uint32
	rules []rule // the last one has no args: every number comes to an end
}

// spans cuts the numbers of arch into runs.
func spans(a Architecture, byName map[string][]rule, fallback uint32) []span {
	type numbered struct {
		number uint32
		rules  []rule
	}
	byNumber := map[uint32][]rule{}
	for _, c := range append(slices.Clone(a.Calls), a.extra...) {
		byNumber[c.Number] = append(byNumber[c.Number], byName[c.Name]...)
	}
	var list []numbered
	for n, r := range byNumber {
		end := slices.IndexFunc(r, func(r rule) bool { return len(r.args) == 0 })
		if end < 0 {
			r, end = append(slices.Clone(r), rule{nil, fallback}), len(r)
		}
		list = append(list, numbered{n, r[:end+1]})
	}
	sort.Slice(list, func(i, j int) bool { return list[i].number < list[j].number })

	newest := a.Calls[len(a.Calls)-1].Number
	var out []span
	add := func(first uint32, r []rule) {
		if n := len(out); n > 0 && len(r) == 1 && len(out[n-1].rules) == 1 && out[n-1].rules[0].action == r[0].action {
			return
		}
		out = append(out, span{first, r})
	}
	gap := func(n uint32) []rule {
		if n > newest && fallback != unix.SECCOMP_RET_ALLOW {
			return []rule{{nil, enosys}}
		}
		return []rule{{nil, fallback}}
	}
	next := uint32(0)
	for _, l := range list {
		if l.number > next {
			add(next, gap(next)) // never across newest: that one is in the list
		}
		add(l.number, l.rules)
		next = l.number + 1
	}
	add(next, gap(next))
	return out
}

// compile makes one program for all arches, of which the first is the machine's own.
func compile(p *profile, arches []Architecture, caps uint64) ([]unix.SockFilter, error) {
	byName, err := p.rules(goarch, caps)
	if err != nil {
		return nil, err
	}
	fallback, err := action(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return nil, err
	}
	prog := []unix.SockFilter{stmt(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 4)}
	for _, a := range arches {
		body, err := tree(spans(a, byName, fallback))
		if err != nil {
			return nil, err
		}
		body = append([]unix.SockFilter{stmt(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 0)}, body...)
		prog = append(prog, jump(unix.BPF_JEQ, a.Audit, 1, 0), stmt(unix.BPF_JMP|unix.BPF_JA, uint32(len(body))))
		prog = append(prog, body...)
	}
	prog = append(prog, stmt(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_KILL_PROCESS))
	if len(prog) > unix.BPF_MAXINSNS {
		return nil, errors.New("the program is too long")
	}
	return prog, nil
}

func stmt(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }

func jump(op uint16, k uint32, yes, no uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, Jt: yes, Jf: no, K: k}
}

// tree searches the span of the number in the accumulator by halving.
func tree(s []span) ([]unix.SockFilter, error) {
	if len(s) == 1 {
		return body(s[0].rules)
	}
	mid := len(s) / 2
	low, err := tree(s[:mid])
	if err != nil {
		return nil, err
	}
	high, err := tree(s[mid:])
	if err != nil {
		return nil, err
	}
	var prog []unix.SockFilter
	if len(low) <= 255 {
		prog = append(prog, jump(unix.BPF_JGE, s[mid].first, uint8(len(low)), 0))
	} else {
		prog = append(prog, jump(unix.BPF_JGE, s[mid].first, 0, 1), stmt(unix.BPF_JMP|unix.BPF_JA, uint32(len(low))))
	}
	return append(append(prog, low...), high...), nil
}

// body is the part of a program that tries rules in their order: the first whose tests all hold returns its action.
func body(rules []rule) ([]unix.SockFilter, error) {
	var prog []unix.SockFilter
	for _, r := range rules {
		// Built from its end: each test is told how far away the next rule is.
		code := []unix.SockFilter{stmt(unix.BPF_RET|unix.BPF_K, r.action)}
		for _, a := range slices.Backward(r.args) {
			c, err := compare(a, len(code))
			if err != nil {
				return nil, err
			}
			code = append(c, code...)
		}
		prog = append(prog, code...)
	}
	return prog, nil
}

// compare tests one argument: it falls through if the test holds, and jumps over the skip instructions that
// follow if it does not.
func compare(a argument, skip int) ([]unix.SockFilter, error) {
	if a.Index > 5 || skip > 200 {
		return nil, fmt.Errorf("cannot test argument %d", a.Index)
	}
	lo := stmt(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, uint32(16+8*a.Index+loWord))
	hi := stmt(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, uint32(16+8*a.Index+4-loWord))
	vhi, vlo, no := uint32(a.Value>>32), uint32(a.Value), uint8(skip)
	switch a.Op {
	case "SCMP_CMP_EQ":
		return []unix.SockFilter{hi, jump(unix.BPF_JEQ, vhi, 0, no+2), lo, jump(unix.BPF_JEQ, vlo, 0, no)}, nil
	case "SCMP_CMP_NE":
		return []unix.SockFilter{hi, jump(unix.BPF_JEQ, vhi, 0, 2), lo, jump(unix.BPF_JEQ, vlo, no, 0)}, nil
	case "SCMP_CMP_MASKED_EQ":
		whi, wlo := uint32(a.ValueTwo>>32), uint32(a.ValueTwo)
		and := func(k uint32) unix.SockFilter { return stmt(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, k) }
		return []unix.SockFilter{hi, and(vhi), jump(unix.BPF_JEQ, whi, 0, no+3), lo, and(vlo), jump(unix.BPF_JEQ, wlo, 0, no)}, nil
	case "SCMP_CMP_GT":
		return []unix.SockFilter{hi, jump(unix.BPF_JGT, vhi, 3, 0), jump(unix.BPF_JEQ, vhi, 0, no+2), lo, jump(unix.BPF_JGT, vlo, 0, no)}, nil
	case "SCMP_CMP_GE":
		return []unix.SockFilter{hi, jump(unix.BPF_JGT, vhi, 3, 0), jump(unix.BPF_JEQ, vhi, 0, no+2), lo, jump(unix.BPF_JGE, vlo, 0, no)}, nil
	case "SCMP_CMP_LT":
		return []unix.SockFilter{hi, jump(unix.BPF_JGT, vhi, no+3, 0), jump(unix.BPF_JEQ, vhi, 0, 2), lo, jump(unix.BPF_JGE, vlo, no, 0)}, nil
	case "SCMP_CMP_LE":
		return []unix.SockFilter{hi, jump(unix.BPF_JGT, vhi, no+3, 0), jump(unix.BPF_JEQ, vhi, 0, 2), lo, jump(unix.BPF_JGT, vlo, no, 0)}, nil
	}
	return nil, fmt.Errorf("unknown comparison %q", a.Op)
}
