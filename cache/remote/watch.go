package remote

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

// stall is how long a blob may bring no byte.
const stall = 30 * time.Second

var errStalled = errors.New("no byte came for too long")

// watched opens a stream whose context ends when no byte comes for too long.
func watched(ctx context.Context, open func(context.Context) (io.ReadCloser, error)) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(stall, func() { cancel(errStalled) })
	r, err := open(ctx)
	timer.Stop()
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		cancel(nil)
		return nil, err
	}
	return &watch{r: r, timer: timer, ctx: ctx, cancel: cancel}, nil
}

type watch struct {
	r      io.ReadCloser
	timer  *time.Timer
	ctx    context.Context //nolint:containedctx // it lives exactly as long as the stream
	cancel context.CancelCauseFunc
	once   sync.Once
}

func (w *watch) Read(p []byte) (int, error) {
	w.timer.Reset(stall)
	n, err := w.r.Read(p)
	w.timer.Stop()
	if cause := context.Cause(w.ctx); err != nil && cause != nil && !errors.Is(err, io.EOF) {
		err = cause
	}
	return n, err
}

func (w *watch) Close() (err error) {
	w.once.Do(func() {
		w.timer.Stop()
		err = w.r.Close()
		w.cancel(nil)
	})
	return err
}
