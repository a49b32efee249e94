package supervisor

import (
	"errors"

	"github.com/strake-build/strake/runner/seccomp"
)

// RuleSet names calls that the init answers for a step. A filter has their rules before those of the profile.
type RuleSet string

// The rule sets.
const (
	Devices RuleSet = "devices" // in a user namespace: files that stand for devices
	Owners  RuleSet = "owners"  // in one with a single id: files of other users, and processes of theirs

	Users RuleSet = "users" // with Owners, for a step that begins as a user: what it may do with files of others

	Processes RuleSet = "processes" // without a pid namespace: calls that name other ones
	Signals   RuleSet = "signals"   // with Processes, where the kernel itself does not keep signals in
	Proc      RuleSet = "proc"      // by chroot: files of /proc
	Names     RuleSet = "names"     // where a host name cannot be set: the host's name

	// Whiteouts are refused: the device 0:0, which everybody may make, and which an overlay does not let anybody make. Nothing is served for it.
	Whiteouts RuleSet = "whiteouts"
)

// Box is what the duties know of the box that they serve.
type Box struct {
	Proc     int        // a proc file system that shows the step's processes by the pids that the init sees
	Sys      int        // for Proc: the /sys around the box
	Tree     int        // for Proc: the box's own /proc, a directory
	Hostname string     // empty: that of the host
	Family   *Family    // for Processes, Signals and Proc
	Owners   *Ownership // for Owners, and for Devices if the box has a single id
}

// rules are in the form of a profile. A masked comparison has the mask first.
func (r RuleSet) rules() []string {
	switch r {
	case Devices:
		return []string{deviceRules}
	case Owners:
		return []string{listRules, createRules, statRules, ownerRules}
	case Users:
		return []string{userRules}
	case Processes:
		return []string{processRules}
	case Signals:
		return []string{signalRules}
	case Proc:
		return []string{procRules, changeRules}
	case Names:
		return []string{nameRules}
	case Whiteouts:
		return []string{whiteoutRules}
	}
	return nil
}

// Filter is seccomp.Filter for boxes whose init answers the calls of sets. Where the kernel cannot do that,
// seccomp.WithoutNotify makes of it what seccomp.Filter returns.
func Filter(caps uint64, sets ...RuleSet) ([]byte, error) {
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

// duties makes what answers the calls of the rule sets.
func (b *Box) duties(sets []RuleSet) ([]duty, error) {
	var out []duty
	for _, set := range sets {
		switch set {
		case Devices:
			out = append(out, &nodes{owners: b.Owners})
		case Owners:
			out = append(out, b.Owners)
		case Processes:
			out = append(out, &relatives{family: b.Family})
		case Signals, Users: // the same duty as that of the one before
		case Names:
			out = append(out, &names{b.Hostname})
		case Proc:
			out = append(out, newProcfs(*b))
		default:
			return nil, errors.New("the init does not know how to serve " + string(set))
		}
	}
	return out, nil
}
