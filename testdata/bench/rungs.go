package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// baseFiles is how many files the base has that steps are timed on, on each rung.
const baseFiles = 70_000

// runsOn compares builds of 100 and of 0 RUN instructions on a base of many files, with one isolation.
func runsOn(isolation string) func(context.Context, *bench) (result, error) {
	return func(ctx context.Context, b *bench) (result, error) {
		root, err := b.large(ctx, isolation)
		if err != nil {
			return nil, err
		}
		const n = 100
		head := "FROM localhost/large\nARG SEED\nRUN true\n"
		few, err := b.contextOf("large-0", head)
		if err != nil {
			return nil, err
		}
		many, err := b.contextOf("large-100", head+strings.Repeat("RUN true\n", n))
		if err != nil {
			return nil, err
		}
		args := []string{"build", "-q", "--isolation", isolation, "--build-arg"}
		return repeat(ctx, b.runs, func(i int) (float64, error) {
			seed := fmt.Sprintf("SEED=%d", i)
			a, err := b.exec(ctx, root, append(args, seed+"a", few)...)
			if err != nil {
				return 0, err
			}
			z, err := b.exec(ctx, root, append(args, seed+"z", many)...)
			return float64(z.wall-a.wall) / n, err
		})
	}
}

// large builds the base with many files, and returns the store with it. Stores are of one form, so that each isolation has its own.
func (b *bench) large(ctx context.Context, isolation string) (root string, err error) {
	root, dir := filepath.Join(b.dir, "store-large-"+isolation), filepath.Join(b.dir, "large")
	if _, err := os.Stat(dir); err != nil {
		program, err := os.ReadFile("/bin/busybox")
		if err != nil {
			return "", err
		}
		for i := range baseFiles {
			sub := filepath.Join(dir, "files", fmt.Sprint(i/100))
			if i%100 == 0 {
				if err := os.MkdirAll(sub, 0o755); err != nil {
					return "", err
				}
			}
			if err := os.WriteFile(filepath.Join(sub, fmt.Sprint(i)), fmt.Appendf(nil, "file %d\n", i), 0o644); err != nil {
				return "", err
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "busybox"), program, 0o755); err != nil {
			return "", err
		}
		text := "FROM scratch\nCOPY busybox /bin/\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\nCOPY files /files\n"
		if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	_, err = b.exec(ctx, root, "build", "-q", "--isolation", isolation, "-t", "localhost/large", dir)
	return root, err
}
