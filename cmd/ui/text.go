package ui

import (
	"strconv"
	"unicode/utf8"
)

// Bytes formats a number of bytes as docker does: decimal units, four significant digits at most.
func Bytes(n int64) string { return decimal(n, 4) }

// Size formats a size as docker's tables do: decimal units, three significant digits.
func Size(n int64) string { return decimal(n, 3) }

func decimal(n int64, digits int) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}
	v, i := float64(n), 0
	for {
		text := strconv.FormatFloat(v, 'g', digits, 64)
		// Rounding may reach the next unit: 999.9 kB with three digits is 1 MB.
		if rounded, err := strconv.ParseFloat(text, 64); err != nil || rounded < 1000 || i == len(units)-1 {
			return text + units[i]
		}
		v /= 1000
		i++
	}
}

// Printable removes from untrusted text what could act on a terminal: escape sequences other than
// colours (SGR), and control characters other than the tab.
func Printable(p []byte) []byte {
	clean := true
	for _, c := range p {
		if c < ' ' && c != '\t' || c >= 0x7f {
			clean = false
			break
		}
	}
	if clean {
		return p
	}
	out := make([]byte, 0, len(p))
	for i := 0; i < len(p); {
		switch c := p[i]; {
		case c == 0x1b:
			n, keep := escape(p[i:])
			if keep {
				out = append(out, p[i:i+n]...)
			}
			i += n
		case c == '\t', c >= ' ' && c < 0x7f:
			out = append(out, c)
			i++
		case c < ' ', c == 0x7f:
			i++
		default:
			r, n := utf8.DecodeRune(p[i:])
			// C1 controls (U+0080 to U+009F) include an 8-bit CSI and OSC.
			if r == utf8.RuneError && n == 1 {
				out = append(out, "\uFFFD"...)
			} else if r >= 0xa0 {
				out = append(out, p[i:i+n]...)
			}
			i += n
		}
	}
	return out
}

// escape measures the escape sequence that p begins with (ECMA-48) and says whether it is harmless: only
// a CSI that ends in "m" and holds nothing but digits, ";" and ":".
func escape(p []byte) (n int, keep bool) {
	if len(p) < 2 {
		return len(p), false
	}
	switch p[1] {
	case '[':
		keep = true
		for i := 2; i < len(p); i++ {
			switch c := p[i]; {
			case c >= '0' && c <= '9', c == ';', c == ':':
			case c >= 0x20 && c <= 0x3f:
				keep = false
			case c >= 0x40 && c <= 0x7e:
				return i + 1, keep && c == 'm'
			default: // malformed: the rest is text
				return i, false
			}
		}
		return len(p), false
	case ']', 'P', 'X', '^', '_': // OSC, DCS, SOS, PM, APC: up to ST or BEL
		for i := 2; i < len(p); i++ {
			if p[i] == 0x07 {
				return i + 1, false
			}
			if p[i] == 0x1b && i+1 < len(p) && p[i+1] == '\\' {
				return i + 2, false
			}
		}
		return len(p), false
	default:
		i := 1
		for i < len(p) && p[i] >= 0x20 && p[i] <= 0x2f {
			i++
		}
		return min(i+1, len(p)), false
	}
}
