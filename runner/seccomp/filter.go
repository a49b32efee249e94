package seccomp

import (
	"encoding/json"
	"fmt"
	"slices"
)

// Filter compiles Docker's default seccomp profile for the capability set caps and this machine's architecture into the
// program that the kernel takes (struct sock_filter[]). Calls that no kernel known to this program has return ENOSYS, not EPERM, so
// that libraries fall back to older ones.
//
// Before the profile's own rules come those of first, each in the form of a profile that has nothing but syscalls. A masked
// comparison has the mask first.
func Filter(caps uint64, first ...string) ([]byte, error) {
	var p profile
	if err := json.Unmarshal(defaultProfile, &p); err != nil {
		return nil, fmt.Errorf("reading the seccomp profile: %w", err)
	}
	return p.compose(caps, first)
}

// Open compiles rules, in the form that Filter takes, into a program that allows all other calls.
func Open(rules ...string) ([]byte, error) {
	p := profile{DefaultAction: "SCMP_ACT_ALLOW"}
	return p.compose(0, rules)
}

// compose compiles p with other rules before its own.
func (p *profile) compose(caps uint64, rules []string) ([]byte, error) {
	for _, text := range slices.Backward(rules) {
		var first profile
		if err := json.Unmarshal([]byte(text), &first); err != nil {
			return nil, fmt.Errorf("reading seccomp rules: %w", err)
		}
		p.Syscalls = slices.Concat(first.Syscalls, p.Syscalls)
	}
	return p.filter(caps)
}
