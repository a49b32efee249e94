package layer_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/strake-build/strake/layer"
)

// smallFiles makes n files of a few KB in directories of 50.
func smallFiles(b *testing.B, dir string, n int) int64 {
	data := bytes.Repeat([]byte("some text that stands for source code\n"), 100)
	var total int64
	for i := range n {
		d := filepath.Join(dir, fmt.Sprintf("d%02d", i/50%40), fmt.Sprintf("e%04d", i/50))
		if i%50 == 0 {
			if err := os.MkdirAll(d, 0o755); err != nil {
				b.Fatal(err)
			}
		}
		size := 100 + i*37%3600
		if err := os.WriteFile(filepath.Join(d, fmt.Sprintf("file%d.go", i)), data[:size], 0o644); err != nil {
			b.Fatal(err)
		}
		total += int64(size)
	}
	return total
}

func BenchmarkWrite50k(b *testing.B) {
	root, dir := newRoot(b)
	b.SetBytes(smallFiles(b, dir, 50000))
	b.ReportAllocs()
	for b.Loop() {
		if err := layer.Write(context.Background(), io.Discard, root, layer.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkApply10k(b *testing.B) {
	needRoot(b)
	root, dir := newRoot(b)
	b.SetBytes(smallFiles(b, dir, 10000))
	var tar bytes.Buffer
	if err := layer.Write(context.Background(), &tar, root, layer.Options{}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		b.StopTimer()
		to, _ := newRoot(b)
		b.StartTimer()
		if err := layer.Apply(context.Background(), to, bytes.NewReader(tar.Bytes()), layer.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
