package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
)

// together compares two processes that build the same thing at once with one that does: each step is made once, by one of them.
func together(ctx context.Context, b *bench) (result, error) {
	root, err := b.busybox(ctx)
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	text.WriteString("FROM localhost/busybox\nARG SEED\n")
	for i := range 10 {
		fmt.Fprintf(&text, "RUN echo $SEED > /f%d && for i in $(seq 20); do dd if=/dev/zero bs=64k count=40 2>/dev/null | md5sum; done\n", i)
	}
	dir, err := b.contextOf("together", text.String())
	if err != nil {
		return nil, err
	}
	return repeat(ctx, b.runs, func(i int) (float64, error) {
		build := func(seed string) (usage, error) {
			return b.exec(ctx, root, "build", "-q", "--build-arg", fmt.Sprintf("SEED=%d%s", i, seed), dir)
		}
		one, err := build("one")
		if err != nil {
			return 0, err
		}
		var wall [2]float64
		var errs [2]error
		var wg sync.WaitGroup
		for n := range wall {
			wg.Go(func() {
				var u usage
				u, errs[n] = build("two")
				wall[n] = float64(u.wall)
			})
		}
		wg.Wait()
		for _, err := range errs {
			if err != nil {
				return 0, err
			}
		}
		return max(wall[0], wall[1]) / float64(one.wall), nil
	})
}

func times(v float64) string { return fmt.Sprintf("%.2f times", v) }
