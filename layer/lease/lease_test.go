package lease_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strake-build/strake/layer/lease"
)

// holderVar makes this program one that holds what its value names, and waits.
const holderVar = "STRAKE_TEST_HOLDER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(holderVar); dir != "" {
		hold(dir)
	}
	os.Exit(m.Run())
}

func hold(dir string) {
	l, err := lease.Open(dir)
	if err == nil {
		err = l.Hold(func() error { return nil }, "theirs")
	}
	fmt.Println(err)
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test ends
	os.Exit(0)
}

func open(t testing.TB, dir string) *lease.Lease {
	t.Helper()
	l, err := lease.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func collect(t testing.TB, l *lease.Lease) *lease.Collection {
	t.Helper()
	c, err := l.Collect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func use(t testing.TB, l *lease.Lease, names ...string) {
	t.Helper()
	if err := l.Hold(func() error { return nil }, names...); err != nil {
		t.Fatal(err)
	}
}

// takes says whether c takes what the names stand for.
func takes(t testing.TB, c *lease.Collection, names ...string) bool {
	t.Helper()
	called := false
	ok, err := c.Take(func() error { called = true; return nil }, names...)
	if err != nil || ok != called {
		t.Errorf("Take: %t, %v; called: %t", ok, err, called)
	}
	return ok
}

func TestTake(t *testing.T) {
	dir := t.TempDir()
	user, collector := open(t, dir), open(t, dir)
	use(t, user, "before", "other name")
	missing := errors.New("missing")
	if err := user.Hold(func() error { return missing }, "not found"); !errors.Is(err, missing) {
		t.Error(err)
	}
	c := collect(t, collector)
	use(t, user, "after")
	for name, want := range map[string]bool{"before": false, "after": false, "other name": false, "not found": true, "nobody's": true} {
		if takes(t, c, "more", name) != want {
			t.Errorf("%s: taken: %t", name, !want)
		}
	}
	if ok, err := c.Take(func() error { return missing }, "fails"); ok || !errors.Is(err, missing) {
		t.Errorf("a Take that fails: %t, %v", ok, err)
	}
	if held, err := collector.Held(); err != nil || len(held) != 3 || !held["after"] {
		t.Errorf("held: %v, %v", held, err)
	}
	if _, err := user.Collect(); !errors.Is(err, lease.ErrBusy) {
		t.Errorf("a second collector: %v", err)
	}
}

// What somebody used until a moment ago may be somebody's now, and the collector looked before that.
func TestEndWhileCollecting(t *testing.T) {
	dir := t.TempDir()
	user, collector := open(t, dir), open(t, dir)
	use(t, user, "thing")
	c := collect(t, collector)
	user.Release()
	use(t, user, "too late")
	if takes(t, c, "thing") {
		t.Error("taken from one who has just ended")
	}
	if !takes(t, c, "too late") {
		t.Error("a lease that has ended holds something")
	}
	c.Close()
	if !takes(t, collect(t, collector), "thing") {
		t.Error("held for ever")
	}
	left(t, dir)
}

// left fails the test if there is a lease in dir.
func left(t testing.TB, dir string) {
	t.Helper()
	if paths, err := filepath.Glob(filepath.Join(dir, "lease-*")); err != nil || len(paths) > 0 {
		t.Errorf("left: %v, %v", paths, err)
	}
}

func TestRelease(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	l.Release()
	l.Release()
	left(t, dir)
	l = open(t, dir)
	use(t, l, "a")
	l.Release()
	left(t, dir)
}

// A process that is killed uses nothing any more.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), holderVar+"="+dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "<nil>\n" {
		t.Fatal(line, err)
	}
	l := open(t, dir)
	c := collect(t, l)
	if takes(t, c, "theirs") {
		t.Error("taken from a living process")
	}
	c.Close()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if held, err := l.Held(); err != nil || len(held) > 0 {
		t.Errorf("the dead use %v, %v", held, err)
	}
	c = collect(t, l)
	if !takes(t, c, "theirs") {
		t.Error("held by a dead process")
	}
	c.Close()
	left(t, dir)
}

