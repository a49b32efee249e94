package cache

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// saltSize is that of the salt, in bytes.
const saltSize = 32

// Salt is random and the same for as long as the store lives: what is hashed with it means nothing elsewhere.
func (s *Store) Salt() ([]byte, error) {
	path := filepath.Join(s.dir, "salt")
	for {
		salt, err := os.ReadFile(path)
		if err == nil && len(salt) == saltSize {
			return salt, nil
		}
		if err == nil { // torn
			err = os.Remove(path)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reading the salt of the build cache: %w", err)
		}
		if err := s.makeSalt(path); err != nil {
			return nil, fmt.Errorf("making the salt of the build cache: %w", err)
		}
	}
}

// makeSalt makes the file, unless somebody else does.
func (s *Store) makeSalt(path string) error {
	tmp := filepath.Join(s.dir, "tmp", "salt-"+rand.Text())
	salt := make([]byte, saltSize)
	_, _ = rand.Read(salt) // never fails
	if err := os.WriteFile(tmp, salt, 0o600); err != nil {
		return err
	}
	err := os.Link(tmp, path)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist) { // it is made, or tmp was swept away: try again
		err = nil
	}
	if rerr := os.Remove(tmp); err == nil && !errors.Is(rerr, fs.ErrNotExist) {
		err = rerr
	}
	return err
}
