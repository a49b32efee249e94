package wire

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"
)

// Parts cuts the total bytes of src into parts of size bytes, and calls send for each, several at once; what send gets is
// its own until it returns. As many parts are in memory as go out at once.
func Parts(ctx context.Context, src io.Reader, total, size int64, parallel int, send func(ctx context.Context, i int, data []byte) error) error {
	free := make(chan []byte, parallel)
	for range parallel {
		free <- nil
	}
	group, ctx := errgroup.WithContext(ctx)
	for i := 0; int64(i)*size < total; i++ {
		n := min(size, total-int64(i)*size)
		var buf []byte
		select {
		case buf = <-free:
		case <-ctx.Done():
			return errors.Join(group.Wait(), context.Cause(ctx))
		}
		if buf == nil {
			buf = make([]byte, min(size, total))
		}
		if _, err := io.ReadFull(src, buf[:n]); err != nil {
			err = fmt.Errorf("reading what to send: %w", err)
			return errors.Join(err, group.Wait())
		}
		group.Go(func() error {
			defer func() { free <- buf }()
			return send(ctx, i, buf[:n])
		})
	}
	return group.Wait()
}
