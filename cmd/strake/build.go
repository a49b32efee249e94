package main

import (
	"cmp"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/builder/store"
	"github.com/strake-build/strake/dockerfile"
	"github.com/strake-build/strake/runner"
)

// buildFlags are the flags of strake build as they were typed.
type buildFlags struct {
	tags, buildArgs, labels, platforms    []string
	secrets, ssh, contexts, noCacheFilter []string
	cacheFrom, cacheTo, mountMax          []string
	file, target, progress, call          string
	iidFile, metadataFile, cacheMax       string
	noCache, pull, quiet, check           bool
	jobs                                  int
	outputs                               outputFlags
	steps                                 stepFlags
}

// buildOptions are the decided values of strake build.
type buildOptions struct {
	context       string // a folder, "-" for standard input, or a URL
	file          string // of the Dockerfile; "" is Dockerfile in the context, "-" standard input
	tags          []name.Tag
	target        string
	buildArgs     map[string]string
	labels        map[string]string
	noCache       bool
	noCacheFilter []string // names of stages
	cacheFrom     []cacheFlag
	cacheTo       []cacheFlag
	inlineCache   bool // BUILDKIT_INLINE_CACHE
	pull          bool
	platforms     []v1.Platform // at least one
	platformGiven bool
	index         bool   // the result is an index, also of one platform
	progress      string // auto, plain, tty, quiet or rawjson
	printID       bool   // -q
	iidFile       string
	metadataFile  string
	outputs       []output
	rewrite       bool           // no file in a new layer is later than SOURCE_DATE_EPOCH
	epoch         *builder.Epoch // of the image; nil is SOURCE_DATE_EPOCH
	jobs          int            // 0 is the builder's default
	isolation     runner.Rung
	secrets       []secretFlag
	ssh           []sshFlag
	contexts      []contextFlag
	steps         builder.SandboxOptions
	call          callOptions
	dry           bool // nothing is built
	verify        verification
	cacheMax      store.Cap
	mountMax      mountCaps
}

// epochArg is the time that reproducible builds give to everything.
const epochArg = "SOURCE_DATE_EPOCH"

func newBuildCommand(env *environment) *cobra.Command {
	var flags buildFlags
	cmd := &cobra.Command{
		Use:   "build [OPTIONS] CONTEXT",
		Short: "Build an image from a Dockerfile",
		Long: `Build an image from a Dockerfile.

CONTEXT is what COPY and ADD read: a folder, the URL of a git repository (URL#REF:FOLDER) or of
an archive, or "-": a tar archive, or a Dockerfile, on standard input. The image goes to strake's
store unless -o says otherwise.

A step is taken from the cache when nothing that it depends on changed; the others say why they run.
With STRAKE_CACHE=verify in the environment all run, and warnings say which did not make what the
cache has; with STRAKE_CACHE=verify=strict the command fails for these.`,
		Example: `  strake build -t app:1.0 .
  strake build -t registry.example.org/app:1.0 --push .
  strake build -o type=oci,dest=app.tar .
  strake build --secret id=token,src=token.txt --ssh default .
  strake build --check .`,
		Args: exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts, err := flags.decide(env, args[0])
			if err != nil {
				return err
			}
			return runBuild(cmd.Context(), env, opts)
		},
	}
	flags.add(cmd.Flags())
	addIsolationFlag(cmd, env)
	return cmd
}

