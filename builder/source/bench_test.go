package source

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// bigTree makes n small files, 50 in a folder.
func bigTree(b *testing.B, n int) string {
	b.Helper()
	dir := b.TempDir()
	for i := range n {
		sub := filepath.Join(dir, fmt.Sprintf("pkg%03d/mod%02d", i/1000, i/50%20))
		if i%50 == 0 {
			if err := os.MkdirAll(sub, 0o755); err != nil {
				b.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("file%02d.go", i%50)), fmt.Appendf(nil, "package p // %d\n", i), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

// cpu is the time that this process spent, which says more than the clock on a machine that others use.
func cpu() time.Duration {
	var r unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

func digestAll(b *testing.B, dir, index string) {
	b.Helper()
	digestSelection(b, dir, index, Selection{Patterns: []string{"."}})
}

func digestSelection(b *testing.B, dir, index string, s Selection) {
	b.Helper()
	tr, err := Open(dir, Options{ResetOwner: true, Index: index})
	if err != nil {
		b.Fatal(err)
	}
	items, err := tr.Select(context.Background(), s)
	if err == nil {
		_, err = tr.Digest(context.Background(), items)
	}
	if err == nil {
		err = tr.Close()
	}
	if err != nil {
		b.Fatal(err)
	}
}

// BenchmarkDigestNoop is a build without changes: 50,000 files known to the index.
func BenchmarkDigestNoop(b *testing.B) {
	dir, index := bigTree(b, 50000), filepath.Join(b.TempDir(), "index")
	digestAll(b, dir, index)
	b.ReportAllocs()
	start := cpu()
	best := time.Hour // on a machine that others use the only wall time that says something
	for b.Loop() {
		begin := time.Now()
		digestAll(b, dir, index)
		best = min(best, time.Since(begin))
	}
	b.ReportMetric(float64(best.Microseconds())/1000, "best-ms")
	b.ReportMetric(float64((cpu()-start).Milliseconds())/float64(b.N), "cpu-ms/op")
}

// BenchmarkDigestCold is the first build: no index, but the files in memory.
func BenchmarkDigestCold(b *testing.B) {
	dir, index := bigTree(b, 50000), filepath.Join(b.TempDir(), "index")
	b.ReportAllocs()
	start := cpu()
	for b.Loop() {
		_ = os.Remove(index)
		digestAll(b, dir, index)
	}
	b.ReportMetric(float64((cpu()-start).Milliseconds())/float64(b.N), "cpu-ms/op")
}

// BenchmarkDigestStage is a COPY --from: every file is read, nothing is remembered.
func BenchmarkDigestStage(b *testing.B) {
	dir := bigTree(b, 50000)
	b.ReportAllocs()
	start := cpu()
	for b.Loop() {
		digestAll(b, dir, "")
	}
	b.ReportMetric(float64((cpu()-start).Milliseconds())/float64(b.N), "cpu-ms/op")
}

// BenchmarkDigestExclude is a build without changes that leaves some of 50,000 files out.
func BenchmarkDigestExclude(b *testing.B) {
	dir, index := bigTree(b, 50000), filepath.Join(b.TempDir(), "index")
	s := Selection{Patterns: []string{"."}, Exclude: []string{"**/*.log", "**/node_modules", "pkg007/*/file1?.go"}}
	digestSelection(b, dir, index, s)
	b.ReportAllocs()
	start := cpu()
	for b.Loop() {
		digestSelection(b, dir, index, s)
	}
	b.ReportMetric(float64((cpu()-start).Milliseconds())/float64(b.N), "cpu-ms/op")
}
