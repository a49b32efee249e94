package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// RuleSet names calls that the init answers for a step (see supervisor). A filter has their rules before those of the profile, and
// Config.Supervise says which of them the init serves.
type RuleSet string

// The rule sets.
const (
	Devices RuleSet = "devices" // in a user namespace: files that stand for devices
)

// rules are in the form of a profile. A masked comparison has the mask first.
func (r RuleSet) rules() string {
	switch r {
	case Devices:
		return deviceRules
	}
	return ""
}

// SupervisedFilter is Filter for boxes whose init answers the calls of sets. Where the kernel cannot do that, the init makes of it
// what Filter returns.
func SupervisedFilter(caps uint64, sets ...RuleSet) ([]byte, error) {
	var p profile
	if err := json.Unmarshal(defaultProfile, &p); err != nil {
		return nil, fmt.Errorf("reading the seccomp profile: %w", err)
	}
	return p.supervised(caps, sets)
}

func (p *profile) supervised(caps uint64, sets []RuleSet) ([]byte, error) {
	for _, set := range slices.Backward(sets) {
		var first profile
		if err := json.Unmarshal([]byte(set.rules()), &first); err != nil {
			return nil, fmt.Errorf("reading the rules of %q: %w", set, err)
		}
		p.Syscalls = slices.Concat(first.Syscalls, p.Syscalls)
	}
	return p.filter(caps)
}

// duties makes those that the configuration asks for.
func (b *box) duties() ([]duty, error) {
	var out []duty
	for _, set := range b.Supervise {
		switch set {
		case Devices:
			out = append(out, &nodes{})
		default:
			return nil, errors.New("the init does not know how to serve " + string(set))
		}
	}
	return out, nil
}
