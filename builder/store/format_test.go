package store

import (
	"errors"
	"os"
	"testing"
	"time"
)

// TestFormat opens stores of all formats.
func TestFormat(t *testing.T) {
	s := &Store{Root: t.TempDir()}
	for _, layers := range []Form{"", User, "", User} {
		if err := s.mark(layers); err != nil {
			t.Fatalf("%q: %v", layers, err)
		}
	}
	if f, err := ReadFormat(s.Root); f != (Format{version, User}) || err != nil {
		t.Errorf("the format is %v, %v", f, err)
	}
	var misfit *FormError
	if err := s.mark(Trusted); !errors.As(err, &misfit) || misfit.Have != User || misfit.Want != Trusted {
		t.Errorf("layers of another user's making: %v", err)
	}
	for _, content := range []string{`{"version":99}`, `{"version":0}`, `nonsense`, ``} {
		if err := os.WriteFile(s.Path("format"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(s.Root, time.Now)
		var newer *VersionError
		if err == nil || errors.As(err, &newer) != (content == `{"version":99}`) {
			t.Errorf("a store with the format %q is opened: %v", content, err)
		}
	}
}
