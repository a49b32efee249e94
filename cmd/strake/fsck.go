package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/strake-build/strake/builder/store"
	"github.com/strake-build/strake/cmd/ui"
)

// fsckOptions are the decided values of strake fsck.
type fsckOptions struct {
	repair, quiet bool
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
	checked, err := s.Check(ctx, store.CheckOptions{
		Repair: opts.repair, Path: env.getenv("PATH"),
		Report: func(f store.Finding) error { return writeFinding(env.stdout, f, opts.quiet) },
	})
	if err != nil {
		return err
	}
	if !opts.quiet {
		writeChecked(env.stdout, checked)
	}
	switch {
	case checked.InUse > 0:
		return &hintError{fmt.Errorf("%s in the store %s cannot be dropped: other strake commands use them", count(checked.InUse, "thing"), s.Root), "try again when they have ended"}
	case checked.Problems > 0 && !opts.repair:
		return &hintError{fmt.Errorf("%s in the store %s", count(checked.Problems, "problem"), s.Root), "\"strake fsck --repair\" drops what is damaged"}
	}
	return nil
}

func writeFinding(w io.Writer, f store.Finding, quiet bool) (err error) {
	what := ui.Printable([]byte(f.What))
	switch {
	case f.Fate != store.Removed:
		_, err = fmt.Fprintf(w, "%s: %s: %s\n", f.Fate, what, ui.Printable([]byte(f.Err.Error())))
	case !quiet:
		_, err = fmt.Fprintf(w, "%s: %s\n", f.Fate, what)
	}
	return err
}

func writeChecked(w io.Writer, c store.Checked) {
	for _, k := range []struct {
		n    int
		noun string
	}{
		{c.Blobs, "blob"},
		{c.Layers, "layer"},
		{c.Records, "record"},
		{c.Images, "image"},
		{c.Files, "file"},
		{c.CacheMounts, "cache mount"},
		{c.GitSources, "git source"},
	} {
		fmt.Fprintf(w, "checked %s\n", count(k.n, k.noun))
	}
	if c.Unverified > 0 {
		fmt.Fprintf(w, "%s unpacked from a tar that is not here any more: their files were read and could not be compared\n", count(c.Unverified, "layer"))
	}
	if c.NoGit > 0 {
		fmt.Fprintf(w, "%s not checked: the program git was not found in PATH\n", count(c.NoGit, "git source"))
	}
}
