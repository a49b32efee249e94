package builder_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/dockerfile"
	"github.com/strake-build/strake/runner"
)

// boxes is a Sandbox that keeps what it was asked for and does nothing.
type boxes struct {
	seen []runner.Sandbox
	envs [][]string
	do   func(runner.Sandbox) error
}

func (b *boxes) Run(_ context.Context, s runner.Sandbox, p runner.Process) error {
	b.seen, b.envs = append(b.seen, s), append(b.envs, p.Env)
	if b.do != nil {
		return b.do(s)
	}
	return nil
}

type secrets map[string]string

func (s secrets) Secret(id string) ([]byte, bool, error) {
	v, ok := s[id]
	return []byte(v), ok, nil
}

func mountWorld(t *testing.T) (*world, *boxes) {
	w := newWorld(t)
	b := &boxes{}
	w.Sandbox = b
	w.Mounts = &builder.CacheMounts{Dir: filepath.Join(t.TempDir(), "mounts")}
	return w, b
}

func TestSecretsReachTheStepAndNothingElse(t *testing.T) {
	w, b := mountWorld(t)
	const value = "hunter2-very-secret"
	give := func(o *builder.Options) { o.Secrets = secrets{"s": value} }
	text := "FROM scratch\nENV TOKEN=public\nRUN --mount=type=secret,id=s,mode=0440,uid=3 --mount=type=secret,id=s,env=TOKEN [\"x\"]\n"
	img, err := w.build(text, give)
	must(t, err)
	m := b.seen[0].Mounts
	if len(m) != 1 || string(m[0].Data) != value || m[0].Target != "/run/secrets/s" || m[0].Mode != 0o440 || m[0].UID != 3 || !m[0].ReadOnly {
		t.Errorf("mounts %+v", m)
	}
	if env := strings.Join(b.envs[0], "\n"); strings.Count(env, "TOKEN=") != 1 || !strings.Contains(env, "TOKEN="+value) {
		t.Errorf("environment %q", env)
	}
	if bytes.Contains(img.RawConfig, []byte(value)) {
		t.Error("the value is in the configuration")
	}
	for _, e := range w.events {
		if strings.Contains(e.Name, value) || bytes.Contains(e.Data, []byte(value)) {
			t.Errorf("the value is in an event: %+v", e)
		}
	}
	must(t, filepath.WalkDir(filepath.Dir(w.Stubs), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(value)) {
			t.Errorf("the value is in %s", path)
		}
		return err
	}))
	// Another value is no other step.
	_, err = w.build(text, func(o *builder.Options) { o.Secrets = secrets{"s": "other"} })
	must(t, err)
	if len(b.seen) != 1 {
		t.Error("the step ran again for another value")
	}
}

func TestMissingSecret(t *testing.T) {
	w, b := mountWorld(t)
	_, err := w.build("FROM scratch\nRUN --mount=type=secret,id=s,required [\"x\"]\n")
	if err == nil || !strings.Contains(err.Error(), "secret s: not found") || !strings.Contains(err.Error(), "Dockerfile:2") {
		t.Errorf("got %v", err)
	}
	_, err = w.build("FROM scratch\nRUN --mount=type=secret,id=s [\"x\"]\n")
	if err != nil || len(b.seen) != 1 || len(b.seen[0].Mounts) != 0 {
		t.Errorf("got %v, %+v", err, b.seen)
	}
}

func TestBindOfTheContext(t *testing.T) {
	w, b := mountWorld(t)
	w.write("src/a", "1")
	w.write("other", "1")
	const text = "FROM scratch\nRUN --mount=target=/src,source=src [\"x\"]\n"
	_, err := w.build(text)
	must(t, err)
	m := b.seen[0].Mounts
	if len(m) != 1 || m[0].Overlay == nil || m[0].Target != "/src" || !m[0].ReadOnly || m[0].Overlay.Upper != "" {
		t.Fatalf("mounts %+v", m)
	}
	found := false
	for _, l := range m[0].Overlay.Lower {
		if data, err := os.ReadFile(filepath.Join(l, m[0].Source, "a")); err == nil && string(data) == "1" {
			found = true
		}
		if _, err := os.Lstat(filepath.Join(l, "other")); err == nil {
			t.Error("a file that is not mounted was copied")
		}
	}
	if !found {
		t.Error("the file is not where the mount says")
	}
	w.write("other", "2")
	_, err = w.build(text)
	must(t, err)
	if len(b.seen) != 1 {
		t.Error("ran again for a file that is not mounted")
	}
	w.write("src/a", "2")
	_, err = w.build(text)
	must(t, err)
	if len(b.seen) != 2 {
		t.Error("did not run again for a file that is mounted")
	}
	_, err = w.build("FROM scratch\nRUN --mount=target=/src,source=nothere [\"x\"]\n")
	if err == nil || !strings.Contains(err.Error(), `"/nothere": not found`) || !strings.Contains(err.Error(), "Dockerfile:2") {
		t.Errorf("missing source: %v", err)
	}
}

