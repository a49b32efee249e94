package main

import (
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"
)

// versionInfo is what strake version prints.
type versionInfo struct {
	Version   string
	GoVersion string
	Os        string
	Arch      string
}

func newVersionCommand(env *environment) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "version [--format json|TEMPLATE]",
		Short: "Show the version of strake",
		Args:  exactArgs(0),
		RunE:  func(*cobra.Command, []string) error { return runVersion(env.stdout, format) },
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "`json`, or a Go template")
	return cmd
}

func runVersion(w io.Writer, format string) error {
	v := versionInfo{version, runtime.Version(), runtime.GOOS, runtime.GOARCH}
	if format != "" {
		return writeFormatted(w, format, v)
	}
	_, err := fmt.Fprintf(w, "strake %s\n Go version: %s\n OS/Arch:    %s/%s\n", v.Version, v.GoVersion, v.Os, v.Arch)
	return err
}
