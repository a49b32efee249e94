package store

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestTempDir(t *testing.T) {
	s := &Store{Root: t.TempDir()}
	live, remove, err := s.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	dead := s.Path("tmp", "dead")
	if err := os.MkdirAll(filepath.Join(dead, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, removeOther, err := s.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	removeOther()
	if _, err := os.Stat(live); err != nil {
		t.Errorf("a folder in use is gone: %v", err)
	}
	if _, err := os.Stat(dead); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder of a dead process is left: %v", err)
	}
	remove()
	if _, err := os.Stat(live); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is left: %v", err)
	}
}

func TestReserveName(t *testing.T) {
	s := &Store{Root: t.TempDir()}
	release, err := s.ReserveName("web")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReserveName("web"); err == nil {
		t.Error("a name in use is given away")
	}
	release()
	again, err := s.ReserveName("web")
	if err != nil {
		t.Fatalf("a free name is refused: %v", err)
	}
	again()
	if entries, _ := os.ReadDir(s.Path("names")); len(entries) > 0 {
		t.Errorf("%d files are left", len(entries))
	}
}
