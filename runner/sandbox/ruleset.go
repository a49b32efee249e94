package sandbox

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/runner/seccomp"
)

// RuleSet names calls that the init answers for a step (see supervisor). A filter has their rules before those of the profile, and
// Config.Supervise says which of them the init serves.
type RuleSet string

// The rule sets.
const (
	Devices RuleSet = "devices" // in a user namespace: files that stand for devices
	Owners  RuleSet = "owners"  // in one with a single id: files of other users, and processes of theirs

	Processes RuleSet = "processes" // without a pid namespace: calls that name other ones
	Signals   RuleSet = "signals"   // with Processes, where not Scoped
	Proc      RuleSet = "proc"      // by chroot: files of /proc
	Names     RuleSet = "names"     // where a host name cannot be set: the host's name

	// Whiteouts are refused: the device 0:0, which everybody may make, and which an overlay does not let anybody make. Nothing is served for it.
	Whiteouts RuleSet = "whiteouts"
)

// rules are in the form of a profile. A masked comparison has the mask first.
func (r RuleSet) rules() []string {
	switch r {
	case Devices:
		return []string{deviceRules}
	case Owners:
		return []string{listRules, createRules, statRules, ownerRules}
	case Processes:
		return []string{processRules}
	case Signals:
		return []string{signalRules}
	case Proc:
		return []string{procRules}
	case Names:
		return []string{nameRules}
	case Whiteouts:
		return []string{whiteoutRules}
	}
	return nil
}

// SupervisedFilter is seccomp.Filter for boxes whose init answers the calls of sets. Where the kernel cannot do that, the init makes of it
// what seccomp.Filter returns.
func SupervisedFilter(caps uint64, sets ...RuleSet) ([]byte, error) {
	return seccomp.Filter(caps, rules(sets)...)
}

// OpenFilter reports the calls of sets and allows all others.
func OpenFilter(sets ...RuleSet) ([]byte, error) { return seccomp.Open(rules(sets)...) }

func rules(sets []RuleSet) (all []string) {
	for _, set := range sets {
		all = append(all, set.rules()...)
	}
	return all
}

// duties makes those that the configuration asks for.
func (b *box) duties() ([]duty, error) {
	var out []duty
	for _, set := range b.Supervise {
		switch set {
		case Devices:
			out = append(out, &nodes{owners: b.owners})
		case Owners:
			out = append(out, b.owners)
		case Processes:
			out = append(out, &relatives{family: b.family})
		case Signals: // the same duty
		case Names:
			out = append(out, &names{b})
		case Proc:
			tree, err := b.inRoot("/proc", unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
			if err != nil {
				return nil, fmt.Errorf("serving /proc: %w", err)
			}
			out = append(out, &procfs{b: b, tree: tree})
		default:
			return nil, errors.New("the init does not know how to serve " + string(set))
		}
	}
	return out, nil
}
