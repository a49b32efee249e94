package layer_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer"
)

// nobody is who runs TestPlainUser.
const nobody = 65534

// layerTars are tars of layers, and what Write makes of each where owners are real.
func layerTars(t testing.TB) (in, want [][]byte) {
	t.Helper()
	in = [][]byte{everything(t)}
	for _, c := range applied {
		in = append(in, archive(t, c.tar...))
	}
	for seed := range uint64(4) {
		root, dir := newRoot(t)
		randomTree(t, rand.New(rand.NewPCG(seed, 2)), dir, dir, 0, layer.Options{})
		in = append(in, write(t, root, layer.Options{}))
	}
	in = append(in, ownedLinks(t, 300))
	for _, b := range in {
		root, _ := newRoot(t)
		apply(t, root, b, layer.Options{})
		want = append(want, write(t, root, layer.Options{}))
	}
	return in, want
}

// ownedLinks is a tar of n symbolic links in one directory, each with another owner.
func ownedLinks(t testing.TB, n int) []byte {
	list := []h{dir("d")}
	for i := range n {
		e := symlink(fmt.Sprintf("d/%05d%%\n", i), "target")
		e.Uid, e.Gid = i, n-i
		list = append(list, e)
	}
	// Some change, some are not links any more, and one has a second name.
	e := symlink("d/00000%\n", "other")
	e.Uid = 7
	fifo := h{}
	fifo.Name, fifo.Typeflag, fifo.Uid = "d/fifo", '6', 9
	return archive(t, append(list, e, symlink("d/00001%\n", "root's"), file("d/00002%\n", ""), hard("d/hard", "d/00003%\n"), fifo)...)
}

// TestManyLinks: the owners of a directory's links may need more than a file's attributes hold.
func TestManyLinks(t *testing.T) {
	needRoot(t)
	b := ownedLinks(t, 5000)
	real, _ := newRoot(t)
	apply(t, real, b, layer.Options{})
	want := write(t, real, layer.Options{})
	root, _ := newRoot(t)
	opt := layer.Options{Form: layer.Marked, RecordOwners: true}
	apply(t, root, b, opt)
	if !bytes.Equal(write(t, root, opt), want) {
		t.Error("other bytes")
	}
}

func sameTar(t *testing.T, what string, b, want []byte, opt layer.Options) {
	t.Helper()
	root, dir := newRoot(t)
	apply(t, root, b, opt)
	got := write(t, root, opt)
	if !bytes.Equal(got, want) {
		g, w := list(t, got), list(t, want)
		for i := range max(len(g), len(w)) {
			if i >= len(g) || i >= len(w) || g[i] != w[i] {
				t.Fatalf("%s: entry %d\ngot  %v\nwant %v", what, i, g[min(i, len(g)-1)], w[min(i, len(w)-1)])
			}
		}
		t.Fatalf("%s: other bytes", what)
	}
	if left, _ := os.ReadDir(filepath.Dir(dir)); len(left) != 1 {
		t.Errorf("%s: something is outside: %v", what, left)
	}
	again, _ := newRoot(t)
	apply(t, again, got, opt)
	if !bytes.Equal(write(t, again, opt), want) {
		t.Fatalf("%s: other bytes after a second round", what)
	}
}

// TestRecordedOwners unpacks layers as root of a namespace with one id does, which must not chown.
func TestRecordedOwners(t *testing.T) {
	needRoot(t)
	in, want := layerTars(t)
	for i, b := range in {
		for _, opt := range []layer.Options{
			{UserXattr: true, RecordOwners: true},
			{Form: layer.Marked, UserXattr: true, RecordOwners: true},
			{Form: layer.Marked, RecordOwners: true},
		} {
			sameTar(t, fmt.Sprintf("tar %d, %+v", i, opt), b, want[i], opt)
		}
	}
	root, top := newRoot(t)
	apply(t, root, in[0], layer.Options{UserXattr: true, RecordOwners: true})
	err := filepath.WalkDir(top, func(p string, _ os.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(p, &st)
		}
		if st.Uid != 0 || st.Gid != 0 {
			t.Errorf("%s belongs to %d:%d", p, st.Uid, st.Gid)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestPlainUser does the same as a user without privileges, and in a namespace with one id.
func TestPlainUser(t *testing.T) {
	const env = "STRAKE_TEST_PLAIN_USER"
	if dir := os.Getenv(env); dir != "" {
		opt := layer.Options{Form: layer.Marked, RecordOwners: true}
		if os.Getuid() == 0 {
			opt = layer.Options{UserXattr: true, RecordOwners: true}
		}
		for i := 0; ; i++ {
			in, err := os.ReadFile(filepath.Join(dir, fmt.Sprint("in", i)))
			if err != nil {
				if i == 0 {
					t.Error(err)
				}
				return
			}
			want, err := os.ReadFile(filepath.Join(dir, fmt.Sprint("want", i)))
			if err != nil {
				t.Fatal(err)
			}
			sameTar(t, fmt.Sprint("tar ", i), in, want, opt)
		}
	}
	needRoot(t)
	dir, err := os.MkdirTemp("", "strake-plain-") //nolint:usetesting // t.TempDir is in a folder that only its owner enters
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	in, want := layerTars(t)
	for i := range in {
		for name, b := range map[string][]byte{"in": in[i], "want": want[i]} {
			if err := os.WriteFile(filepath.Join(dir, name+fmt.Sprint(i)), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	for name, attr := range map[string]*syscall.SysProcAttr{
		"no namespace": {Credential: &syscall.Credential{Uid: nobody, Gid: nobody}},
		"one id": {
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: nobody, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: nobody, Size: 1}},
			Credential:  &syscall.Credential{Uid: 0, Gid: 0, NoSetGroups: true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe", "-test.run=^TestPlainUser$", "-test.v")
			cmd.Env = []string{env + "=" + dir, "TMPDIR=" + dir, "GORACE=atexit_sleep_ms=0"} // with the race detector it would sleep for a second at its end
			cmd.Dir = "/"
			cmd.SysProcAttr = attr
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
