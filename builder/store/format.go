package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// version is the format of the store's directory that this program reads and writes.
const version = 1

// Format is the content of the file format.
type Format struct {
	Version int `json:"version"`
	// Layers is the form of the unpacked layers; empty until there are any.
	Layers Form `json:"layers,omitempty"`
}

// Form says how layers are kept: with which marks of overlayfs, or as copies; and whose their files are. The zero value is that of
// a store without layers.
type Form string

// The forms.
const (
	Trusted        Form = "trusted"         // overlay, as root
	User           Form = "user"            // overlay, in a user namespace
	Recorded       Form = "recorded"        // overlay, in a user namespace with one id: owners are recorded
	Copies         Form = "copies"          // no overlay, as root
	UserCopies     Form = "user-copies"     // no overlay, in a user namespace
	RecordedCopies Form = "recorded-copies" // no overlay, owners are recorded
)

// String says for people how such layers were unpacked.
func (f Form) String() string {
	switch f {
	case Trusted:
		return "as root"
	case User:
		return "in a user namespace"
	case Recorded:
		return "in a user namespace with one id"
	case Copies:
		return "as root without overlay"
	case UserCopies:
		return "in a user namespace without overlay"
	case RecordedCopies:
		return "by a user without overlay"
	default:
		return string(f)
	}
}

// FormError says that the layers of a store have one form, and another one was to be made.
type FormError struct {
	Root       string // the store
	Have, Want Form
}

func (e *FormError) Error() string {
	return fmt.Sprintf("the layers of the store %s were unpacked %v and cannot be used %v", e.Root, e.Have, e.Want)
}

// Hint says what to do about it.
func (e *FormError) Hint() string { return "use another store with --root, or delete this one" }

// VersionError says that a store has a format that this program does not know.
type VersionError struct {
	Root    string
	Version int
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("the store %s has format %d, and this strake knows %d", e.Root, e.Version, version)
}

// Hint says what to do about it.
func (e *VersionError) Hint() string { return "use a newer strake, or another store with --root" }

// ReadFormat reads the format of the store in root; that of a new store is the zero value. It may be one that this program does not know.
func ReadFormat(root string) (Format, error) {
	var f Format
	data, err := os.ReadFile(filepath.Join(root, "format"))
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, fmt.Errorf("opening the store: %w", err)
	}
	if err := json.Unmarshal(data, &f); err != nil || f.Version < 1 {
		return f, fmt.Errorf("opening the store %s: its file \"format\" is damaged", root)
	}
	return f, nil
}

// KnownFormat is ReadFormat, with a VersionError for a store that this program does not know.
func KnownFormat(root string) (Format, error) {
	f, err := ReadFormat(root)
	if err == nil && f.Version > version {
		err = &VersionError{root, f.Version}
	}
	return f, err
}

// mark refuses a store that this program does not know, or whose layers have another form; it marks a new store. An empty form
// stands for any.
func (s *Store) mark(layers Form) error {
	have, err := KnownFormat(s.Root)
	if err != nil {
		return err
	}
	if layers == "" {
		layers = have.Layers
	}
	if have.Layers != "" && layers != have.Layers {
		return &FormError{s.Root, have.Layers, layers}
	}
	want := Format{version, layers}
	if want == have {
		return nil
	}
	data, err := json.Marshal(want)
	if err != nil {
		return err
	}
	return writeFile(s.Path("format"), append(data, '\n'), true)
}
