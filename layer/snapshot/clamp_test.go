package snapshot_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/snapshot"
)

// TestClamp commits files of many times: none is later than the epoch then, and earlier ones are as they were.
func TestClamp(t *testing.T) {
	const epoch = 1700000000
	s, _ := newStore(t)
	layers := []snapshot.ID{unpack(t, s, "below/", "below/old=1", "below/gone=1", "merged/")}
	a, err := s.Prepare(t.Context(), layers)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Discard()
	root, err := a.Open()
	if err != nil {
		t.Fatal(err)
	}
	r := path(root)
	at := func(name string, sec, nsec int64) error {
		ts := []unix.Timespec{{Sec: 77}, {Sec: sec, Nsec: nsec}}
		return unix.UtimesNanoAt(unix.AT_FDCWD, r+"/"+name, ts, unix.AT_SYMLINK_NOFOLLOW)
	}
	err = errors.Join(
		os.MkdirAll(r+"/d/e", 0o755), os.WriteFile(r+"/d/now", []byte("1"), 0o600), unix.Chmod(r+"/d/now", 0o4755),
		os.WriteFile(r+"/d/e/early", nil, 0o644), os.WriteFile(r+"/d/e/exact", nil, 0o644), os.WriteFile(r+"/d/e/late", nil, 0o644),
		os.Link(r+"/d/now", r+"/hard"), os.Symlink("/etc/passwd", r+"/link"), unix.Mkfifo(r+"/fifo", 0o600),
		os.WriteFile(r+"/below/old", []byte("2"), 0o644), os.Remove(r+"/below/gone"),
		os.WriteFile(r+"/merged/x", nil, 0o644), os.Remove(r+"/merged/x"), // leaves nothing but the directory's time
		os.Mkdir(r+"/kept", 0o755),
		at("d/e/early", 1, 5), at("d/e/exact", epoch, 1), at("d/e/late", 1<<32, 0), at("kept", epoch-1, 0),
	)
	_ = root.Close()
	if err != nil {
		t.Fatal(err)
	}
	a.Clamp(epoch)
	id, err := a.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := s.WriteTar(t.Context(), id, &b); err != nil {
		t.Fatal(err)
	}
	want := map[string]int64{"below/.wh.gone": 0, "d/e/early": 1, "kept/": epoch - 1}
	seen := 0
	for tr := tar.NewReader(&b); ; seen++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		w, ok := want[h.Name]
		if !ok {
			w = epoch
		}
		if h.ModTime.Unix() != w {
			t.Errorf("%s has the time %d, want %d", h.Name, h.ModTime.Unix(), w)
		}
	}
	if seen != 13 {
		t.Errorf("the layer has %d entries", seen)
	}
	view, err := s.OpenView(t.Context(), append(layers, id))
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	for name, want := range map[string]unix.Timespec{".": {Sec: epoch}, "d/e/exact": {Sec: epoch}, "d/e/early": {Sec: 1, Nsec: 5}, "link": {Sec: epoch}} {
		st, err := view.Lstat(name)
		if err != nil || st.Mtim != want {
			t.Errorf("%s: %v, %v, want %v", name, st.Mtim, err, want)
		}
	}
	if st, err := view.Stat("d/now"); err != nil || st.Mode&0o7777 != 0o4755 {
		t.Errorf("d/now has mode %o, %v", st.Mode, err)
	}
	if st, err := view.Stat("d/e/late"); err != nil || st.Atim.Sec != 77 {
		t.Errorf("the access time of d/e/late is %d, %v", st.Atim.Sec, err)
	}
}
