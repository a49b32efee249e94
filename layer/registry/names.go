package registry

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// ParseReference parses a name as docker does: no host means Docker Hub, no tag means latest.
// Loopback hosts and those in Insecure may be reached by plain HTTP.
func (c *Client) ParseReference(s string) (name.Reference, error) {
	ref, err := name.ParseReference(s, name.WeakValidation)
	if err != nil {
		return nil, fmt.Errorf("%q is not an image name%s", s, nameHint(s))
	}
	if !c.insecure(ref.Context().RegistryStr()) {
		return ref, nil
	}
	ref, err = name.ParseReference(s, name.WeakValidation, name.Insecure)
	if err != nil {
		return nil, fmt.Errorf("%q is not an image name: %w", s, err)
	}
	return ref, nil
}

// nameHint says what is probably wrong with a name.
func nameHint(s string) string {
	_, rest, _ := strings.Cut(s, "/")
	switch {
	case s == "":
		return ": it is empty"
	case strings.Contains(s, "://"):
		return ": it must not begin with a scheme, like https://"
	case strings.ContainsAny(s, " \t\n"):
		return ": it must not contain white space"
	case strings.ToLower(rest) != rest, !strings.Contains(s, "/") && strings.ToLower(s) != s:
		return ": the repository must be in lower case"
	}
	return " (want [HOST[:PORT]/]NAME[:TAG][@sha256:DIGEST])"
}

// parseRepository parses "host/name".
func parseRepository(s string) (name.Repository, error) {
	repo, err := name.NewRepository(s, name.WeakValidation)
	if err != nil {
		return name.Repository{}, fmt.Errorf("%q is not a repository%s", s, nameHint(s))
	}
	return repo, nil
}

// display is a registry's name as people write it.
func display(reg string) string {
	if reg == name.DefaultRegistry {
		return "docker.io"
	}
	return reg
}

// displayRef is a reference as people write it.
func displayRef(ref name.Reference) string {
	s := ref.Name()
	if rest, ok := strings.CutPrefix(s, name.DefaultRegistry+"/"); ok {
		return "docker.io/" + rest
	}
	return s
}

// insecure tells whether the options allow plain HTTP and any certificate for a host[:port].
func (c *Client) insecure(host string) bool {
	bare := hostname(host)
	for _, s := range c.opt.Insecure {
		if strings.EqualFold(s, host) || strings.EqualFold(s, bare) {
			return true
		}
	}
	return false
}

// loopback tells whether host[:port] is this machine by its very name, which no resolver can redirect.
func loopback(host string) bool {
	bare := hostname(host)
	if strings.EqualFold(bare, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(bare)
	return err == nil && ip.Unmap().IsLoopback()
}

// metadata tells whether host[:port] is an address at which clouds serve credentials to their machines.
func metadata(host string) bool {
	ip, err := netip.ParseAddr(hostname(host))
	return err == nil && (ip.Unmap().IsLinkLocalUnicast() || ip == netip.MustParseAddr("fd00:ec2::254"))
}

// hostname is host[:port] without the port, and without the brackets of IPv6.
func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
}
