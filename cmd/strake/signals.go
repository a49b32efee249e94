package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// errInterrupted is what the context of an interrupted command ends with.
var errInterrupted error = interruptedError{}

// interruptedError is also a context.Canceled, because that is what it causes.
type interruptedError struct{}

func (interruptedError) Error() string { return "interrupted" }

// Is makes it a cancellation for those who do not know it.
func (interruptedError) Is(target error) bool { return target == context.Canceled }

const (
	// cleanUpTime is how long an interrupted command may clean up.
	cleanUpTime = 15 * time.Second
	// echoTime is how long a second signal counts as the first one: a terminal sends Ctrl-C to the
	// whole process group, and a parent of strake may pass it on once more.
	echoTime = 300 * time.Millisecond
)

// interrupts turns SIGINT and SIGTERM into the end of a context.
type interrupts struct {
	ch     chan os.Signal
	stderr io.Writer
	exit   func(code int) // os.Exit, but for tests
}

// start begins to listen. The first signal cancels the context with errInterrupted; the
// process exits at once after a second one, or when cleaning up takes too long.
func (i *interrupts) start() (context.Context, func()) {
	i.ch = make(chan os.Signal, 2)
	signal.Notify(i.ch, os.Interrupt, unix.SIGTERM)
	ctx, end := i.heed()
	return ctx, func() {
		signal.Stop(i.ch)
		end()
	}
}

// heed does what the signals of the channel ask for.
func (i *interrupts) heed() (ctx context.Context, end func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan struct{})
	go func() {
		select {
		case <-i.ch:
			cancel(errInterrupted)
		case <-done:
			return
		}
		limit := time.After(cleanUpTime)
		echo := time.After(echoTime)
		for {
			select {
			case <-i.ch:
				select {
				case <-echo:
					i.exit(codeInterrupted)
				default:
				}
			case <-limit:
				fmt.Fprintln(i.stderr, "error: interrupted, and cleaning up took too long; the next command does the rest")
				i.exit(codeInterrupted)
			case <-done:
				return
			}
		}
	}()
	return ctx, func() {
		close(done)
		cancel(nil)
	}
}

// capture makes signals go to the channel it returns instead of cancelling the context: they are for
// a process that strake runs. stop ends that.
func (i *interrupts) capture(signals ...os.Signal) (ch <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 16)
	signal.Notify(c, signals...)
	resume := i.suspend()
	return c, func() {
		resume()
		signal.Stop(c)
	}
}

// suspend leaves signals to somebody else, who listens himself, until resume is called.
func (i *interrupts) suspend() (resume func()) {
	signal.Stop(i.ch)
	return func() { signal.Notify(i.ch, os.Interrupt, unix.SIGTERM) }
}