func (f *buildFlags) add(set *pflag.FlagSet) {
	f.addKeys(set)
	set.StringArrayVarP(&f.tags, "tag", "t", nil, "`name` of the image, as NAME or NAME:TAG (repeatable)")
	set.StringArrayVar(&f.labels, "label", nil, "label of the image, as `K=V` (repeatable)")
	set.StringArrayVar(&f.outputs.annotations, "annotation", nil, "annotation of the manifest, as `[TYPE:]K=V` (repeatable)")
	set.StringArrayVar(&f.cacheTo, "cache-to", nil, "give the build's steps to other machines, as `type=registry|local|http|s3|gha|inline`[,ref=NAME|,dest=FOLDER|…][,mode=min|max][,mounts=all] (repeatable)")
	set.StringVar(&f.progress, "progress", "", "how to show progress: `auto`, plain, tty, quiet or rawjson, lines of JSON as docker's (default $BUILDKIT_PROGRESS or auto)")
	set.BoolVarP(&f.quiet, "quiet", "q", false, "print nothing but the image ID")
	set.BoolVar(&f.check, "check", false, "check the Dockerfile and build nothing")
	set.StringVar(&f.call, "call", "build", "what to do: `build`, check, outline or targets; with ,format=json for programs")
	set.StringVar(&f.iidFile, "iidfile", "", "write the image ID to this `file`")
	set.StringVar(&f.metadataFile, "metadata-file", "", "write what was built, as JSON, to this `file`")
	set.BoolVar(&f.outputs.push, "push", false, "push the image under its names")
	set.IntVar(&f.jobs, "jobs", 0, "steps that run at once (default: by the number of CPUs)")
	set.StringVar(&f.cacheMax, "cache-max-size", "", "remove the oldest of the cache when it takes more than this `size`, such as 20GB or 5%, 0 for never (default $STRAKE_CACHE_MAX_SIZE or 10% of the disk)")
	set.StringArrayVar(&f.mountMax, "cache-mount-max-size", nil, "empty the cache mounts that the build used and that take more than this: `[ID=]SIZE`, without ID of each; SIZE as of --cache-max-size (repeatable; default $STRAKE_CACHE_MOUNT_MAX_SIZE, separated by commas, or 0, no limit)")
}

// addKeys adds the flags that decide what the steps are.
func (f *buildFlags) addKeys(set *pflag.FlagSet) {
	set.StringVarP(&f.file, "file", "f", "", "Dockerfile (default CONTEXT/Dockerfile; \"-\" is standard input)")
	set.StringVar(&f.target, "target", "", "`stage` to build (default: the last)")
	set.StringArrayVar(&f.buildArgs, "build-arg", nil, "value of an ARG, as `K=V`, or K for its value in the environment (repeatable)")
	set.StringArrayVar(&f.contexts, "build-context", nil, "further context, as `NAME=VALUE`: a folder, a URL, docker-image://NAME, oci-layout://FOLDER or target:STAGE (repeatable)")
	set.StringArrayVar(&f.secrets, "secret", nil, "secret for RUN --mount=type=secret, as `id=ID[,src=FILE|,env=VARIABLE][,cache-key=content]` (repeatable)")
	set.StringArrayVar(&f.ssh, "ssh", nil, "ssh agent or keys for RUN --mount=type=ssh, as `default|ID[=SOCKET|KEY,…]` (repeatable)")
	set.BoolVar(&f.noCache, "no-cache", false, "run every step again")
	set.StringSliceVar(&f.noCacheFilter, "no-cache-filter", nil, "run the steps of these `stages` again")
	set.StringArrayVar(&f.cacheFrom, "cache-from", nil, "take steps from a cache: the `NAME` of an image or a cache in a registry, or type=registry|local|http|s3|gha[,ref=NAME|,src=FOLDER|…] (repeatable)")
	set.BoolVar(&f.pull, "pull", false, "ask the registry for newer base images")
	set.StringSliceVar(&f.platforms, "platform", nil, "`platforms` of the image, as OS/ARCH[/VARIANT],… (default: $DOCKER_DEFAULT_PLATFORM or this machine's)")
	set.StringArrayVarP(&f.outputs.values, "output", "o", nil, "where the result goes: a folder, or `TYPE`: type=image|registry|oci|docker|tar|local|cacheonly[,dest=PATH][,KEY=VALUE…] (repeatable)")
	f.steps.add(set)
}

