package copier

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/strake-build/strake/builder/source"
	"github.com/strake-build/strake/layer/rootfs"
)

const benchFiles = 5000

func bigTree(b *testing.B) string {
	b.Helper()
	dir := b.TempDir()
	for i := range benchFiles {
		sub := filepath.Join(dir, fmt.Sprintf("pkg%03d/mod%02d", i/1000, i/50%20))
		if i%50 == 0 {
			if err := os.MkdirAll(sub, 0o755); err != nil {
				b.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("file%02d.go", i%50)), make([]byte, 3000), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

// cpu is the time that this process and its ended children spent.
func cpu() time.Duration {
	var sum time.Duration
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var r syscall.Rusage
		_ = syscall.Getrusage(who, &r)
		sum += time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	return sum
}

// benchCopy times f, which copies the tree src to a new folder.
func benchCopy(b *testing.B, f func(src, dst string) error) {
	src, top := bigTree(b), b.TempDir()
	var used time.Duration
	i := 0
	for b.Loop() {
		dst := filepath.Join(top, fmt.Sprint(i))
		i++
		if err := os.Mkdir(dst, 0o755); err != nil {
			b.Fatal(err)
		}
		start := cpu()
		if err := f(src, dst); err != nil {
			b.Fatal(err)
		}
		used += cpu() - start
		b.StopTimer()
		_ = os.RemoveAll(dst)
		b.StartTimer()
	}
	b.ReportMetric(float64(used.Microseconds())/float64(b.N)/benchFiles, "cpu-µs/file")
}

// BenchmarkCopy copies 5,000 small files that were digested before.
func BenchmarkCopy(b *testing.B) {
	benchCopy(b, func(src, dst string) error {
		tree, err := source.Open(src, source.Options{ResetOwner: true})
		if err != nil {
			return err
		}
		defer tree.Close()
		root, err := rootfs.Open(dst)
		if err != nil {
			return err
		}
		defer root.Close()
		return Copy(context.Background(), root, tree, []source.Item{{Path: ".", Dir: true}}, nil, Options{Dest: "/"})
	})
}

// BenchmarkCp is what cp -a needs for the same.
func BenchmarkCp(b *testing.B) {
	benchCopy(b, func(src, dst string) error { return exec.Command("cp", "-a", src+"/.", dst).Run() })
}