func TestWritableBindIsThrownAway(t *testing.T) {
	w, b := mountWorld(t)
	w.write("a", "1")
	b.do = func(s runner.Sandbox) error {
		return os.WriteFile(filepath.Join(s.Mounts[0].Overlay.Upper, "junk"), nil, 0o644)
	}
	_, err := w.build("FROM scratch\nRUN --mount=target=/m,rw [\"x\"]\n")
	must(t, err)
	if _, err := os.Lstat(b.seen[0].Mounts[0].Overlay.Upper); err == nil {
		t.Error("what was written is still there")
	}
}

func TestCacheMountStays(t *testing.T) {
	w, b := mountWorld(t)
	b.do = func(s runner.Sandbox) error {
		f, err := os.OpenFile(filepath.Join(s.Mounts[0].Source, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteString("x")
		return err
	}
	for i, c := range []struct{ text, log string }{
		{"FROM scratch\nRUN --mount=type=cache,target=/c,mode=0711,uid=5 [\"one\"]\n", "x"},
		{"FROM scratch\nRUN --mount=type=cache,target=/c,mode=0711,uid=5 [\"two\"]\n", "xx"},
		{"FROM scratch\nRUN --mount=type=cache,target=/c [\"three\"]\n", "x"}, // begins as something else
	} {
		_, err := w.build(c.text)
		must(t, err)
		data, _ := os.ReadFile(filepath.Join(b.seen[i].Mounts[0].Source, "log"))
		if string(data) != c.log {
			t.Errorf("step %d sees %q", i, data)
		}
	}
	st, err := os.Stat(b.seen[0].Mounts[0].Source)
	must(t, err)
	if st.Mode().Perm() != 0o711 {
		t.Errorf("mode %v", st.Mode())
	}
}

func TestCacheMountSharing(t *testing.T) {
	c := &builder.CacheMounts{Dir: t.TempDir()}
	open := func(ctx context.Context, s dockerfile.Sharing) (string, func(), error) {
		return c.Open(ctx, builder.CacheMount{ID: "x", Sharing: s, Mode: 0o755, UID: os.Getuid(), GID: os.Getgid()})
	}
	one, release1, err := open(t.Context(), dockerfile.SharingShared)
	must(t, err)
	two, release2, err := open(t.Context(), dockerfile.SharingShared)
	must(t, err)
	if one != two {
		t.Error("sharers have two directories")
	}
	private, release3, err := open(t.Context(), dockerfile.SharingPrivate)
	must(t, err)
	if private == one {
		t.Error("a private user has the sharers' directory")
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, _, err := open(short, dockerfile.SharingLocked); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("locked beside sharers: %v", err)
	}
	release1()
	release2()
	locked, release4, err := open(t.Context(), dockerfile.SharingLocked)
	must(t, err)
	if locked != one {
		t.Error("the lock is on another directory")
	}
	release4()
	release3()
	again, release5, err := open(t.Context(), dockerfile.SharingPrivate)
	must(t, err)
	defer release5()
	if again != one {
		t.Error("a free directory was not used again")
	}
}

// Whoever comes first fills the cache, once, and a failure leaves nothing half full.
func TestCacheMountSeed(t *testing.T) {
	c := &builder.CacheMounts{Dir: t.TempDir()}
	broken := errors.New("broken")
	m := builder.CacheMount{ID: "x", Sharing: dockerfile.SharingShared, Mode: 0o755, UID: os.Getuid(), GID: os.Getgid()}
	m.Seed = func(dir string) error {
		_ = os.WriteFile(filepath.Join(dir, "half"), nil, 0o600)
		return broken
	}
	if _, _, err := c.Open(t.Context(), m); !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
	var seeded atomic.Int32
	m.Seed = func(dir string) error {
		seeded.Add(1)
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("left of the failure: %v", left)
		}
		time.Sleep(10 * time.Millisecond)
		return os.WriteFile(filepath.Join(dir, "seed"), nil, 0o600)
	}
	done := make(chan error)
	for range 4 {
		go func() {
			dir, release, err := c.Open(t.Context(), m)
			if err == nil {
				_, err = os.Stat(filepath.Join(dir, "seed"))
				release()
			}
			done <- err
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if n := seeded.Load(); n != 1 {
		t.Errorf("seeded %d times", n)
	}
}

func TestCacheMountFromAStage(t *testing.T) {
	w, b := mountWorld(t)
	w.write("a", "seed")
	_, err := w.build("FROM scratch AS s\nCOPY a /d/a\nFROM scratch\nRUN --mount=type=cache,target=/c,from=s,source=/d [\"x\"]\n")
	must(t, err)
	if data, err := os.ReadFile(filepath.Join(b.seen[0].Mounts[0].Source, "a")); err != nil || string(data) != "seed" {
		t.Errorf("%q, %v", data, err)
	}
}

func TestNetworkNeedsItsEntitlement(t *testing.T) {
	w, b := mountWorld(t)
	_, err := w.build("FROM scratch\nRUN --network=host [\"x\"]\n")
	if err == nil || !strings.Contains(err.Error(), "network.host is not allowed") {
		t.Errorf("got %v", err)
	}
	_, err = w.build("FROM scratch\nRUN --network=none [\"x\"]\nRUN [\"y\"]\n")
	must(t, err)
	if b.seen[0].Network != runner.NoNetwork || b.seen[1].Network != runner.HostNetwork {
		t.Errorf("networks %s, %s", b.seen[0].Network, b.seen[1].Network)
	}
}
