// Command bench times whole strake commands against what the project promises,
// and prints the limits of the machine beside them.
//
//	go run ./testdata/bench -strake bin/strake [-runs 10] [-only REGEXP] [-check]
//
// Everything happens in a new folder below -dir, which is removed at the end; only the contexts of
// the bases, which "make examples" uses too, are kept.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
)

func main() {
	b := &bench{}
	only := flag.String("only", "", "run the scenarios whose name matches this regular expression")
	check := flag.Bool("check", false, "fail if a limit is missed")
	flag.StringVar(&b.strake, "strake", "bin/strake", "the program to time")
	flag.StringVar(&b.dir, "dir", "bin", "folder in which a work folder is made, on the disk to measure")
	flag.StringVar(&b.cache, "cache", "bin/examples", "folder with the contexts of the example bases")
	flag.IntVar(&b.runs, "runs", 10, "runs of each scenario; the median counts")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	missed, err := b.main(ctx, *only)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	if err != nil || *check && missed > 0 {
		os.Exit(1)
	}
}

// bench is one session of measuring.
type bench struct {
	strake string
	dir    string // work folder, removed at the end
	cache  string
	runs   int
}

// main runs the scenarios and prints their table. It returns how many missed their limit.
func (b *bench) main(ctx context.Context, only string) (missed int, err error) {
	match, err := regexp.Compile(only)
	if err != nil {
		return 0, err
	}
	for _, p := range []*string{&b.strake, &b.dir, &b.cache} {
		if *p, err = filepath.Abs(*p); err != nil {
			return 0, err
		}
	}
	if b.dir, err = os.MkdirTemp(b.dir, "bench."); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, b.remove(b.dir)) }()

	if err := b.limits(ctx); err != nil {
		return 0, fmt.Errorf("measuring the machine: %w", err)
	}
	fmt.Printf("\n| scenario | median of | at most | median | fastest | slowest | |\n|---|---|---|---|---|---|---|\n")
	for _, s := range scenarios {
		if !match.MatchString(s.name) {
			continue
		}
		r, err := s.measure(ctx, b)
		if errors.Is(err, errOtherRung) {
			fmt.Printf("| %s | | %s | | | | %v |\n", s.name, s.show(s.limit), err)
			continue
		}
		if err != nil {
			return missed, fmt.Errorf("%s: %w", s.name, err)
		}
		verdict := "ok"
		if r.median() > s.limit {
			verdict = "MISSED"
			missed++
		}
		fmt.Printf("| %s | %d | %s | %s | %s | %s | %s |\n", s.name, len(r), s.show(s.limit), s.show(r.median()), s.show(r[0]), s.show(r[len(r)-1]), verdict)
	}
	return missed, nil
}
