package registry

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSources(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("docker-credential-here", "#!/bin/sh\n")
	file := write("config.json", `{"auths":{"https://index.docker.io/v1/":{"auth":"c2VjcmV0OnNlY3JldA=="},"empty.example.org":{},"r.example.org":{"identitytoken":"secret"}},
		"credHelpers":{"gcr.io":"here","x.example.org":"gone"},"credsStore":"gone"}`)
	bad := write("bad.json", "nonsense")
	c := New(Options{Path: dir, AuthFiles: []string{filepath.Join(dir, "missing"), file, bad}, AuthJSON: []byte(`{"auths":{}}`)})
	got := c.Sources()
	if len(got) != 3 || got[0].File != "$DOCKER_AUTH_CONFIG" || got[1].File != file || got[2].Err == nil {
		t.Fatalf("got %+v", got)
	}
	if s := got[1]; !slices.Equal(s.Registries, []string{"docker.io", "r.example.org"}) || s.Helpers["gcr.io"] != "here" || s.Helpers[""] != "gone" || !slices.Equal(s.Missing, []string{"gone"}) {
		t.Errorf("got %+v", s)
	}
	if text := fmt.Sprintf("%+v", got); strings.Contains(strings.ToLower(text), "secret") || strings.Contains(text, "c2Vj") {
		t.Errorf("a secret is shown: %s", text)
	}
}

func TestCertificates(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	end := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "own\x1b[31m authority"}, NotAfter: end}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	for path, data := range map[string][]byte{
		filepath.Join(first, "good:5000/ca.crt"):          pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		filepath.Join(first, "bad/ca.crt"):                []byte("nonsense"),
		filepath.Join(first, "keyless/client.cert"):       []byte("nonsense"),
		filepath.Join(second, "good:5000/hidden.crt"):     []byte("nonsense"),
		filepath.Join(second, "mirror/hosts.toml"):        nil,
		filepath.Join(second, "a file that is no folder"): nil,
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := New(Options{CertsDirs: []string{first, filepath.Join(first, "missing"), second}})
	failed := map[string]bool{}
	for _, cert := range c.Certificates() {
		switch {
		case cert.Err != nil:
			failed[cert.Registry] = true
		case cert.Registry != "good:5000" || cert.Subject != "own [31m authority" || !cert.Expires.Equal(end):
			t.Errorf("got %+v", cert)
		}
		if strings.Contains(cert.File, "hidden") {
			t.Error("a folder that is hidden is listed")
		}
	}
	for _, registry := range []string{"bad", "keyless", "mirror"} {
		if !failed[registry] {
			t.Errorf("nothing is said about %s", registry)
		}
	}
	if failed["good:5000"] || len(failed) != 3 {
		t.Errorf("failed: %v", failed)
	}
}
