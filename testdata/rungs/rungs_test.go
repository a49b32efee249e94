package rungs

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/strake-build/strake/cache/remote/remotetest"
)

// files are the Dockerfiles of the folder context; those that RUN nothing work everywhere.
const (
	sameFile  = "same.df"
	plainFile = "files.df"
	meetFile  = "meet.df"
)

// TestPlaces builds the same in every place, interrupts builds, and looks what is left.
func TestPlaces(t *testing.T) {
	l := newLab(t)
	dir := l.makeContext(t)
	root := l.open(t, places[0], dir)
	secret := []string{"--secret", "id=token,src=" + filepath.Join(dir, "token")}
	same, plain := root.digest(t, sameFile, secret...), root.digest(t, plainFile)
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := l.open(t, p, dir)
			s.checkDoctor(t)
			if got := s.digest(t, plainFile); got != plain {
				t.Errorf("%s: the image is %s, as root it is %s\n%s", plainFile, got, plain, explain(t, s.image(plainFile), root.image(plainFile)))
			}
			if p.want.Rung == "none" {
				s.checkRefused(t)
				return
			}
			if got := s.digest(t, sameFile, secret...); got != same {
				t.Errorf("%s: the image is %s, as root it is %s\n%s", sameFile, got, same, explain(t, s.image(sameFile), root.image(sameFile)))
			}
			s.checkParallel(t)
			s.checkEnds(t, syscall.SIGINT)
			s.checkEnds(t, syscall.SIGKILL)
			if got := s.digest(t, sameFile, slices.Concat(secret, []string{"--no-cache"})...); got != same {
				t.Errorf("%s after two interrupted builds: the image is %s, as root it is %s", sameFile, got, same)
			}
			s.checkStore(t)
		})
	}
}

// makeContext copies the folder context, with what is not kept in the repository.
func (l *lab) makeContext(t *testing.T) string {
	t.Helper()
	dir := l.dir(t, "context")
	must(t, os.CopyFS(dir, os.DirFS("context")))
	run(t, "install", "-m", "755", "/bin/busybox", filepath.Join(dir, "busybox"))
	must(t, os.WriteFile(filepath.Join(dir, "token"), []byte("secret\n"), 0o644))
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755, Uid: 1, Gid: 2},
		{Name: "file", Typeflag: tar.TypeReg, Mode: 0o640, Uid: 33, Gid: 42},
		{Name: "setuid", Typeflag: tar.TypeReg, Mode: 0o4711, Uid: 60001, Gid: 60002},
		{Name: "closed", Typeflag: tar.TypeReg, Mode: 0, Uid: 5, Gid: 5},
		{Name: "gone", Typeflag: tar.TypeReg, Mode: 0o600, Uid: 5, Gid: 5},
		{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "file", Mode: 0o777, Uid: 21, Gid: 22},
		{Name: "hard", Typeflag: tar.TypeLink, Linkname: "file", Mode: 0o640, Uid: 33, Gid: 42},
		{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o600, Uid: 23, Gid: 24},
		{Name: "null", Typeflag: tar.TypeChar, Mode: 0o666, Uid: 25, Gid: 26, Devmajor: 1, Devminor: 3},
		{Name: "sub/", Typeflag: tar.TypeDir, Mode: 0o2750, Uid: 0, Gid: 50},
		{Name: "sub/file", Typeflag: tar.TypeReg, Mode: 0o600, Uid: 33, Gid: 50},
		{Name: "sub/link", Typeflag: tar.TypeSymlink, Linkname: "/nowhere", Mode: 0o777, Uid: 31, Gid: 32},
	} {
		h.ModTime = time.Unix(1600000000, 0)
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		must(t, w.WriteHeader(&h))
		if h.Typeflag == tar.TypeReg {
			_, err := w.Write([]byte(h.Name))
			must(t, err)
		}
	}
	must(t, w.Close())
	must(t, os.WriteFile(filepath.Join(dir, "owners.tar"), b.Bytes(), 0o644))
	return dir
}

// checkDoctor compares what strake says of the place with what it is.
func (s *site) checkDoctor(t *testing.T) {
	t.Helper()
	out, code := s.status(t.Context(), t, "doctor", "--json")
	var report struct {
		CanRun    bool
		Isolation isolation
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("doctor: %v\n%s", err, out)
	}
	canRun := s.want.Rung != "none"
	got := report.Isolation
	got.Error = ""
	if got != s.want || report.CanRun != canRun || (code == 0) != canRun || (report.Isolation.Error == "") != canRun {
		t.Fatalf("doctor says %+v, canRun %v, exit code %d; want %+v, %v\n%s", report.Isolation, report.CanRun, code, s.want, canRun, out)
	}
}

