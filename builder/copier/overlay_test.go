package copier

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// overlay mounts lower with an upper directory that is new, and returns both.
func overlay(t *testing.T, lower string) (merged, upper string) {
	t.Helper()
	top := t.TempDir()
	build(t, top, "upper/ work/ merged/")
	merged, upper = filepath.Join(top, "merged"), filepath.Join(top, "upper")
	opt := "lowerdir=" + lower + ",upperdir=" + upper + ",workdir=" + filepath.Join(top, "work")
	if err := unix.Mount("overlay", merged, "overlay", 0, opt); err != nil {
		skip(t, "overlayfs: ", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(merged, unix.MNT_DETACH) })
	return merged, upper
}

// TestOverlay copies from a stage's overlay to another one, as COPY --from does.
func TestOverlay(t *testing.T) {
	needRoot(t)
	lower, base := t.TempDir(), t.TempDir()
	build(t, lower, "o/a=a@5:6 o/b|o/a o/l->a o/d/f=f%4755 o/p!")
	build(t, base, "x/d/%700 x/d/f=old x/a->../keep keep=k other/untouched=u")
	stage, stageUpper := overlay(t, lower)
	build(t, stage, "o/new=n")
	build(t, stage, "o/d/g=g")
	merged, upper := overlay(t, base)
	if err := docopy(stage, merged, false, []string{"o"}, Options{Dest: "/x"}); err != nil {
		t.Fatal(err)
	}
	want := "keep=k other/ other/untouched=u x/ x/a=a@5:6 x/b|x/a@5:6 x/d/ x/d/f=f%4755 x/d/g=g x/l->a x/new=n x/p!"
	if got := show(t, merged); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	want = "x/ x/a=a@5:6 x/b|x/a@5:6 x/d/ x/d/f=f%4755 x/d/g=g x/l->a x/new=n x/p!"
	if got := show(t, upper); got != want {
		t.Errorf("the upper directory: got  %s\nwant %s", got, want)
	}
	if got, want := show(t, stageUpper), "o/ o/d/ o/d/g=g o/new=n"; got != want {
		t.Errorf("the source's upper directory: got %s, want %s", got, want)
	}
}
