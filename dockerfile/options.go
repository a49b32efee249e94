package dockerfile

import (
	"fmt"
	"strconv"
)

// Build arguments that speak to the builder. A process only sees them when an ARG declares them.
const (
	hostnameArg       = "BUILDKIT_SANDBOX_HOSTNAME"
	cacheNamespaceArg = "BUILDKIT_CACHE_MOUNT_NS"
	keepGitArg        = "BUILDKIT_CONTEXT_KEEP_GIT_DIR"
	multiPlatformArg  = "BUILDKIT_MULTI_PLATFORM"
	inlineCacheArg    = "BUILDKIT_INLINE_CACHE"
	syntaxArg         = "BUILDKIT_SYNTAX"
	epochArg          = "SOURCE_DATE_EPOCH"
)

// Options are what build arguments say to the builder. Those that concern only the Dockerfile are not among them: BUILDKIT_SYNTAX and
// BUILDKIT_DOCKERFILE_CHECK are read by Graph, BUILDKIT_CACHE_MOUNT_NS is in Mount.ID.
type Options struct {
	// Hostname is what RUN finds as its host's name; empty is the default.
	Hostname string
	// KeepGitDir says whether a git context keeps its .git folder; nil is not said.
	KeepGitDir *bool
	// MultiPlatform asks for an index even of one platform (true) or refuses several (false); nil is not said.
	MultiPlatform *bool
	// InlineCache asks for cache metadata in the image.
	InlineCache bool
}

// Options reads the build arguments that speak to the builder. They need no Dockerfile.
func (s Settings) Options() (Options, error) {
	o := Options{Hostname: s.BuildArgs[hostnameArg]}
	// As in BuildKit and buildx, only one of them must be right.
	if on, err := strconv.ParseBool(s.BuildArgs[keepGitArg]); err == nil {
		o.KeepGitDir = &on
	}
	if on, err := strconv.ParseBool(s.BuildArgs[inlineCacheArg]); err == nil {
		o.InlineCache = on
	}
	if v := s.BuildArgs[multiPlatformArg]; v != "" {
		on, err := strconv.ParseBool(v)
		if err != nil {
			return Options{}, fmt.Errorf("invalid boolean value for multi-platform: %s", v)
		}
		o.MultiPlatform = &on
	}
	return o, nil
}
