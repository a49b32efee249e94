package registry

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Contact is how a registry answered.
type Contact struct {
	Registry string // as people write it
	Scheme   string // https or http
	// Auth is what it asks for: "basic", "bearer" or nothing; Source is where the credentials for it are, empty without any.
	Auth, Source string
	// Expires is the end of the server's certificate; the zero time without TLS.
	Expires time.Time
}

// Check asks a registry for /v2/ (distribution specification, end-1) with what credentials there are. The error says what a person can change.
func (c *Client) Check(ctx context.Context, host string) (Contact, error) {
	reg, err := parseHost(host)
	if err != nil {
		return Contact{}, err
	}
	h := newHost(c, reg)
	found := Contact{Registry: display(reg)}
	if found.Scheme, err = h.connect(ctx); err != nil {
		return found, err
	}
	found.Auth = h.ask.scheme
	cred, err := c.keys.lookup(ctx, reg, "")
	if err != nil {
		return found, err
	}
	found.Source = cred.source
	ctx, cancel := c.attempt(ctx)
	defer cancel()
	resp, err := h.do(ctx, request{method: http.MethodGet, url: "/v2/"}, http.StatusOK)
	if err != nil {
		return found, checkError(found, err)
	}
	defer drain(resp)
	if resp.TLS != nil && len(resp.TLS.PeerCertificates) > 0 {
		found.Expires = resp.TLS.PeerCertificates[0].NotAfter
	}
	return found, nil
}

// checkError says what is to be done about a refusal.
func checkError(found Contact, err error) error {
	switch {
	case !errors.Is(err, ErrUnauthorized):
		return err
	case found.Source == "":
		return fmt.Errorf("it needs a login (strake login %s): %w", found.Registry, err)
	}
	return fmt.Errorf("it refuses the credentials in %s (strake login %s): %w", found.Source, found.Registry, err)
}

// CredentialSource is a place that credentials are looked for in. It holds no secret.
type CredentialSource struct {
	File       string // its path, or $DOCKER_AUTH_CONFIG
	Registries []string
	// Helpers are the credential helpers by registry, "" for all others; Missing are those whose programs are not there.
	Helpers map[string]string
	Missing []string
	Err     error // it cannot be read
}

// Sources lists the places with credentials, in the order in which they are asked. Files that are not there are left out.
func (c *Client) Sources() []CredentialSource {
	var out []CredentialSource
	add := func(f authFile, err error, path string) {
		s := CredentialSource{File: path, Err: err, Helpers: map[string]string{}}
		for key, e := range f.Auths {
			if e != (authEntry{}) {
				s.Registries = append(s.Registries, display(canonical(key)))
			}
		}
		slices.Sort(s.Registries)
		for key, name := range f.Helpers {
			s.Helpers[display(canonical(key))] = name
		}
		if f.Store != "" {
			s.Helpers[""] = f.Store
		}
		for _, name := range slices.Compact(slices.Sorted(maps.Values(s.Helpers))) {
			if _, err := (helper{name: name, path: c.opt.Path}).find(); err != nil {
				s.Missing = append(s.Missing, name)
			}
		}
		out = append(out, s)
	}
	if path := c.opt.AuthFile; path != "" {
		f, err := readAuthFile(path)
		add(f, err, path)
	}
	if len(c.opt.AuthJSON) > 0 {
		f, err := parseAuthFile("$DOCKER_AUTH_CONFIG", c.opt.AuthJSON)
		add(f, err, "$DOCKER_AUTH_CONFIG")
	}
	for _, path := range c.opt.AuthFiles {
		f, err := readAuthFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		add(f, err, path)
	}
	return out
}

// Certificate is a file of a folder in certs.d, or of --registry-ca.
type Certificate struct {
	File     string
	Registry string // whose it is; empty for all
	Subject  string
	Expires  time.Time
	Err      error // it cannot be used
}

// Certificates lists the authorities and client certificates for registries, and what is wrong with them; an expired one is for
// the caller to find. A folder that an earlier one hides is left out.
func (c *Client) Certificates() []Certificate {
	var out []Certificate
	for _, file := range c.opt.CAFiles {
		out = append(out, readCertificates(file, "")...)
	}
	seen := map[string]bool{}
	for _, dir := range c.opt.CertsDirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			out = append(out, Certificate{File: dir, Err: err})
		}
		for _, e := range entries {
			folder := filepath.Join(dir, e.Name())
			if info, err := os.Stat(folder); err != nil || !info.IsDir() || seen[e.Name()] {
				continue
			}
			seen[e.Name()] = true
			if _, err := loadCertsDir(folder, &tls.Config{MinVersion: tls.VersionTLS12}); err != nil {
				out = append(out, Certificate{File: folder, Registry: e.Name(), Err: err})
			}
			files, _ := os.ReadDir(folder) // loadCertsDir has said what is wrong
			for _, f := range files {
				if ext := filepath.Ext(f.Name()); ext == ".crt" || ext == ".cert" {
					out = append(out, readCertificates(filepath.Join(folder, f.Name()), e.Name())...)
				}
			}
		}
	}
	return out
}

// readCertificates reads the certificates of a PEM file.
func readCertificates(file, registry string) []Certificate {
	data, err := os.ReadFile(file)
	if err != nil {
		return []Certificate{{File: file, Registry: registry, Err: err}}
	}
	var out []Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		found := Certificate{File: file, Registry: registry}
		if cert, err := x509.ParseCertificate(block.Bytes); err != nil {
			found.Err = err
		} else {
			found.Subject, found.Expires = printable(cmp.Or(cert.Subject.CommonName, strings.Join(cert.DNSNames, ","), cert.Subject.String()), 100), cert.NotAfter
		}
		out = append(out, found)
	}
	if len(out) == 0 {
		out = append(out, Certificate{File: file, Registry: registry, Err: errors.New("it has no PEM certificate")})
	}
	return out
}
