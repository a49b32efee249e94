package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"github.com/strake-build/strake/cmd/ui"
	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/layer/snapshot"
)

// fsckOptions are the decided values of strake fsck.
type fsckOptions struct {
	repair, quiet bool
}

// fsck is one check of a store.
type fsck struct {
	*store
	opts    fsckOptions
	checked map[string]int // by kind
	local   *image.Layers  // without a registry
	blobOf  map[v1.Hash]image.Layer

	mu         sync.Mutex
	badBlobs   map[v1.Hash]bool
	badLayers  map[snapshot.ID]bool
	problems   int
	unverified int
}

func newFsckCommand(env *environment) *cobra.Command {
	var opts fsckOptions
	cmd := &cobra.Command{
		Use:   "fsck [OPTIONS]",
		Short: "Check the store, and drop what is damaged",
		Long: `Check the store: digests of blobs and layers, checksums of records, images and their names.

It exits with 0 if nothing is damaged, or --repair dropped all that was, and with 1 otherwise. What is dropped
is built or fetched again when it is needed.`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runFsck(cmd.Context(), env, opts)
		},
	}
	cmd.Flags().BoolVar(&opts.repair, "repair", false, "drop what is damaged; nobody else may use the store meanwhile")
	cmd.Flags().BoolVarP(&opts.quiet, "quiet", "q", false, "print only what is damaged")
	addIsolationFlag(cmd, env)
	return cmd
}

func runFsck(ctx context.Context, env *environment, opts fsckOptions) error {
	s, err := env.openLayers(ctx)
	if err != nil {
		return err
	}
	if opts.repair {
		s.release()
		alone, ok, err := s.images.Alone()
		if err != nil {
			return err
		}
		if !ok {
			return &hintError{errors.New("other strake commands use the store: nothing was checked"), "try again when they have ended, or check without --repair"}
		}
		defer alone()
	}
	f := &fsck{
		store: s, opts: opts, checked: make(map[string]int), blobOf: make(map[v1.Hash]image.Layer),
		local:    &image.Layers{Blobs: s.blobs, Snapshots: s.snapshots, Dir: s.path("compressed")},
		badBlobs: make(map[v1.Hash]bool), badLayers: make(map[snapshot.ID]bool),
	}
	for _, check := range []func(context.Context) error{
		f.checkBlobs, f.checkLayers, f.checkStale, f.checkRecords, f.checkImages, f.checkFiles,
	} {
		if err := check(ctx); err != nil {
			return fmt.Errorf("checking the store %s: %w", s.root, err)
		}
	}
	return f.report()
}

// problem reports what is damaged, and drops it with --repair.
func (f *fsck) problem(what string, why error, drop func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.problems++
	verb := "damaged"
	if f.opts.repair {
		if err := drop(); err != nil {
			return fmt.Errorf("dropping %s: %w", what, err)
		}
		verb = "dropped"
	}
	_, err := fmt.Fprintf(f.env.stdout, "%s: %s: %s\n", verb, ui.Printable([]byte(what)), ui.Printable([]byte(why.Error())))
	return err
}

// stale drops with --repair what leads nowhere. It is no damage.
func (f *fsck) stale(what string, drop func() error) error {
	if !f.opts.repair {
		return nil
	}
	if err := drop(); err != nil {
		return fmt.Errorf("removing %s: %w", what, err)
	}
	if f.opts.quiet {
		return nil
	}
	_, err := fmt.Fprintf(f.env.stdout, "removed: %s\n", ui.Printable([]byte(what)))
	return err
}

func (f *fsck) report() error {
	if !f.opts.quiet {
		for _, k := range []string{"blob", "layer", "record", "image", "file"} {
			fmt.Fprintf(f.env.stdout, "checked %s\n", count(f.checked[k], k))
		}
		if f.unverified > 0 {
			fmt.Fprintf(f.env.stdout, "%s unpacked from a tar that is not here any more: their files were read and could not be compared\n", count(f.unverified, "layer"))
		}
	}
	if f.problems > 0 && !f.opts.repair {
		return &hintError{fmt.Errorf("%s in the store %s", count(f.problems, "problem"), f.root), "\"strake fsck --repair\" drops what is damaged"}
	}
	return nil
}

// each calls do for all of items, as many at once as there are CPUs, and returns the first error.
func each[T any](ctx context.Context, items []T, do func(context.Context, T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan T)
	var wg sync.WaitGroup
	for range max(1, min(len(items), runtime.GOMAXPROCS(0))) {
		wg.Go(func() {
			for i := range work {
				if err := do(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, i := range items {
		select {
		case work <- i:
		case <-ctx.Done():
		}
	}
	close(work)
	wg.Wait()
	return context.Cause(ctx)
}
