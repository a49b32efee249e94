package cache

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// MaxFiles is how many files a list of them may have: what selects more is not listed.
const MaxFiles = 100_000

// maxPaths bounds the paths of a list together, in bytes.
const maxPaths = 64 << 20

// File is one of the files that a digest stands for. Sum tells versions of it apart; it is no checksum to rely on.
type File struct {
	Path string
	Sum  [8]byte
}

// The parts of keys that lists of files explain: a digest of files, and, as it says nothing of the folders that they are copied
// from, what it was made of.
const (
	PartFiles  = "files"
	PartSource = "source"
)

// ListKey names the list of the files that a digest stands for, which sources selected.
func ListKey(digest string, sources []string) Key {
	parts := []Part{{Name: PartFiles, Value: digest}}
	for _, s := range sources {
		parts = append(parts, Part{Name: PartSource, Value: s})
	}
	return NewKey(parts)
}

// ListKeys names the lists of files that explain what a record with these parts was made of.
func ListKeys(parts []Part) []Key {
	var sources []string
	for _, p := range parts {
		if p.Name == PartSource {
			sources = append(sources, p.Value)
		}
	}
	var keys []Key
	for _, p := range parts {
		if p.Name == PartFiles {
			keys = append(keys, ListKey(p.Value, sources))
		}
	}
	return keys
}

// filesVersion is the first byte of a list.
const filesVersion = 1

func (s *Store) files(k Key) string {
	name := k.String()
	return filepath.Join(s.dir, "files", name[:2], name)
}

// SaveFiles keeps the list of the files that k stands for, unless there is one. More than MaxFiles are not kept.
func (s *Store) SaveFiles(_ context.Context, k Key, files []File) error {
	if len(files) > MaxFiles {
		return nil
	}
	path := s.files(k)
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	files = slices.Clone(files)
	sortFiles(files)
	body := []byte{filesVersion}
	last, total := "", 0
	for _, f := range files {
		if total += len(f.Path); total > maxPaths {
			return nil
		}
		// Paths that follow each other begin alike.
		same := 0
		for same < min(len(last), len(f.Path)) && last[same] == f.Path[same] {
			same++
		}
		body = binary.AppendUvarint(body, uint64(same))
		body = binary.AppendUvarint(body, uint64(len(f.Path)-same))
		body = append(append(body, f.Path[same:]...), f.Sum[:]...)
		last = f.Path
	}
	if err := s.put(path, seal(body)); err != nil {
		return fmt.Errorf("saving a list of files: %w", err)
	}
	return nil
}

// LoadFiles returns the list of the files that k stands for, sorted by path, or an error that wraps ErrMiss.
func (s *Store) LoadFiles(_ context.Context, k Key) ([]File, error) {
	data, err := os.ReadFile(s.files(k))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrMiss
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMiss, err)
	}
	body, ok := unseal(data)
	if !ok || len(body) == 0 || body[0] != filesVersion {
		return nil, ErrDamaged
	}
	return parseFiles(body[1:])
}

// parseFiles reads the entries of a list.
func parseFiles(body []byte) ([]File, error) {
	var files []File
	last, total := "", 0
	for len(body) > 0 {
		same, n := binary.Uvarint(body)
		if n <= 0 || same > uint64(len(last)) {
			return nil, ErrDamaged
		}
		body = body[n:]
		size, n := binary.Uvarint(body)
		if n <= 0 || size > uint64(len(body)-n) || len(body)-n-int(size) < len(File{}.Sum) || len(files) == MaxFiles {
			return nil, ErrDamaged
		}
		body = body[n:]
		f := File{Path: last[:same] + string(body[:size])}
		if total += len(f.Path); total > maxPaths {
			return nil, ErrDamaged
		}
		body = body[size:]
		copy(f.Sum[:], body)
		body = body[len(f.Sum):]
		files, last = append(files, f), f.Path
	}
	return files, nil
}

func sortFiles(files []File) {
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
}

// Change is how a file differs in two lists.
type Change struct {
	Path string
	How  string // changed, added or removed
}

// CompareFiles returns what differs, by path. Folders, whose paths end in "/", count only if nothing else differs. Both lists are
// sorted on the way.
func CompareFiles(before, now []File) []Change {
	sortFiles(before)
	sortFiles(now)
	var changes []Change
	i, j := 0, 0
	for i < len(before) || j < len(now) {
		switch {
		case j == len(now) || i < len(before) && before[i].Path < now[j].Path:
			changes = append(changes, Change{before[i].Path, "removed"})
			i++
		case i == len(before) || now[j].Path < before[i].Path:
			changes = append(changes, Change{now[j].Path, "added"})
			j++
		default:
			if before[i].Sum != now[j].Sum {
				changes = append(changes, Change{now[j].Path, "changed"})
			}
			i, j = i+1, j+1
		}
	}
	isFolder := func(c Change) bool { return strings.HasSuffix(c.Path, "/") }
	if slices.ContainsFunc(changes, func(c Change) bool { return !isFolder(c) }) {
		changes = slices.DeleteFunc(changes, isFolder)
	}
	return changes
}
