package main

import (
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"github.com/strake-build/strake/runner"
)

// buildFlags are the flags of strake build as they were typed.
type buildFlags struct {
	tags, buildArgs, labels, outputs []string

	file, target, platform, progress string
	iidFile, metadataFile            string
	noCache, pull, quiet, push       bool
	jobs                             int
}

// buildOptions are the decided values of strake build.
type buildOptions struct {
	context      string // a folder, or "-" for standard input
	file         string // of the Dockerfile; "" is Dockerfile in the context, "-" standard input
	tags         []name.Tag
	target       string
	buildArgs    map[string]string
	labels       map[string]string
	noCache      bool
	pull         bool
	platform     v1.Platform
	progress     string // auto, plain, tty or quiet
	printID      bool   // -q
	iidFile      string
	metadataFile string
	outputs      []output
	jobs         int // 0 is the builder's default
	isolation    runner.Rung
}

// epochArg is the time that reproducible builds give to everything.
const epochArg = "SOURCE_DATE_EPOCH"

func newBuildCommand(env *environment) *cobra.Command {
	var flags buildFlags
	cmd := &cobra.Command{
		Use:   "build [OPTIONS] CONTEXT",
		Short: "Build an image from a Dockerfile",
		Long: `Build an image from a Dockerfile.

CONTEXT is the folder that COPY and ADD read, or "-": a tar archive, or a Dockerfile, on
standard input. The image goes to strake's store unless -o says otherwise.`,
		Example: `  strake build -t app:1.0 .
  strake build -t registry.example.org/app:1.0 --push .
  strake build -o type=oci,dest=app.tar .`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts, err := flags.decide(env, args[0])
			if err != nil {
				return err
			}
			return runBuild(cmd.Context(), env, opts)
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&flags.tags, "tag", "t", nil, "`name` of the image, as NAME or NAME:TAG (repeatable)")
	f.StringVarP(&flags.file, "file", "f", "", "Dockerfile (default CONTEXT/Dockerfile; \"-\" is standard input)")
	f.StringVar(&flags.target, "target", "", "`stage` to build (default: the last)")
	f.StringArrayVar(&flags.buildArgs, "build-arg", nil, "value of an ARG, as `K=V`, or K for its value in the environment (repeatable)")
	f.StringArrayVar(&flags.labels, "label", nil, "label of the image, as `K=V` (repeatable)")
	f.BoolVar(&flags.noCache, "no-cache", false, "run every step again")
	f.BoolVar(&flags.pull, "pull", false, "ask the registry for newer base images")
	f.StringVar(&flags.platform, "platform", "", "`platform` of the image, as OS/ARCH[/VARIANT] (default: this machine's)")
	f.StringVar(&flags.progress, "progress", "auto", "how to show progress: `auto`, plain, tty or quiet")
	f.BoolVarP(&flags.quiet, "quiet", "q", false, "print nothing but the image ID")
	f.StringVar(&flags.iidFile, "iidfile", "", "write the image ID to this `file`")
	f.StringVar(&flags.metadataFile, "metadata-file", "", "write what was built, as JSON, to this `file`")
	f.BoolVar(&flags.push, "push", false, "push the image under its names")
	f.StringArrayVarP(&flags.outputs, "output", "o", nil, "where the result goes: a folder, or `TYPE`: type=image|registry|oci|docker|tar|local[,dest=PATH] (repeatable)")
	f.IntVar(&flags.jobs, "jobs", 0, "steps that run at once (default: by the number of CPUs)")
	addIsolationFlag(cmd, env)
	return cmd
}

// decide turns flags into values, and refuses what makes no sense before anything else happens.
func (f *buildFlags) decide(env *environment, contextArg string) (buildOptions, error) {
	opts := buildOptions{
		context: contextArg, file: f.file, target: f.target,
		noCache: f.noCache, pull: f.pull, printID: f.quiet,
		progress: f.progress, iidFile: f.iidFile, metadataFile: f.metadataFile, jobs: f.jobs,
	}
	if contextArg == "-" && f.file == "-" {
		return opts, usagef("the context and the Dockerfile cannot both come from standard input")
	}
	switch f.progress {
	case "auto", "plain", "tty", "quiet":
	default:
		return opts, usagef("invalid --progress %q: it is auto, plain, tty or quiet", f.progress)
	}
	if f.quiet {
		opts.progress = "quiet"
	}
	if f.jobs < 0 {
		return opts, usagef("invalid --jobs %d: it is a positive number", f.jobs)
	}
	var err error
	if opts.isolation, err = env.rung(); err != nil {
		return opts, err
	}
	if opts.platform, err = parsePlatform(f.platform); err != nil {
		return opts, err
	}
	if opts.tags, err = parseTags(env, f.tags); err != nil {
		return opts, err
	}
	opts.buildArgs = make(map[string]string)
	for _, arg := range f.buildArgs {
		// A name without a value takes the environment's; one that is not set there is as if not given.
		kv, ok := env.expand(arg)
		if !ok {
			continue
		}
		k, v, _ := strings.Cut(kv, "=")
		// These mean something to BuildKit beside being arguments, which strake does not do yet.
		if k == "" || k == epochArg || strings.HasPrefix(k, "BUILDKIT_") {
			return opts, usagef("--build-arg %q is not supported", arg)
		}
		opts.buildArgs[k] = v
	}
	opts.labels = make(map[string]string)
	for _, label := range f.labels {
		k, v, _ := strings.Cut(label, "=")
		if k == "" {
			return opts, usagef("invalid --label %q: it has no name", label)
		}
		opts.labels[k] = v
	}
	opts.outputs, err = decideOutputs(env, f.outputs, f.push, opts.tags)
	return opts, err
}

// parseTags parses the values of -t.
func parseTags(env *environment, values []string) ([]name.Tag, error) {
	var tags []name.Tag
	client := env.registry()
	for _, v := range values {
		ref, err := client.ParseReference(v)
		if err != nil {
			return nil, usagef("invalid name %q: %w", v, err)
		}
		tag, ok := ref.(name.Tag)
		if !ok {
			return nil, usagef("invalid name %q: a digest cannot be given to an image", v)
		}
		tags = append(tags, tag)
	}
	return tags, nil
}

// parsePlatform parses OS/ARCH[/VARIANT] or ARCH, with the spellings that docker knows; "" is this machine's.
func parsePlatform(s string) (v1.Platform, error) {
	if s == "" {
		return v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, nil
	}
	if strings.Contains(s, ",") {
		return v1.Platform{}, usagef("invalid --platform %q: images of several platforms are not supported yet; build one at a time", s)
	}
	parts := strings.Split(strings.ToLower(s), "/")
	if len(parts) == 1 {
		parts = []string{"linux", parts[0]}
	}
	if len(parts) > 3 || parts[0] == "" || parts[1] == "" {
		return v1.Platform{}, usagef("invalid --platform %q: it is OS/ARCH or OS/ARCH/VARIANT, such as linux/arm64", s)
	}
	p := v1.Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture = "arm64"
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	case "armel":
		p.Architecture, p.Variant = "arm", "v6"
	case "i386", "i686":
		p.Architecture = "386"
	}
	if p.Architecture == "arm64" && p.Variant == "v8" {
		p.Variant = ""
	}
	if p.OS != "linux" {
		return v1.Platform{}, usagef("invalid --platform %q: strake builds and runs linux images only", s)
	}
	return p, nil
}
