package main

import (
	"context"
	"sync"
)

// registryReport is how a registry that was named answered.
type registryReport struct {
	Name   string `json:"name"`
	Works  bool   `json:"works"`
	Scheme string `json:"scheme,omitempty"` // https or http
	Auth   string `json:"auth,omitempty"`   // what it asks for: basic or bearer
	// Credentials is where those that were used are from; empty without any.
	Credentials string `json:"credentials,omitempty"`
	Expires     string `json:"expires,omitempty"` // of its certificate
	Error       string `json:"error,omitempty"`
}

// askRegistries asks all named registries at once.
func (d *diagnosis) askRegistries(ctx context.Context, env *environment, names []string) {
	d.Registries = make([]registryReport, len(names))
	client := env.registry()
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			found, err := client.Check(ctx, registryHost([]string{name}))
			r := registryReport{Name: name, Works: err == nil, Scheme: found.Scheme, Auth: found.Auth, Credentials: found.Source}
			if err != nil {
				r.Error = err.Error()
			}
			if !found.Expires.IsZero() {
				r.Expires = rfc3339(found.Expires.UTC())
			}
			d.Registries[i] = r
		})
	}
	wg.Wait()
	for _, r := range d.Registries {
		if !r.Works {
			d.failed = append(d.failed, r.Name)
		}
	}
}
