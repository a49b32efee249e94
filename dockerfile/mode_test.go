package dockerfile_test

import (
	"testing"

	"github.com/strake-build/strake/dockerfile"
)

func TestMode(t *testing.T) {
	tests := []struct {
		mode      string
		perm      uint32
		file, dir uint32
	}{
		{"0755", 0o4600, 0o755, 0o755},
		{"7777", 0, 0o7777, 0o7777},
		{"000000644", 0o777, 0o644, 0o644},
		{"u=rwX,go=rX", 0o600, 0o644, 0o755},
		{"u=rwX,go=rX", 0o700, 0o755, 0o755},
		{"a+X", 0o640, 0o640, 0o751},
		{"+x", 0o640, 0o751, 0o751},
		{"-X", 0o755, 0o644, 0o644},
		{"go-w", 0o666, 0o644, 0o644},
		{"g=u", 0o640, 0o660, 0o660},
		{"go=u-w", 0o700, 0o755, 0o755},
		{"o+g-u", 0o460, 0o462, 0o462},
		{"a=", 0o7777, 0o1000, 0o1000},
		{"=", 0o7777, 0o1000, 0o1000},
		{"u+s,g+s", 0o755, 0o6755, 0o6755},
		{"a-s", 0o6755, 0o755, 0o755},
		{"o+s", 0o755, 0o755, 0o755},
		{"+t", 0o755, 0o1755, 0o1755},
		{"o+t", 0o755, 0o755, 0o755},
		{"=t", 0o644, 0o1644, 0o1644}, // BSD's, see change
		{"u+", 0o644, 0o644, 0o644},
		{"u=rw,g=r,o=", 0o777, 0o640, 0o640},
		{"ug+w-x", 0o751, 0o661, 0o661},
	}
	for _, test := range tests {
		m, err := dockerfile.ParseMode(test.mode)
		if err != nil {
			t.Errorf("%s: %v", test.mode, err)
			continue
		}
		if got := m.Apply(test.perm, false); got != test.file {
			t.Errorf("%s on a file of %o: got %o, want %o", test.mode, test.perm, got, test.file)
		}
		if got := m.Apply(test.perm, true); got != test.dir {
			t.Errorf("%s on a folder of %o: got %o, want %o", test.mode, test.perm, got, test.dir)
		}
	}
	if got := (dockerfile.Mode{}).Apply(0o4321, true); got != 0o4321 {
		t.Errorf("the zero Mode gives %o", got)
	}
}

func TestModeErrors(t *testing.T) {
	octal := func(s string) string {
		return "invalid chmod parameter: '" + s + "'. it should be octal string and between 0 and 07777"
	}
	for mode, want := range map[string]string{
		"64a": octal("64a"), "10000": octal("10000"), "8": octal("8"), "99999999999999999999": octal("99999999999999999999"),
		"": "invalid syntax", "u": "invalid syntax", "u+q": "invalid syntax", "u+x,": "invalid syntax", "+755": "invalid syntax", "-1": "invalid syntax", "u g": "invalid syntax",
	} {
		if _, err := dockerfile.ParseMode(mode); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", mode, err, want)
		}
	}
}

func FuzzMode(f *testing.F) {
	for _, s := range []string{"u=rwX,go-w", "+t", "g=ru", "=XX", "u+x-w=r,o=g", "0755", "8", "u+x,"} {
		f.Add(s, uint16(0o644), false)
	}
	f.Fuzz(func(t *testing.T, s string, perm uint16, dir bool) {
		m, err := dockerfile.ParseMode(s)
		if err != nil {
			return
		}
		got := m.Apply(uint32(perm), dir)
		if got > 0o7777 {
			t.Fatalf("%q makes %o of %o", s, got, perm)
		}
		if s[0] <= '9' && s[0] >= '0' && m.Apply(got^0o7777, !dir) != got {
			t.Fatalf("%q is absolute, but depends on what was before", s)
		}
	})
}