// Commands need not release: who comes next removes what they left.
func TestEndWithoutRelease(t *testing.T) {
	dir := t.TempDir()
	dead, err := os.Create(filepath.Join(dir, "lease-dead"))
	if err := errors.Join(err, dead.Close()); err != nil {
		t.Fatal(err)
	}
	use(t, open(t, dir), "a")
	if _, err := os.Lstat(dead.Name()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the lease of a dead process: %v", err)
	}
}

// A store that nobody else uses has no leases.
func TestNil(t *testing.T) {
	var l *lease.Lease
	use(t, l, "a")
	c := collect(t, l)
	if !takes(t, c, "a") {
		t.Error("not taken")
	}
	if held, err := l.Held(); err != nil || len(held) > 0 {
		t.Error(held, err)
	}
	l.Release()
}

// Users find files and rely on them, or make them, and give them to a list of what is needed when they end; collectors remove what
// is in no list. No user loses a file, and nothing that is needed is gone.
func TestRace(t *testing.T) {
	dir := t.TempDir()
	things, needed := filepath.Join(dir, "things"), filepath.Join(dir, "needed")
	for _, d := range []string{things, needed} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	var removed atomic.Int64
	enough := func() bool { return removed.Load() >= 50 || t.Failed() }
	for range 4 {
		wg.Go(func() {
			for !enough() {
				useSome(t, open(t, filepath.Join(dir, "leases")), things, needed)
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			for !enough() {
				removed.Add(collectSome(t, open(t, filepath.Join(dir, "leases")), things, needed))
			}
		})
	}
	wg.Wait()
	marks, err := os.ReadDir(needed)
	if err != nil {
		t.Error(err)
	}
	for _, m := range marks {
		if _, err := os.Lstat(filepath.Join(things, m.Name())); err != nil {
			t.Errorf("a thing that is needed is gone: %v", err)
		}
	}
	collect(t, open(t, filepath.Join(dir, "leases"))).Close()
	left(t, filepath.Join(dir, "leases"))
}

func useSome(t *testing.T, l *lease.Lease, things, needed string) {
	defer l.Release()
	for range 5 {
		name := strconv.Itoa(rand.IntN(20))
		thing, mark := filepath.Join(things, name), filepath.Join(needed, name)
		err := l.Hold(func() error { _, err := os.Lstat(thing); return err }, name)
		if errors.Is(err, fs.ErrNotExist) {
			err = l.Hold(func() error { return os.WriteFile(thing, nil, 0o600) }, name)
		}
		if err != nil {
			t.Error(err)
		}
		time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
		if _, err := os.Lstat(thing); err != nil {
			t.Errorf("a thing that is used is gone: %v", err)
		}
		if rand.IntN(2) == 0 {
			_ = os.Remove(mark)
		} else if err := os.WriteFile(mark, nil, 0o600); err != nil {
			t.Error(err)
		}
	}
}

func collectSome(t *testing.T, l *lease.Lease, things, needed string) (removed int64) {
	c, err := l.Collect()
	if errors.Is(err, lease.ErrBusy) {
		return 0
	}
	if err != nil {
		t.Error(err)
		return 0
	}
	defer c.Close()
	all, err := os.ReadDir(things)
	if err != nil {
		t.Error(err)
	}
	for _, e := range all {
		if _, err := os.Lstat(filepath.Join(needed, e.Name())); err == nil {
			continue
		}
		time.Sleep(time.Duration(rand.IntN(500)) * time.Microsecond) // users end
		gone, err := c.Take(func() error { return os.Remove(filepath.Join(things, e.Name())) }, e.Name())
		if err != nil && !strings.Contains(err.Error(), "no such file") {
			t.Error(err)
		}
		if gone {
			removed++
		}
	}
	return removed
}
