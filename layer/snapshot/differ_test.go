package snapshot_test

import (
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/snapshot"
)

func TestLayersDifferInAllButTimes(t *testing.T) {
	s, _ := newStore(t)
	below := []snapshot.ID{unpack(t, s, "gone=1", "kept=1", "dir/", "dir/x=1")}
	base := func(r string) error {
		return errors.Join(os.MkdirAll(r+"/a/b", 0o755), os.WriteFile(r+"/a/file", []byte("12345"), 0o644), os.WriteFile(r+"/a.b", nil, 0o644),
			os.Symlink("a", r+"/link"), os.Link(r+"/a/file", r+"/hard"), os.Remove(r+"/gone"), os.RemoveAll(r+"/dir"), os.Mkdir(r+"/dir", 0o755))
	}
	first := write(t, s, below, base)
	cases := []struct {
		name string
		edit func(r string) error
		want []string
	}{
		{"nothing", func(string) error { return nil }, nil},
		{"times", func(r string) error { return os.Chtimes(r+"/a/file", time.Unix(1, 0), time.Unix(1, 0)) }, nil},
		{"content of a size", func(r string) error { return os.WriteFile(r+"/a/file", []byte("12346"), 0o644) }, []string{"/a/file"}},
		{"size", func(r string) error { return os.WriteFile(r+"/a.b", []byte("1"), 0o644) }, []string{"/a.b"}},
		{"mode", func(r string) error { return os.Chmod(r+"/a/b", 0o700) }, []string{"/a/b/"}},
		{"owner", func(r string) error { return os.Lchown(r+"/link", 5, 5) }, []string{"/link"}},
		{"attribute", func(r string) error { return unix.Setxattr(r+"/a.b", "user.x", []byte("1"), 0) }, []string{"/a.b"}},
		{"target", func(r string) error { return errors.Join(os.Remove(r+"/link"), os.Symlink("b", r+"/link")) }, []string{"/link"}},
		{"a name for another", func(r string) error { return os.Rename(r+"/a.b", r+"/a.c") }, []string{"/a.b", "/a.c"}},
		{"a whiteout more", func(r string) error { return os.Remove(r + "/kept") }, []string{"/.wh.kept"}},
		{"one file less", func(r string) error { return os.Remove(r + "/a.b") }, []string{"/a.b"}},
		{"the root", func(r string) error { return os.Chmod(r, 0o700) }, []string{"/"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			second := write(t, s, below, func(r string) error { return errors.Join(base(r), c.edit(r)) })
			got, err := s.Differences(t.Context(), first, second, 10)
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("got %q, %v", got, err)
			}
			if one, err := s.Differences(t.Context(), first, second, 1); err != nil || len(one) != min(1, len(c.want)) {
				t.Errorf("one: got %q, %v", one, err)
			}
			if same, err := s.Same(t.Context(), first, second); err != nil || same != (len(c.want) == 0) {
				t.Errorf("same: %t, %v", same, err)
			}
		})
	}
	if _, err := s.Same(t.Context(), first, "aaaaaaaaaaaaaaaa"); !errors.Is(err, snapshot.ErrNotFound) {
		t.Errorf("a layer that is not there: %v", err)
	}
}
