package runner

import (
	"context"
	"errors"
	"testing"

	"golang.org/x/sync/semaphore"
)

func TestTurns(t *testing.T) {
	w := sharedWorld(t)
	if err := w.linux.prepare(); err != nil {
		t.Fatal(err)
	}
	w.linux.turns = turns{semaphore.NewWeighted(manyBoxes)}
	cause := errors.New("enough")
	for _, c := range []struct{ first, second, waits bool }{{false, false, false}, {true, false, true}, {false, true, true}, {true, true, true}} {
		end, err := w.linux.turns.wait(t.Context(), c.first)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(context.Background())
		if c.waits {
			cancel(cause)
		}
		w.fresh()
		s := w.box
		s.Secrets = c.second
		err = w.linux.Run(ctx, s, Process{Args: []string{"/bin/true"}, Env: []string{testPath}})
		if c.waits && !errors.Is(err, cause) || !c.waits && err != nil {
			t.Errorf("%+v: %v", c, err)
		}
		end()
		cancel(nil)
		w.fresh()
		if err := w.linux.Run(t.Context(), s, Process{Args: []string{"/bin/true"}, Env: []string{testPath}}); err != nil {
			t.Errorf("%+v, then: %v", c, err)
		}
	}
}
