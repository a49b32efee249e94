package rungs

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestInstall installs packages of Debian that make users, and files of theirs, and compares all owners and modes with root's.
func TestInstall(t *testing.T) {
	l := newLab(t)
	dir := l.dir(t, "debian")
	must(t, os.CopyFS(dir, os.DirFS(l.debian)))
	run(t, "cp", "context/debian.df", dir)
	run(t, "chmod", "-R", "go+rX", dir)
	root := l.install(t, places[0], dir)
	checkRoot(t, root)
	for _, p := range places[1:] {
		if !p.install {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			if d := differences(l.install(t, p, dir), root); d != "" {
				t.Errorf("other owners or modes:\n%s", d)
			}
		})
	}
}

// install builds the packages at a place and returns what the image holds; by chroot it builds what needs most of /proc, too.
func (l *lab) install(t *testing.T, p place, dir string) tree {
	t.Helper()
	s := l.open(t, p, dir)
	args := []string{"build", "--progress", "plain", "-f", filepath.Join(dir, "debian.df")}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"} {
		for _, name := range []string{name, strings.ToLower(name)} {
			if v := os.Getenv(name); v != "" {
				args = append(args, "--build-arg", name+"="+v)
			}
		}
	}
	out := filepath.Join(s.out, "packages.tar")
	s.strake(t, slices.Concat(args, []string{"--target", "packages", "-o", "type=tar,dest=" + out, dir})...)
	if p.want.Rung == "chroot" {
		s.strake(t, slices.Concat(args, []string{"--target", "java", dir})...)
	}
	f, err := os.Open(out)
	must(t, err)
	defer f.Close()
	return readTree(t, f, false)
}

// checkRoot fails unless the image has what the packages are known to make.
func checkRoot(t *testing.T, files tree) {
	t.Helper()
	for name, want := range map[string]string{
		"usr/bin/sudo":             "0 04755 0:0 ",
		"home/bob":                 "5 00755 1000:1000 ",
		"home/bob/mine":            "0 00644 1000:1000 ",
		"usr/bin/ssh-agent":        "0 02755 0:",
		"var/lib/postgresql":       "5 00755 1",
		"usr/bin/pg_createcluster": "0 00755 0:0 ",
	} {
		if !strings.HasPrefix(files[name], want) {
			t.Errorf("%s: %s, want %s…", name, orNothing(files[name]), want)
		}
	}
	if n := len(files); n < 5000 {
		t.Errorf("only %d files", n)
	}
}
