package cachemount

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Problem is what Check finds.
type Problem struct {
	Name string // of the file or directory, in Store.Dir
	Err  error  // nil for what a process left that was killed: it does no harm
	// Drop removes it, and returns false if a step has the directory.
	Drop func() (bool, error)
}

// Check looks at the directories of all caches and returns how many there are. It does not look into them: what they hold is the tools' own.
func (s *Store) Check() (checked int, problems []Problem, err error) {
	paths, err := filepath.Glob(filepath.Join(s.Dir, "*", "*"))
	if err != nil {
		return 0, nil, fmt.Errorf("listing the caches of steps: %w", err)
	}
	for _, path := range paths {
		if filepath.Base(path) != "id" {
			checked++
		}
		why, drop, err := checkMount(path)
		if err != nil {
			return 0, nil, fmt.Errorf("checking the caches of steps: %w", err)
		}
		if drop != nil {
			name := filepath.Join(filepath.Base(filepath.Dir(path)), filepath.Base(path))
			problems = append(problems, Problem{name, why, drop})
		}
	}
	return checked, problems, nil
}

// checkMount looks at what is in the folder of a cache: the file id, or a directory of the cache. drop is nil if nothing is wrong.
func checkMount(path string) (why error, drop func() (bool, error), err error) {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil // removed meanwhile
	}
	if err != nil {
		return nil, nil, err
	}
	remove := func() (bool, error) {
		err := os.Remove(path)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil // it went with the last directory of the cache
		}
		return true, err
	}
	switch {
	case filepath.Base(path) == "id":
		if why := checkID(path); why != nil {
			return why, remove, nil // the next step that uses the cache writes it
		}
		return nil, nil, nil
	case !fi.IsDir():
		return errors.New("it is no directory"), remove, nil
	case strings.Contains(path, removedMark):
		return nil, func() (bool, error) { return removePlace(path) }, nil
	}
	files, err := os.Lstat(filepath.Join(path, "fs"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil // it is made when it is used
	}
	if err != nil {
		return nil, nil, err
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDONLY, 0)
	if err == nil {
		err = lock.Close()
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("it has no lock"), func() (bool, error) {
			if err := os.WriteFile(filepath.Join(path, "lock"), nil, 0o600); err != nil {
				return false, err
			}
			return removePlace(path)
		}, nil
	case err == nil && !files.IsDir():
		return errors.New("its files are no directory"), func() (bool, error) { return removePlace(path) }, nil
	}
	return nil, nil, err
}

// checkID says what is wrong with the file that says of which cache the directories beside it are.
func checkID(path string) error {
	text, err := os.ReadFile(path)
	var id string
	if err == nil {
		err = json.Unmarshal(text, &id)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed meanwhile
	}
	if err != nil {
		return err
	}
	if sum := sha256.Sum256([]byte(id)); hex.EncodeToString(sum[:]) != filepath.Base(filepath.Dir(path)) {
		return errors.New("it is the name of another cache")
	}
	return nil
}
