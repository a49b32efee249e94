package dockerfile

import v1 "github.com/google/go-containerregistry/pkg/v1"

// Step is one instruction, expanded.
type Step struct {
	// Op is what it does to the file system: *Run, *Copy or *Workdir; nil for one that only changes the configuration.
	Op    Op
	Range Range
	// Name is for people: `RUN go build ./...`, variables expanded as BuildKit shows them, without the "[stage i/n] ".
	Name string
	// Text is the instruction as written, for errors.
	Text string
	// OnBuild: the step comes from a trigger of the base image or stage.
	OnBuild bool
	// History is the entry for the image, without its time (OCI image specification, config.md, "history").
	History v1.History
}

// Op is *Run, *Copy or *Workdir.
type Op interface{ op() }

// Run is a RUN.
type Run struct {
	Args []string // argv: the shell's words and the command, or the exec form
	// Env is the whole environment: the image's, then the arguments in scope.
	Env []string
	// Declared are the names of the ARGs in scope, for whoever tells them from other variables of Env.
	Declared []string
	// Proxy are the predefined proxy arguments: the process gets them whatever Env says, and no cache key or history has them.
	Proxy     []string
	User, Dir string // Dir is absolute, not cleaned
	// Script, for a heredoc that starts with "#!", is mounted read-only and executable at /dev/pipes/NAME, which is the last of Args.
	// As in BuildKit it is the shell that starts it.
	Script *Inline

	Mounts   []Mount // by target, what lies below first; of several at one target the last is there
	Network  Network
	Security Security
	Devices  []Device
}

// ScriptDir is where Run.Script is found.
const ScriptDir = "/dev/pipes"

// Copy is a COPY or an ADD.
type Copy struct {
	Add     bool
	From    *Source  // nil is the build context
	Sources []string // as in the Dockerfile, expanded; relative to the source's root, which "" means too
	Inline  []Inline // heredocs, in order, after Sources
	Dest    string   // absolute, not cleaned; ends in "/" if written so (or if it is a working directory, ".")
	Chown   string   // user[:group], not looked up; empty is the default
	Chmod   string   // octal, at most 07777, or symbolic: good for ParseMode; empty is the default
	Dir     string   // the working directory at this point, absolute, not cleaned

	Link    bool     // --link: the copy is a layer that does not look at what lies below it. False when --chmod is given, as in BuildKit
	Parents bool     // --parents: sources keep their folders; what stands before "/./" in one of them is cut
	Exclude []string // --exclude: patterns as in .dockerignore, relative to each source
	// Checksum is ADD --checksum: ALGORITHM:HEX of a URL's file, or a commit (or the start of one) of a git repository. There is one source then.
	Checksum   string
	Unpack     *bool // ADD --unpack; nil is the default: archives from files, not from URLs
	KeepGitDir *bool // ADD --keep-git-dir; each Remote has it already
	// Remotes are those of ADD's sources that are not files of the context, by rising Index.
	Remotes []Remote
}

// Remote is a source of ADD that is fetched: a file by HTTP, or a git repository.
type Remote struct {
	Index int    // of Copy.Sources
	URL   string // as written, expanded
	Name  string // of the file that an HTTP URL gives; empty for git
	Git   *GitRef
}

// Inline is a file whose content stands in the Dockerfile.
type Inline struct {
	Name string // without a slash
	Data []byte
}

// Source is what COPY --from or a mount's from names: a stage, an image, a named context, or none of them (scratch, which has no files).
type Source struct {
	Stage   *Stage
	Image   string // as written
	Context string // one of Settings.Contexts
}

// Workdir makes a working directory. Root "/" needs none and has no Op.
type Workdir struct {
	Dir  string // absolute and clean, unlike the configuration's: what is made of /link/../x is /x, wherever the link leads
	User string // who owns it when it is made
}

func (*Run) op()     {}
func (*Copy) op()    {}
func (*Workdir) op() {}
