package main

import (
	"context"
	"fmt"
	"runtime"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"github.com/strake-build/strake/cmd/ui"
	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/layer/lease"
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

	collection *lease.Collection // with --repair

	mu         sync.Mutex
	badBlobs   map[v1.Hash]bool
	badLayers  map[snapshot.ID]bool
	problems   int
	left       int // of the problems, those that --repair could not drop
	unverified int
	noGit      int // repositories that were not checked, for lack of git
}

func newFsckCommand(env *environment) *cobra.Command {
	var opts fsckOptions
	cmd := &cobra.Command{
		Use:   "fsck [OPTIONS]",
		Short: "Check the store, and drop what is damaged",
		Long: `Check the store: digests of blobs and layers, checksums of records, images and their names, objects of git
repositories, and what cache mounts are kept in.

It exits with 0 if nothing is damaged, or --repair dropped all that was, and with 1 otherwise. What is dropped
is built or fetched again when it is needed. What running commands use is not dropped.`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runFsck(cmd.Context(), env, opts)
		},
	}
	cmd.Flags().BoolVar(&opts.repair, "repair", false, "drop what is damaged")
	cmd.Flags().BoolVarP(&opts.quiet, "quiet", "q", false, "print only what is damaged")
	addIsolationFlag(cmd, env)
	return cmd
}

func runFsck(ctx context.Context, env *environment, opts fsckOptions) error {
	s, err := env.openLayers(ctx)
	if err != nil {
		return err
	}
	var c *lease.Collection
	if opts.repair {
		if c, err = s.collection(ctx); err != nil {
			return err
		}
		defer c.Close()
	}
	f := &fsck{
		store: s, opts: opts, collection: c, checked: make(map[string]int), blobOf: make(map[v1.Hash]image.Layer),
		local:    &image.Layers{Blobs: s.blobs, Snapshots: s.snapshots, Dir: s.path("compressed")},
		badBlobs: make(map[v1.Hash]bool), badLayers: make(map[snapshot.ID]bool),
	}
	for _, check := range []func(context.Context) error{
		f.checkBlobs, f.checkLayers, f.checkCopies, f.checkStale, f.checkRecords, f.checkImages, f.checkFiles, f.checkMounts, f.checkRepositories,
	} {
		if err := check(ctx); err != nil {
			return fmt.Errorf("checking the store %s: %w", s.root, err)
		}
	}
	return f.report()
}

// problem reports what is damaged, and drops it with --repair, unless somebody uses it: then drop returns false.
func (f *fsck) problem(what string, why error, drop func() (bool, error)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.problems++
	verb := "damaged"
	if f.opts.repair {
		dropped, err := drop()
		if err != nil {
			return fmt.Errorf("dropping %s: %w", what, err)
		}
		if verb = "dropped"; !dropped {
			verb = "damaged, in use"
			f.left++
		}
	}
	_, err := fmt.Fprintf(f.env.stdout, "%s: %s: %s\n", verb, ui.Printable([]byte(what)), ui.Printable([]byte(why.Error())))
	return err
}

// stale drops with --repair what leads nowhere. It is no damage.
func (f *fsck) stale(what string, drop func() (bool, error)) error {
	if !f.opts.repair {
		return nil
	}
	if _, err := drop(); err != nil {
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
		for _, k := range []string{"blob", "layer", "record", "image", "file", "cache mount", "git source"} {
			fmt.Fprintf(f.env.stdout, "checked %s\n", count(f.checked[k], k))
		}
		if f.unverified > 0 {
			fmt.Fprintf(f.env.stdout, "%s unpacked from a tar that is not here any more: their files were read and could not be compared\n", count(f.unverified, "layer"))
		}
		if f.noGit > 0 {
			fmt.Fprintf(f.env.stdout, "%s not checked: the program git was not found in PATH\n", count(f.noGit, "git source"))
		}
	}
	if f.left > 0 {
		return &hintError{fmt.Errorf("%s in the store %s cannot be dropped: other strake commands use them", count(f.left, "thing"), f.root), "try again when they have ended"}
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
