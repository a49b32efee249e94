package dockerfile

import (
	"fmt"
	"strings"
)

// This file is what the language has and this release leaves out. Each is refused, none is ignored.

func refuse(what string) error {
	return fmt.Errorf("%s is not supported by this release", what)
}

// unsupportedOS refuses images for Windows: their paths, shells and users are others.
func unsupportedOS(os string) error {
	if os != "windows" {
		return nil
	}
	return refuse("a " + os + " image")
}

// builtinSyntax refuses a "# syntax" that is not one of the official frontends, which need no image here.
func builtinSyntax(syntax string) error {
	ref, _, _ := strings.Cut(strings.TrimSpace(syntax), " ")
	ref, _, _ = strings.Cut(ref, "@")
	repo, _, _ := strings.Cut(ref, ":")
	switch strings.TrimPrefix(strings.TrimPrefix(repo, "docker.io/"), "index.docker.io/") {
	case "docker/dockerfile", "docker/dockerfile-upstream", "dockerfile.v0":
		return nil
	}
	return fmt.Errorf("the frontend %q is not supported: only docker/dockerfile is, and it is built in", ref)
}
