package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strake-build/strake/builder/store"
	"github.com/strake-build/strake/runner"
)

func TestLayersForm(t *testing.T) {
	root := runner.Isolation{Rung: runner.Root}
	flat := runner.Isolation{Rung: runner.Root, NoOverlay: true}
	many := runner.Isolation{Rung: runner.Rootless}
	entered := runner.Isolation{Rung: runner.Rootless, UserNS: true}
	one := runner.Isolation{Rung: runner.Rootless, OneID: true}
	chroot := runner.Isolation{Rung: runner.Chroot, NoOverlay: true}
	none := runner.Isolation{Rung: runner.None, NoOverlay: true, OneID: true}
	noneRoot := runner.Isolation{Rung: runner.None, NoOverlay: true}
	for _, c := range []struct {
		name string
		i    runner.Isolation
		form store.Form   // of a new store
		fits []store.Form // beside that
	}{
		{"root", root, store.Trusted, []store.Form{store.Copies}},
		{"root, on overlay", flat, store.Copies, nil},
		{"rootless", many, store.User, []store.Form{store.UserCopies}},
		{"rootless, inside", entered, store.User, []store.Form{store.UserCopies}},
		{"one id", one, store.Recorded, []store.Form{store.RecordedCopies}},
		{"chroot", chroot, store.Copies, nil},
		{"none", none, store.RecordedCopies, nil},
		{"none, root", noneRoot, store.Copies, nil},
	} {
		if got := formOf(c.i); got != c.form {
			t.Errorf("%s: the form is %s, want %s", c.name, got, c.form)
		}
		for _, f := range []store.Form{"", store.Trusted, store.User, store.Recorded, store.Copies, store.UserCopies, store.RecordedCopies} {
			want := f == "" || f == c.form
			for _, other := range c.fits {
				want = want || f == other
			}
			i := c.i
			o := fit(f, &i)
			if (o == nil) != want {
				t.Errorf("%s on a store %q: %v", c.name, f, o)
			}
			if o == nil && f != "" && formOf(i) != f {
				t.Errorf("%s on a store %q became %+v", c.name, f, i)
			}
		}
	}
}

// A store whose form nothing here can use is refused, with what to do.
func TestProbeForStore(t *testing.T) {
	env := testEnvironment(t, nil)
	env.flags.isolation = "none"
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "format"), []byte(`{"version":1,"layers":"user"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := env.probe(root)
	var misfit *store.FormError
	if !errors.As(err, &misfit) || !strings.Contains(err.Error(), "were unpacked in a user namespace and cannot be used") {
		t.Errorf("got %v", err)
	}
}

func TestIsolationLine(t *testing.T) {
	missing := runner.Finding{Isolation: runner.Isolation{Rung: runner.Rootless}, Obstacle: &runner.Obstacle{Why: "newuidmap is missing", Fix: "install it"}}
	notRoot := runner.Finding{Isolation: runner.Isolation{Rung: runner.Root}, Obstacle: &runner.Obstacle{Why: "this process is not root", NotRoot: true}}
	for _, c := range []struct {
		i    runner.Isolation
		want string
	}{
		{runner.Isolation{Rung: runner.Rootless, Reason: "why", Better: []runner.Finding{notRoot}}, "isolation: rootless (why)"},
		{runner.Isolation{Rung: runner.Rootless, OneID: true, Reason: "why", Better: []runner.Finding{notRoot, missing}}, "isolation: rootless (why); better is rootless: newuidmap is missing: install it"},
	} {
		if got := isolationLine(c.i); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
}

// What is known before a namespace is entered is known in it.
func TestRemember(t *testing.T) {
	vars := map[string]string{}
	env := testEnvironment(t, vars)
	env.setenv = func(name, value string) error { vars[name] = value; return nil }
	outside := runner.Isolation{Rung: runner.Rootless, OneID: true, Reason: "user 1 with one id", Better: []runner.Finding{
		{Isolation: runner.Isolation{Rung: runner.Rootless}, Obstacle: &runner.Obstacle{Why: "newuidmap is missing", Fix: "install it"}},
	}}
	if _, err := env.remember(outside); err != nil {
		t.Fatal(err)
	}
	inside, err := env.remember(runner.Isolation{Rung: runner.Rootless, OneID: true, UserNS: true, Reason: "other"})
	if err != nil || isolationLine(inside) != isolationLine(outside) {
		t.Errorf("got %s, want %s: %v", isolationLine(inside), isolationLine(outside), err)
	}
}
