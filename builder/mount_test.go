package builder_test

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/builder/cachemount"
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
	w.Mounts = &cachemount.Store{Dir: filepath.Join(t.TempDir(), "mounts")}
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
