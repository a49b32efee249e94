package runner

import (
	"context"

	"golang.org/x/sync/semaphore"

	"github.com/strake-build/strake/runner/sandbox"
)

// turns lets boxes with secrets run alone where a process of one box can look into those of another: without pid namespaces, and without the
// rules of Landlock that take their place. Its zero value lets all run at once.
type turns struct{ sem *semaphore.Weighted }

// manyBoxes is more than ever run at once.
const manyBoxes = 1 << 30

// newTurns makes the turns that i needs. By chroot a step has no proc file system, and what the init serves in its place is of its own processes.
func newTurns(i Isolation) turns {
	if !i.SharedPID || i.Rung == Chroot || sandbox.Confines() {
		return turns{}
	}
	return turns{semaphore.NewWeighted(manyBoxes)}
}

// wait waits until a box may run, and returns what says that it has ended.
func (t turns) wait(ctx context.Context, secrets bool) (end func(), err error) {
	if t.sem == nil {
		return func() {}, nil
	}
	n := int64(1)
	if secrets {
		n = manyBoxes
	}
	if t.sem.Acquire(ctx, n) != nil {
		return nil, context.Cause(ctx)
	}
	return func() { t.sem.Release(n) }, nil
}
