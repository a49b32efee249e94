package snapshot_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/strake-build/strake/layer/snapshot"
)

// runHelper is what the test binary does as another process. It says "ready" and waits to be killed.
func runHelper(name, dir string) error {
	ctx := context.Background()
	wait := func() {
		fmt.Println("ready")
		_, _ = io.Copy(io.Discard, os.Stdin) // until killed, or the test is gone
	}
	if base, ok := strings.CutPrefix(name, "kept "); ok {
		err := writeKept(ctx, dir, base)
		if err == nil {
			wait()
		}
		return err
	}
	s, err := openStore(dir)
	if err != nil {
		return err
	}
	switch name {
	case "prepare":
		a, err := s.Prepare(ctx, nil)
		if err != nil {
			return err
		}
		root, err := a.Open()
		if err != nil {
			return err
		}
		if err := os.MkdirAll(path(root)+"/a/b", 0o000); err != nil {
			return err
		}
		wait()
	case "unpack":
		b, h := mustTar("a/", "a/b=1")
		_, err := s.Unpack(ctx, h, func() (io.ReadCloser, error) {
			r, w := io.Pipe()
			go func() {
				_, _ = w.Write(b[:1024])
				wait()
			}()
			return r, nil
		})
		return err
	case "twice":
		b, h := mustTar("once=1")
		id, err := s.Unpack(ctx, h, func() (io.ReadCloser, error) {
			fmt.Println("opened")
			return opener(b)()
		})
		fmt.Println("id", id)
		return err
	}
	return nil
}

// start runs a helper on the store dir.
func start(t *testing.T, name, dir string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helper+"="+name, storeDir+"="+dir)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd, bufio.NewReader(out)
}

// TestKilled kills processes in the middle of their work; the next Open removes what they left, and nothing else.
func TestKilled(t *testing.T) {
	for _, name := range []string{"prepare", "unpack"} {
		t.Run(name, func(t *testing.T) {
			s, dir := newStore(t)
			mine, err := s.Prepare(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer mine.Discard()
			cmd, out := start(t, name, dir)
			if line, err := out.ReadString('\n'); line != "ready\n" {
				t.Fatalf("the helper says %q, %v", line, err)
			}
			living := len(temporaries(t, dir))
			if _, err := openStore(dir); err != nil {
				t.Fatal(err)
			}
			if n := len(temporaries(t, dir)); n != living || n < 2 {
				t.Fatalf("%d of %d are left while both processes live", n, living)
			}
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			s2, err := openStore(dir)
			if err != nil {
				t.Fatal(err)
			}
			entries, err := os.ReadDir(dir + "/tmp")
			if err != nil || len(entries) != 1 {
				t.Fatalf("left: %v, %v", entries, err)
			}
			_ = s2.Walk(func(id snapshot.ID) error { t.Error("stored:", id); return nil })
			b, h := makeTar(t, "a/", "a/b=1")
			if _, err := s2.Unpack(t.Context(), h, opener(b)); err != nil {
				t.Error(err)
			}
			if _, err := mine.Commit(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestProcessesUnpackOnce starts processes that want the same layer.
func TestProcessesUnpackOnce(t *testing.T) {
	s, dir := newStore(t)
	opened, ids := 0, map[string]bool{}
	var outs []*bufio.Reader
	for range 4 {
		_, out := start(t, "twice", dir)
		outs = append(outs, out)
	}
	for _, out := range outs {
		text, err := io.ReadAll(out)
		if err != nil {
			t.Fatal(err)
		}
		var id string
		lines := string(text)
		if n, _ := fmt.Sscanf(lines, "opened\nid %s", &id); n == 1 {
			opened++
		} else if n, _ := fmt.Sscanf(lines, "id %s", &id); n != 1 {
			t.Fatalf("a helper says %q", lines)
		}
		ids[id] = true
	}
	if opened != 1 || len(ids) != 1 {
		t.Errorf("opened %d times, %v", opened, ids)
	}
	_, h := makeTar(t, "once=1")
	if _, err := s.ByDiffID(h); err != nil {
		t.Error(err)
	}
}
