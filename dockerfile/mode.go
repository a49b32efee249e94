package dockerfile

import (
	"errors"
	"fmt"
	"strings"
)

// Mode is a parsed --chmod: a change of permission bits. The zero Mode changes nothing.
type Mode struct {
	ops   []modeOp
	octal bool
}

// Octal says whether the mode is a number, and so the same for everything.
func (m Mode) Octal() bool { return m.octal }

// modeOp is one change, made after those before it.
type modeOp struct {
	// verb is '+' or '-' for bits that are set or cleared, 'X' for bits that are set where something may be executed already or is a folder,
	// or 'u', 'g', 'o' for the bits of that class, which are copied.
	verb byte
	bits uint32 // of a copy: the bits of the classes that it goes to
	// clear and set say what a copy does: "-" clears what the class has, "+" sets it, "=" does both, and clears all.
	clear, set bool
}

const (
	modeSetid  = 0o6000
	modeSticky = 0o1000
	modeAll    = 0o7777
	modeExec   = 0o111
)

// ParseMode reads a mode as chmod(1) takes it: octal, at most 07777, or symbolic ("u=rwX,go-w"). Its errors are BuildKit's. A symbolic
// mode that names no class means all: there is no umask here.
func ParseMode(s string) (Mode, error) {
	if s == "" {
		return Mode{}, errModeSyntax
	}
	if s[0] >= '0' && s[0] <= '9' {
		return parseOctal(s)
	}
	var m Mode
	for clause := range strings.SplitSeq(s, ",") {
		if err := m.parseClause(clause); err != nil {
			return Mode{}, err
		}
	}
	return m, nil
}

var errModeSyntax = errors.New("invalid syntax")

func parseOctal(s string) (Mode, error) {
	var bits uint32
	for _, c := range []byte(s) {
		bits = bits<<3 | uint32(c-'0')
		if c < '0' || c > '7' || bits > modeAll {
			return Mode{}, fmt.Errorf("invalid chmod parameter: '%s'. it should be octal string and between 0 and 07777", s)
		}
	}
	return Mode{ops: []modeOp{{verb: '-', bits: modeAll}, {verb: '+', bits: bits}}, octal: true}, nil
}

// parseClause reads what stands between two commas: classes and, for them, one change or more.
func (m *Mode) parseClause(s string) error {
	who, n := uint32(0), 0
	for n < len(s) && strings.IndexByte("augo", s[n]) >= 0 {
		who |= classBits(s[n])
		n++
	}
	if s = s[n:]; s == "" {
		return errModeSyntax
	}
	for s != "" {
		if strings.IndexByte("+-=", s[0]) < 0 {
			return errModeSyntax
		}
		n := 1
		for n < len(s) && strings.IndexByte("rwxXstugo", s[n]) >= 0 {
			n++
		}
		m.change(who, s[0], s[1:n])
		s = s[n:]
	}
	return nil
}

func classBits(class byte) uint32 {
	switch class {
	case 'u':
		return 0o4700
	case 'g':
		return 0o2070
	case 'o':
		return 0o0007
	}
	return 0o6777
}

// change adds what one of "+", "-", "=" and the letters after it do. A class that is copied first ends what was collected before it.
func (m *Mode) change(who uint32, op byte, letters string) {
	var bits, exec uint32
	done := op != '=' // "=" alone clears
	flush := func(last bool) {
		if bits != 0 || last && !done {
			m.add(who, op, bits)
			bits, done = 0, true
		}
		if exec != 0 {
			m.ops = append(m.ops, modeOp{verb: 'X', bits: masked(who, exec)})
			exec = 0
		}
	}
	for _, c := range []byte(letters) {
		switch c {
		case 'r':
			bits |= 0o444
		case 'w':
			bits |= 0o222
		case 'x':
			bits |= modeExec
		case 'X':
			if op == '-' { // there is nothing to ask then
				bits |= modeExec
			} else {
				exec = modeExec
			}
		case 's':
			if who != 0o007 {
				bits |= modeSetid
			}
		case 't':
			if who != 0o007 {
				bits |= modeSticky
				who |= modeSticky // without a class, it is the only bit that the change is about: BuildKit's chmod is BSD's
			}
		default:
			flush(false)
			done = true
			m.ops = append(m.ops, modeOp{verb: c, bits: masked(who, 0o777), clear: op != '+', set: op != '-'})
		}
	}
	flush(true)
}

// masked are those of bits that belong to the classes; no class means all.
func masked(who, bits uint32) uint32 {
	if who == 0 {
		return bits
	}
	return who & bits
}

func (m *Mode) add(who uint32, op byte, bits uint32) {
	if op == '=' {
		// What is not said of the sticky bit leaves it.
		m.ops = append(m.ops, modeOp{verb: '-', bits: masked(who, modeAll&^modeSticky|who&modeSticky)})
		op = '+'
	}
	m.ops = append(m.ops, modeOp{verb: op, bits: masked(who, bits)})
}

// Apply is what the mode makes of permission bits (07777, as chmod(2) has them). dir says that they are a folder's.
func (m Mode) Apply(perm uint32, dir bool) uint32 {
	before := perm
	for _, op := range m.ops {
		switch op.verb {
		case '+':
			perm |= op.bits
		case '-':
			perm &^= op.bits
		case 'X':
			if dir || before&modeExec != 0 {
				perm |= op.bits
			}
		case 'u':
			perm = op.copy(perm, perm>>6&7)
		case 'g':
			perm = op.copy(perm, perm>>3&7)
		case 'o':
			perm = op.copy(perm, perm&7)
		}
	}
	return perm & modeAll
}

// copy gives the classes of op the bits of one of them.
func (op modeOp) copy(perm, value uint32) uint32 {
	spread := (value<<6 | value<<3 | value) & op.bits
	switch {
	case op.clear && op.set:
		return perm&^op.bits | spread
	case op.clear:
		return perm &^ spread
	}
	return perm | spread
}
