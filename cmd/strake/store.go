package main

import (
	"github.com/strake-build/strake/layer/registry"
)

// registry makes the client that speaks to registries. It does no input or output.
func (e *environment) registry() *registry.Client {
	opt := registry.Options{
		CAFiles:   e.flags.registryCA,
		Insecure:  e.flags.insecure,
		CertsDirs: e.certsDirs(),
		AuthFiles: e.authFiles(),
		UserAgent: "strake/" + version,
		Path:      e.getenv("PATH"),
	}
	if e.chosenAuthFile() == "" {
		opt.AuthJSON = []byte(e.getenv("DOCKER_AUTH_CONFIG"))
	}
	return registry.New(opt)
}