// checkRefused fails the test unless a RUN is refused at once, with the setting to change.
func (s *site) checkRefused(t *testing.T) {
	t.Helper()
	out, code := s.status(t.Context(), t, "build", "--progress", "plain", "-f", filepath.Join(s.context, sameFile), s.context)
	if code != 1 || !strings.Contains(out, "isolation none: no command can be run here") || !strings.Contains(out, "hint: run the container with") || !strings.Contains(out, "same.df:4") {
		t.Errorf("a RUN: exit code %d\n%s", code, out)
	}
}

// checkParallel builds two stages that wait for each other.
func (s *site) checkParallel(t *testing.T) {
	t.Helper()
	_, port, err := net.SplitHostPort(remotetest.Address(t))
	must(t, err)
	s.strake(t, "build", "--progress", "plain", "--build-arg", "PORT="+port, "-f", filepath.Join(s.context, meetFile), s.context)
}

// checkEnds sends a signal to a build whose steps do not end, and waits for all processes and mounts of it to go.
func (s *site) checkEnds(t *testing.T, signal syscall.Signal) {
	t.Helper()
	mark := fmt.Sprintf("1000.%d%d", time.Now().UnixNano(), signal)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	type result struct {
		out  string
		code int
	}
	ended := make(chan result, 1)
	go func() {
		out, code := s.status(ctx, t, "build", "--progress", "plain", "--no-cache", "--build-arg", "MARK="+mark, "-f", filepath.Join(s.context, "linger.df"), s.context)
		ended <- result{out, code}
	}()
	strake := 0
	for sleeps := 0; strake == 0 || sleeps < 5; time.Sleep(50 * time.Millisecond) {
		select {
		case r := <-ended:
			t.Fatalf("the build ended: exit code %d\n%s", r.code, r.out)
		default:
		}
		strake, sleeps = s.processes(t, mark)
	}
	must(t, syscall.Kill(strake, signal))
	r := <-ended
	if signal == syscall.SIGINT && r.code != 130 {
		t.Errorf("exit code %d after Ctrl-C\n%s", r.code, r.out)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		strake, sleeps := s.processes(t, mark)
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		must(t, err)
		if strake == 0 && sleeps == 0 && !bytes.Contains(mounts, []byte(s.store)) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v: strake is process %d, %d processes of the steps and these mounts are left:\n%s", signal, strake, sleeps, mounts)
		}
	}
}

// processes finds the first strake with mark among its arguments, seen from this machine, and counts other programs with it.
func (s *site) processes(t *testing.T, mark string) (strake, others int) {
	t.Helper()
	program, err := os.Stat(s.lab.strake)
	must(t, err)
	parents := map[int]int{} // of processes that are strake
	list, err := filepath.Glob("/proc/[0-9]*")
	must(t, err)
	for _, p := range list {
		line, _ := os.ReadFile(filepath.Join(p, "cmdline")) // it may have ended
		if !bytes.Contains(line, []byte(mark)) {
			continue
		}
		args := bytes.Split(line, []byte{0})
		exe, _ := os.Stat(filepath.Join(p, "exe"))
		switch {
		case exe != nil && os.SameFile(exe, program):
			var pid, parent int
			stat, _ := os.ReadFile(filepath.Join(p, "stat"))
			if _, err := fmt.Sscanf(string(stat), "%d %s %s %d", &pid, new(string), new(string), &parent); err == nil {
				parents[pid] = parent
			}
		case !bytes.Contains(line, []byte("MARK=")): // else it is what runs strake there
			if len(args) > 0 {
				others++
			}
		}
	}
	for pid, parent := range parents {
		if _, ok := parents[parent]; !ok {
			strake = pid
		}
	}
	return strake, others
}

// checkStore fails if temporary files of commands that ended are left. A control group can only be removed when the kernel has buried
// its processes, so a later command than the next may have to.
func (s *site) checkStore(t *testing.T) {
	t.Helper()
	for range 20 {
		if len(s.leftovers()) == 0 {
			return
		}
		time.Sleep(100 * time.Millisecond)
		s.digest(t, plainFile)
	}
	t.Errorf("left in the store: %q", s.leftovers())
}

func (s *site) leftovers() (names []string) {
	for _, dir := range []string{"tmp", "layers/tmp", "blobs/tmp", "cache/tmp", "run"} {
		entries, _ := os.ReadDir(filepath.Join(s.store, dir)) // not all are there
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), ".") {
				names = append(names, filepath.Join(dir, e.Name()))
			}
		}
	}
	return names
}
