package examples

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/strake-build/strake/cache/remote/remotetest"
)

// The account of the registry that asks for one.
const (
	user     = "shipwright"
	password = "oak and iron"
)

// registry is Debian's docker-registry on loopback.
type registry struct {
	host string // host:port
	ca   string // PEM file of its authority; empty for plain HTTP
	auth string // file with credentials for other programs; empty if it asks for none
}

// startPlain starts a registry that speaks HTTP and asks nobody who they are.
func (l *lab) startPlain(t *testing.T) *registry {
	t.Helper()
	need(t, "docker-registry")
	r := &registry{host: remotetest.Address(t)}
	l.serve(t, "plain", r.host, "")
	return r
}

// startTLS starts a registry with a certificate of a private authority and a password.
func (l *lab) startTLS(t *testing.T) *registry {
	t.Helper()
	need(t, "docker-registry", "htpasswd")
	addr := remotetest.Address(t)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	dir := l.dir(t, "tls")
	authority := l.dir(t, "authority") // alone, because skopeo takes keys beside it for those of a client
	makeCertificates(t, authority, dir)
	write(t, filepath.Join(dir, "htpasswd"), run(t, "htpasswd", "-nbB", user, password))
	l.serve(t, "tls", addr, fmt.Sprintf(`  tls:
    certificate: %[1]s/server.crt
    key: %[1]s/server.key
auth:
  htpasswd:
    realm: examples
    path: %[1]s/htpasswd
`, dir))
	return &registry{
		host: net.JoinHostPort("localhost", port),
		ca:   filepath.Join(authority, "ca.crt"),
		auth: filepath.Join(l.config, "config.json"),
	}
}

// serve runs docker-registry until the test ends; more is the end of its configuration, beginning inside "http".
func (l *lab) serve(t *testing.T, name, addr, more string) {
	t.Helper()
	dir := l.dir(t, "registry-"+name)
	config := filepath.Join(dir, "config.yml")
	write(t, config, fmt.Sprintf(`version: 0.1
log:
  level: warn
  accesslog:
    disabled: true
storage:
  filesystem:
    rootdirectory: %s/data
http:
  addr: %s
  secret: examples
%s`, dir, addr, more))
	remotetest.Start(t, addr, exec.Command("docker-registry", "serve", config))
}

// makeCertificates writes authority/ca.crt, and a certificate of it for the loopback as dir/server.crt and dir/server.key.
func makeCertificates(t *testing.T, authority, dir string) {
	t.Helper()
	newKey := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	sign := func(file string, c, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		writePEM(t, file, "CERTIFICATE", der)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "examples authority"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caKey, key := newKey(), newKey()
	sign(filepath.Join(authority, "ca.crt"), ca, ca, caKey, caKey)
	sign(filepath.Join(dir, "server.crt"), &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "localhost"},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca, key, caKey)
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, filepath.Join(dir, "server.key"), "EC PRIVATE KEY", der)
}

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	write(t, file, string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// skopeo returns the arguments with which skopeo speaks to r as its source.
func (r *registry) skopeo(prefix string) []string {
	if r.ca == "" {
		// Without this it reads this machine's credentials, which may be no file of the user's.
		return []string{"--" + prefix + "tls-verify=false", "--" + prefix + "no-creds"}
	}
	return []string{"--" + prefix + "cert-dir=" + filepath.Dir(r.ca), "--authfile=" + r.auth}
}

// command returns the command line of strake with its store in root, knowing r.
func (l *lab) command(t *testing.T, root string, r *registry, args ...string) *exec.Cmd {
	t.Helper()
	global := []string{"--root", root}
	if r != nil && r.ca != "" {
		global = append(global, "--registry-ca", r.ca)
	}
	cmd := exec.CommandContext(t.Context(), l.strake, append(global, args...)...)
	cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+l.config)
	return cmd
}

// run runs strake to its successful end and returns what it printed.
func (l *lab) run(t *testing.T, root string, r *registry, args ...string) string {
	t.Helper()
	return finish(t, l.command(t, root, r, args...))
}

// login stores the password of r, if it has one: before, the registry must refuse.
func (l *lab) login(t *testing.T, root string, r *registry, image string) {
	t.Helper()
	if r.auth == "" {
		return
	}
	if out, err := l.command(t, root, r, "pull", image).CombinedOutput(); exitCode(t, err) == 0 || !strings.Contains(string(out), "login") {
		t.Errorf("a pull without credentials: %v\n%s", err, out)
	}
	wrong := l.command(t, root, r, "login", "-u", user, "--password-stdin", r.host)
	wrong.Stdin = strings.NewReader("not this")
	if out, err := wrong.CombinedOutput(); exitCode(t, err) == 0 {
		t.Errorf("a login with the wrong password succeeded:\n%s", out)
	}
	right := l.command(t, root, r, "login", "-u", user, "--password-stdin", r.host)
	right.Stdin = strings.NewReader(password + "\n")
	finish(t, right)
}
