package store_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"slices"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/builder/store"
	"github.com/strake-build/strake/layer/snapshot"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open opens the store in root as a process of its own does, in a form that needs no privileges.
func open(t *testing.T, root string) *store.Store {
	t.Helper()
	s, err := store.Open(root, time.Now)
	must(t, err)
	must(t, s.OpenLayers(store.LayerOptions{Form: store.RecordedCopies, Snapshots: snapshot.Options{RecordOwners: true, Copy: true}}))
	t.Cleanup(func() {
		s.Release()
		s.Snapshots.Close()
	})
	return s
}

// fill puts a layer and a blob, which no image needs, into the store. Whoever puts them holds them.
func fill(t *testing.T, s *store.Store) (layer snapshot.ID, blob v1.Hash) {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	must(t, w.WriteHeader(&tar.Header{Name: "f", Typeflag: tar.TypeReg, Mode: 0o644, Size: 1}))
	_, err := w.Write([]byte("x"))
	must(t, errors.Join(err, w.Close()))
	layer, err = s.Snapshots.Unpack(t.Context(), digest(b.Bytes()), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	must(t, err)
	content := []byte("{}")
	blob = digest(content)
	must(t, s.Blobs.Put(t.Context(), blob, bytes.NewReader(content)))
	return layer, blob
}

func digest(b []byte) v1.Hash {
	sum := sha256.Sum256(b)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

// ids are those of things, sorted.
func ids(list store.Holdings) (found []string) {
	for _, h := range list {
		found = append(found, h.ID)
	}
	slices.Sort(found)
	return found
}

// TestPruneBeside removes what nobody needs beside a process that uses it, and after its end.
func TestPruneBeside(t *testing.T) {
	root := t.TempDir()
	user := open(t, root)
	layer, blob := fill(t, user)
	want := []string{string(layer), blob.String()}
	slices.Sort(want)

	u, err := open(t, root).Usage(t.Context())
	must(t, err)
	if got := ids(u.Holdings); !slices.Equal(got, want) || u.Holdings.Size() == 0 {
		t.Errorf("it holds %q of %d bytes, want %q", got, u.Holdings.Size(), want)
	}
	for _, h := range u.Holdings {
		if !h.InUse || h.Reclaimable {
			t.Errorf("%s: in use %t, reclaimable %t", h.ID, h.InUse, h.Reclaimable)
		}
	}
	pruned, err := open(t, root).Prune(t.Context(), store.PruneOptions{})
	if err != nil || len(pruned.Holdings) > 0 {
		t.Errorf("removed %q, which is in use, %v", ids(pruned.Holdings), err)
	}
	user.Release()
	if pruned, err = open(t, root).Prune(t.Context(), store.PruneOptions{Kinds: []store.Kind{store.Blob}}); err != nil || !slices.Equal(ids(pruned.Holdings), []string{blob.String()}) {
		t.Errorf("removed %q of the blobs, %v", ids(pruned.Holdings), err)
	}
	if pruned, err = open(t, root).Prune(t.Context(), store.PruneOptions{}); err != nil || !slices.Equal(ids(pruned.Holdings), []string{string(layer)}) {
		t.Errorf("removed %q of the rest, %v", ids(pruned.Holdings), err)
	}
}

// TestCheckBeside finds a damaged blob, and drops it when nobody uses it any more.
func TestCheckBeside(t *testing.T) {
	root := t.TempDir()
	user := open(t, root)
	_, blob := fill(t, user)
	path := user.Path("blobs", "sha256", blob.Hex)
	must(t, os.Chmod(path, 0o600))
	must(t, os.WriteFile(path, []byte("[]"), 0o600))
	check := func(repair bool) (fates []store.Fate, checked store.Checked) {
		t.Helper()
		checked, err := open(t, root).Check(t.Context(), store.CheckOptions{Repair: repair, Report: func(f store.Finding) error {
			fates = append(fates, f.Fate)
			return nil
		}})
		must(t, err)
		return fates, checked
	}
	for _, c := range []struct {
		repair bool
		before func()
		want   store.Fate
		inUse  int
	}{
		{false, func() {}, store.Damaged, 0},
		{true, func() {}, store.DamagedInUse, 1},
		{true, user.Release, store.Dropped, 0},
	} {
		c.before()
		if fates, got := check(c.repair); !slices.Equal(fates, []store.Fate{c.want}) || got.Blobs != 1 || got.Layers != 1 || got.Problems != 1 || got.InUse != c.inUse {
			t.Errorf("found %q, %+v; want %q", fates, got, c.want)
		}
	}
	if fates, got := check(true); len(fates) > 0 || got.Blobs != 0 || got.Problems != 0 {
		t.Errorf("found %q, %+v after all was dropped", fates, got)
	}
}

// TestUnreadableImage: one that cannot be read may need anything, so nothing is removed.
func TestUnreadableImage(t *testing.T) {
	root := t.TempDir()
	s := open(t, root)
	fill(t, s)
	s.Release()
	must(t, os.WriteFile(s.Path("images", "images", digest(nil).Hex+".json"), []byte("torn"), 0o600))
	var unreadable *store.ImagesError
	if pruned, err := s.Prune(t.Context(), store.PruneOptions{}); !errors.As(err, &unreadable) || len(pruned.Holdings) > 0 {
		t.Errorf("removed %q, %v", ids(pruned.Holdings), err)
	}
}
