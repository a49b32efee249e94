package layer_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer"
	"github.com/strake-build/strake/layer/rootfs"
)

// overlay mounts an overlay of lower, detached, and returns its root and the upper directory.
func overlay(t *testing.T, lower string) (*rootfs.Root, string) {
	t.Helper()
	base := t.TempDir()
	upper, work := filepath.Join(base, "upper"), filepath.Join(base, "work")
	for _, d := range []string{upper, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	fsfd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Skip("no overlay:", err)
	}
	defer unix.Close(fsfd)
	for _, kv := range [][2]string{{"lowerdir", lower}, {"upperdir", upper}, {"workdir", work}} {
		if err := unix.FsconfigSetString(fsfd, kv[0], kv[1]); err != nil {
			t.Skip("overlay:", err)
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		t.Skip("overlay:", err)
	}
	mnt, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		t.Skip("overlay:", err)
	}
	r := rootfs.FromFile(os.NewFile(uintptr(mnt), "overlay"))
	t.Cleanup(func() { r.Close() })
	return r, upper
}

// TestDetachedOverlay unpacks an archive into a mount that no path leads to, as ADD
// does, and takes what the kernel left in the upper directory for a layer.
func TestDetachedOverlay(t *testing.T) {
	needRoot(t)
	lower, lowerDir := newRoot(t)
	apply(t, lower, archive(t, dir("etc"), file("etc/old", "1"), dir("etc/conf"), file("etc/conf/x", "1"), symlink("run", "/var/run"), dir("var"), dir("var/run")), layer.Options{})
	root, upper := overlay(t, lowerDir)
	e := file("etc/old", "2")
	e.PAXRecords = map[string]string{"SCHILY.xattr.user.x": "y"}
	apply(t, root, archive(t, e, file("run/pid", "3"), file("etc/conf", "now a file"), hard("var/hard", "etc/old"), char("null", 1, 3)), layer.Options{Form: layer.Plain})
	if _, err := root.MkdirAll("run/a/b", 0o755, 1, 1); err != nil {
		t.Error(err)
	}
	if got, err := root.Resolve("run/../run/a"); err != nil || got != "var/run/a" {
		t.Error(got, err)
	}
	if err := root.RemoveAll("run/pid"); err != nil {
		t.Error(err)
	}
	if err := root.RemoveAll("etc"); err != nil {
		t.Error(err)
	}
	if _, err := root.MkdirAll("etc", 0o755, 0, 0); err != nil {
		t.Error(err)
	}
	merged := names(t, write(t, root, layer.Options{Form: layer.Plain}))
	if want := "etc/ null run->/var/run var/ var/hard var/run/ var/run/a/ var/run/a/b/"; merged != want {
		t.Errorf("merged: %s\nwant    %s", merged, want)
	}
	up, err := rootfs.Open(upper)
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	b := write(t, up, layer.Options{})
	if got, want := names(t, b), "etc/ etc/.wh..wh..opq null var/ var/hard var/run/ var/run/a/ var/run/a/b/"; got != want {
		t.Errorf("layer: %s\nwant   %s", got, want)
	}
	again, _ := newRoot(t)
	if err := layer.Apply(context.Background(), again, bytes.NewReader(b), layer.Options{}); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(write(t, again, layer.Options{}), b) {
		t.Error("other bytes")
	}
}
