package snapshot_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer"
	"github.com/strake-build/strake/layer/rootfs"
	"github.com/strake-build/strake/layer/snapshot"
)

// scrambleOwned does random things to the tree at root, as a step does that knows how owners are kept.
func scrambleOwned(r *rand.Rand, root *rootfs.Root, steps int) {
	owners := root.Owners()
	for range steps {
		name := ""
		for range 1 + r.IntN(3) {
			name += "/" + string(rune('a'+r.IntN(4)))
		}
		kind, uid, gid, mode, content, sec := r.IntN(12), r.IntN(3), r.IntN(3), r.Uint32()&0o7777, byte('0'+r.IntN(3)), r.Int64N(2)
		dir, base, err := root.Parent(name)
		if err != nil {
			continue
		}
		isLink := kind == 4 || kind == 5
		switch kind { // much of it fails, which does not matter
		case 0, 1:
			err = rootfs.Mkdir(dir, base, 0o755)
		case 2, 3:
			f, ferr := rootfs.CreateEntry(dir, base, 0o644)
			if err = ferr; err == nil {
				_, err = f.Write([]byte{content})
				err = errors.Join(err, f.Close())
			}
		case 4, 5:
			err = rootfs.Symlink(string(content), dir, base)
		case 6:
			err = rootfs.Mknod(dir, base, unix.S_IFIFO|0o600, 0)
		case 7:
			_, err = rootfs.RemoveAll(dir, base), errors.New("gone")
		case 8:
			err = owners.SetXattr(dir, base, "user.x", []byte{content})
		case 9:
			st, serr := rootfs.StatEntry(dir, base)
			err, isLink = serr, st.Mode&unix.S_IFMT == unix.S_IFLNK
		default:
			_, err = owners.Chown(dir, base, uid, gid), errors.New("no more")
		}
		if err == nil {
			m := int(mode)
			if isLink {
				m = -1
			}
			t := unix.Timespec{Sec: sec}
			_, _ = owners.Set(dir, base, uid, gid, m), rootfs.Utimes(dir, base, t, t)
		}
		_ = dir.Close()
	}
}

// TestRecordedOwners stacks the same random steps where owners are real and where they are recorded: layers and views are the same.
func TestRecordedOwners(t *testing.T) {
	needRoot(t)
	if userXattr() {
		t.Skip("compares with real owners, once")
	}
	for seed := range uint64(12) {
		var tars, views [3][]string
		for i, opt := range []snapshot.Options{{}, {UserXattr: true, RecordOwners: true}, {Copy: true, RecordOwners: true}} {
			s, err := snapshot.Open(t.TempDir(), opt)
			if err != nil {
				t.Fatal(err)
			}
			elsewhere, err := snapshot.Open(t.TempDir(), opt)
			if err != nil {
				t.Fatal(err)
			}
			r := rand.New(rand.NewPCG(seed, 3))
			var layers, copies []snapshot.ID
			for range 5 {
				id := ownedStep(t, s, layers, r)
				layers = append(layers, id)
				var b bytes.Buffer
				if err := s.WriteTar(t.Context(), id, &b); err != nil {
					t.Fatal(err)
				}
				copied, err := elsewhere.Unpack(t.Context(), digest(b.Bytes()), opener(b.Bytes()))
				if err != nil {
					t.Fatal(err)
				}
				copies = append(copies, copied)
				tars[i] = append(tars[i], b.String())
				views[i] = append(views[i], viewTar(t, s, layers, opt), viewTar(t, elsewhere, copies, opt))
			}
		}
		for i := range tars {
			for n := range tars[0] {
				if tars[0][n] != tars[i][n] {
					t.Fatalf("seed %d: layer %d differs\n%s\nstore %d:\n%s", seed, n, tarListing(t, tars[0][n]), i, tarListing(t, tars[i][n]))
				}
			}
			for n := range views[0] {
				if views[0][n] != views[i][n] {
					t.Fatalf("seed %d: view %d differs\n%s\nstore %d:\n%s", seed, n, tarListing(t, views[0][n]), i, tarListing(t, views[i][n]))
				}
			}
		}
	}
}

// tarListing says what is in a tar.
func tarListing(t *testing.T, b string) string {
	t.Helper()
	var out strings.Builder
	r := tar.NewReader(strings.NewReader(b))
	for {
		h, err := r.Next()
		if err != nil {
			return out.String()
		}
		fmt.Fprintf(&out, "%c %s %q %o %d:%d %d %q\n", h.Typeflag, h.Name, h.Linkname, h.Mode, h.Uid, h.Gid, h.ModTime.Unix(), h.PAXRecords)
	}
}

// ownedStep is scrambleOwned on the layers.
func ownedStep(t *testing.T, s *snapshot.Store, layers []snapshot.ID, r *rand.Rand) snapshot.ID {
	t.Helper()
	a, err := s.Prepare(t.Context(), layers)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Discard()
	root, err := a.Open()
	if err != nil {
		t.Fatal(err)
	}
	scrambleOwned(r, root, 20)
	_ = root.Close()
	a.Clamp(1)
	id, err := a.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// viewTar is the tar of what the layers make together. The times of directories are left out: what overlayfs's copying leaves is not the same.
func viewTar(t *testing.T, s *snapshot.Store, layers []snapshot.ID, opt snapshot.Options) string {
	t.Helper()
	root, err := s.OpenView(t.Context(), layers)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var b bytes.Buffer
	if err := layer.Write(t.Context(), &b, root, layer.Options{Form: layer.Plain, UserXattr: opt.UserXattr, Epoch: new(int64)}); err != nil {
		t.Fatal(fmt.Errorf("writing the view: %w", err))
	}
	return b.String()
}
