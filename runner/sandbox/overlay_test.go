package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// onMountThread calls f on a thread with a mount namespace of its own, which is thrown away.
func onMountThread(t *testing.T, f func() error) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
			t.Fatal("this test needs root")
		}
		t.Skip("this test needs root")
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			done <- err
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// Older kernels have no lowerdir+: mount(2) must stack as many layers, or say that it cannot.
func TestOverlayOld(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	l := &layers{}
	for i := range 300 {
		layer := filepath.Join(dir, fmt.Sprint(i))
		if err := os.MkdirAll(layer, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(layer, fmt.Sprint("f", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		l.Lower = append(l.Lower, layer)
	}
	l.Upper, l.Work = filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	for _, d := range []string{l.Upper, l.Work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	onMountThread(t, func() error {
		var names []string
		for _, dir := range append([]string{l.Upper, l.Work}, l.Lower...) {
			fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			names = append(names, fmt.Sprint(fd))
		}
		many := strings.Split(strings.Repeat("12345,", 900), ",")
		if _, err := (&layers{lower: many[:900]}).overlayOld(l.Lower[0]); err == nil || !strings.Contains(err.Error(), "too many") {
			return fmt.Errorf("900 layers gave %w", err)
		}
		l.upper, l.work, l.lower = names[0], names[1], names[2:]
		fd, err := l.overlayOld(l.Lower[0])
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for i := range l.Lower {
			var st unix.Stat_t
			if err := unix.Fstatat(fd, fmt.Sprint("f", i), &st, 0); err != nil {
				return fmt.Errorf("layer %d is not there: %w", i, err)
			}
		}
		return nil
	})
}
