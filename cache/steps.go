package cache

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// ParseKey reads what Key.String wrote.
func ParseKey(s string) (Key, bool) {
	var k Key
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) != len(k) {
		return Key{}, false
	}
	copy(k[:], raw)
	return k, true
}

// step is the file of a step's latest key.
func (s *Store) step(id Key) string {
	name := id.String()
	return filepath.Join(s.dir, "steps", name[:2], name)
}

// Latest returns the key that the step called id had when it was last built here, or an error that wraps ErrMiss. id says which
// instruction it is (of which stage of which Dockerfile), and nothing of what the instruction depends on. The record of the key
// may be gone.
func (s *Store) Latest(_ context.Context, id Key) (Key, error) {
	data, err := os.ReadFile(s.step(id))
	if errors.Is(err, fs.ErrNotExist) {
		return Key{}, ErrMiss
	}
	if err != nil {
		return Key{}, fmt.Errorf("%w: %w", ErrMiss, err)
	}
	k, ok := ParseKey(string(bytes.TrimSuffix(data, []byte("\n"))))
	if !ok {
		return Key{}, ErrDamaged
	}
	return k, nil
}

// SetLatest says that the step called id has the key k now. It is a hint, and written in place: a torn one is none.
func (s *Store) SetLatest(_ context.Context, id, k Key) error {
	path, data := s.step(id), []byte(k.String()+"\n")
	err := os.WriteFile(path, data, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			err = os.WriteFile(path, data, 0o600)
		}
	}
	if err != nil {
		return fmt.Errorf("saving the latest key of a step: %w", err)
	}
	return nil
}