// decide turns flags into values, and refuses what makes no sense before anything else happens.
func (f *buildFlags) decide(env *environment, contextArg string) (buildOptions, error) {
	opts := buildOptions{
		context: contextArg, file: f.file, target: f.target,
		noCache: f.noCache, pull: f.pull, printID: f.quiet,
		progress: cmp.Or(f.progress, env.getenv("BUILDKIT_PROGRESS"), "auto"), iidFile: f.iidFile, metadataFile: f.metadataFile, jobs: f.jobs,
	}
	if contextArg == "-" && f.file == "-" {
		return opts, usagef("the context and the Dockerfile cannot both come from standard input")
	}
	switch opts.progress {
	case "auto", "plain", "tty", "quiet", "rawjson":
	default:
		return opts, usagef("invalid --progress %q: it is auto, plain, tty, quiet or rawjson", opts.progress)
	}
	if f.quiet {
		opts.progress = "quiet"
	}
	if f.jobs < 0 {
		return opts, usagef("invalid --jobs %d: it is a positive number", f.jobs)
	}
	if opts.noCacheFilter = f.noCacheFilter; f.noCache && len(f.noCacheFilter) > 0 {
		return opts, usagef("--no-cache and --no-cache-filter exclude each other")
	}
	var err error
	if opts.cacheMax, err = decideCap(env, f.cacheMax); err != nil {
		return opts, err
	}
	if opts.mountMax, err = decideMountCaps(env, f.mountMax); err != nil {
		return opts, err
	}
	if opts.verify, err = env.verification(); err != nil {
		return opts, err
	}
	if opts.isolation, err = env.rung(); err != nil {
		return opts, err
	}
	if opts.tags, err = parseTags(env, f.tags); err != nil {
		return opts, err
	}
	if err := f.decideLanguage(env, &opts); err != nil {
		return opts, err
	}
	if opts.call, err = parseCall(f.call, f.check); err != nil {
		return opts, err
	}
	if opts.steps, err = f.steps.decide(); err != nil {
		return opts, err
	}
	if err := f.decideSources(env, &opts); err != nil {
		return opts, err
	}
	if err := f.decideCaches(env, &opts); err != nil {
		return opts, err
	}
	if opts.outputs, err = f.outputs.decide(env, opts.tags, opts.index); err != nil {
		return opts, err
	}
	opts.rewrite, opts.epoch, err = times(opts.outputs)
	return opts, err
}

// decideLanguage decides what the Dockerfile sees: arguments, labels and platforms.
func (f *buildFlags) decideLanguage(env *environment, opts *buildOptions) error {
	opts.buildArgs = make(map[string]string)
	for _, arg := range f.buildArgs {
		// A name without a value takes the environment's; one that is not set there is as if not given.
		kv, ok := env.expand(arg)
		if !ok {
			continue
		}
		k, v, _ := strings.Cut(kv, "=")
		if k == "" {
			return usagef("invalid --build-arg %q: it has no name", arg)
		}
		opts.buildArgs[k] = v
	}
	if epoch := env.getenv(epochArg); epoch != "" {
		if _, ok := opts.buildArgs[epochArg]; !ok {
			opts.buildArgs[epochArg] = epoch
		}
	}
	opts.labels = make(map[string]string)
	for _, label := range f.labels {
		k, v, _ := strings.Cut(label, "=")
		if k == "" {
			return usagef("invalid --label %q: it has no name", label)
		}
		opts.labels[k] = v
	}
	platforms := f.platforms
	if v := env.getenv("DOCKER_DEFAULT_PLATFORM"); len(platforms) == 0 && v != "" {
		platforms = strings.Split(v, ",")
	}
	for _, s := range platforms {
		p, err := parsePlatform(s)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(opts.platforms, p.Equals) {
			opts.platforms = append(opts.platforms, p)
		}
	}
	opts.platformGiven = len(platforms) > 0
	if !opts.platformGiven {
		opts.platforms = []v1.Platform{{OS: "linux", Architecture: runtime.GOARCH}}
	}
	language, err := dockerfile.Settings{BuildArgs: opts.buildArgs}.Options()
	if err != nil {
		return usagef("%w", err)
	}
	opts.inlineCache = language.InlineCache
	opts.index = len(opts.platforms) > 1
	if language.MultiPlatform != nil {
		if opts.index && !*language.MultiPlatform {
			return usagef("--build-arg BUILDKIT_MULTI_PLATFORM=false allows only one --platform")
		}
		opts.index = *language.MultiPlatform
	}
	return nil
}

// decideSources decides what steps may read beside the context.
func (f *buildFlags) decideSources(env *environment, opts *buildOptions) error {
	for _, v := range f.secrets {
		s, err := parseSecret(env, v)
		if err != nil {
			return err
		}
		opts.secrets = append(opts.secrets, s)
	}
	for _, v := range f.ssh {
		s, err := parseSSH(env, v)
		if err != nil {
			return err
		}
		opts.ssh = append(opts.ssh, s)
	}
	needSSH := sshContext(opts.context)
	for _, v := range f.contexts {
		c, err := parseContext(v)
		if err != nil {
			return err
		}
		opts.contexts = append(opts.contexts, c)
		needSSH = needSSH || sshContext(c.value)
	}
	// As in docker, a context that needs ssh gets the user's agent.
	if socket := env.getenv("SSH_AUTH_SOCK"); needSSH && socket != "" && !hasAgent(opts.ssh, defaultAgent) {
		opts.ssh = append(opts.ssh, sshFlag{defaultAgent, []string{socket}})
	}
	return nil
}
