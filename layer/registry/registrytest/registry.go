// Package registrytest runs real registries for tests: Debian's docker-registry on a free port of the loopback, plain or with
// TLS, open, with basic authentication or with a token server.
package registrytest

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The user that Htpasswd and Token know.
const (
	User     = "strake"
	Password = "correct-horse"

	// bcrypt of Password, made by htpasswd -nbB
	htpasswd = User + ":$2y$05$J4mm/8QvVUMG72VRWV9qJ.RP5ztGhJ9WG8W7/4U4KexB/x7Wx5j6m\n"
)

// Config says what kind of registry is wanted; the zero value is plain HTTP without authentication.
type Config struct {
	TLS      bool   // HTTPS with a certificate for 127.0.0.1, ::1 and localhost of a new authority
	Htpasswd bool   // basic authentication for User
	Token    bool   // bearer tokens from a token server, see Registry.Tokens
	Dir      string // where blobs are kept; empty for a new folder
	Delete   bool   // manifests and blobs can be deleted
}

// Registry is a running registry.
type Registry struct {
	Host   string // host:port
	URL    string // with the scheme
	CAFile string // PEM of the authority when TLS is on
	Dir    string // where blobs are kept
	Tokens *TokenServer
}

// Start runs docker-registry until the test ends. Without that program the test is skipped, or fails when
// STRAKE_TEST_REQUIRE is 1.
func Start(t testing.TB, cfg Config) *Registry {
	t.Helper()
	program := find(t)
	dir := t.TempDir()
	r := &Registry{Dir: cfg.Dir}
	if r.Dir == "" {
		r.Dir = filepath.Join(dir, "data")
	}
	var cert, key string
	if cfg.TLS {
		ca := NewCA(t, dir)
		r.CAFile = ca.File
		cert, key = ca.Issue(t, dir, "server", "localhost", "127.0.0.1", "::1")
	}
	if cfg.Token {
		r.Tokens = startTokens(t, dir, cert, key)
	}
	var last string
	nonce := rand.Text()
	for range 3 { // somebody may take the port before docker-registry does
		r.Host = freePort(t)
		r.URL = "http://" + r.Host
		if cfg.TLS {
			r.URL = "https://" + r.Host
		}
		conf := filepath.Join(dir, "config.yml")
		write(t, conf, r.config(t, cfg, dir, nonce, cert, key))
		if last = r.run(t, program, conf, nonce); last == "" {
			return r
		}
	}
	t.Fatalf("docker-registry did not start:\n%s", last)
	return nil
}

// Auth is a credential file with User for the registry, as docker keeps one.
func (r *Registry) Auth() []byte {
	auth := base64.StdEncoding.EncodeToString([]byte(User + ":" + Password))
	return fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, r.Host, auth)
}

// find looks the program up.
func find(t testing.TB) string {
	t.Helper()
	for _, p := range []string{"docker-registry", "/usr/bin/docker-registry", "/usr/sbin/docker-registry"} {
		if path, err := exec.LookPath(p); err == nil {
			return path
		}
	}
	if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
		t.Fatal("docker-registry is not installed (apt-get install docker-registry)")
	}
	t.Skip("docker-registry is not installed (apt-get install docker-registry)")
	return ""
}

// config writes docker-registry's configuration.
func (r *Registry) config(t testing.TB, cfg Config, dir, nonce, cert, key string) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "version: 0.1\nlog:\n  level: warn\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: %s\n", r.Dir)
	if cfg.Delete {
		b.WriteString("  delete:\n    enabled: true\n")
	}
	fmt.Fprintf(&b, "http:\n  addr: %s\n  secret: test\n  headers:\n    %s: [%s]\n", r.Host, nonceHeader, nonce)
	if cfg.TLS {
		fmt.Fprintf(&b, "  tls:\n    certificate: %s\n    key: %s\n", cert, key)
	}
	switch {
	case cfg.Htpasswd:
		file := filepath.Join(dir, "htpasswd")
		write(t, file, htpasswd)
		fmt.Fprintf(&b, "auth:\n  htpasswd:\n    realm: test\n    path: %s\n", file)
	case cfg.Token:
		fmt.Fprintf(&b, "auth:\n  token:\n    realm: %s\n    service: %s\n    issuer: %s\n    rootcertbundle: %s\n",
			r.Tokens.URL, tokenService, tokenIssuer, r.Tokens.bundle)
	}
	return b.String()
}

// nonceHeader tells that it is this registry that answers, not another one that took the port.
const nonceHeader = "X-Strake-Test"

// answers asks whether the registry is there.
func (r *Registry) answers(nonce string) bool {
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // the question is who it is, not whether it is trusted
	}}
	resp, err := client.Get(r.URL + "/v2/")
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.Header.Get(nonceHeader) == nonce
}

// run starts the program and waits until it answers; it returns what the program wrote if it ends before.
func (r *Registry) run(t testing.TB, program, conf, nonce string) string {
	t.Helper()
	var out locked
	cmd := exec.Command(program, "serve", conf)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = []string{"OTEL_TRACES_EXPORTER=none"} // REGISTRY_* in the environment would change the configuration
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		runtime.LockOSThread() // the signal of Pdeathsig comes when this thread ends
		defer runtime.UnlockOSThread()
		defer close(ended)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // it is killed in the end
		}
	}()
	if err := <-started; err != nil {
		t.Fatalf("starting docker-registry: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-ended
		if t.Failed() {
			t.Logf("docker-registry %s wrote:\n%s", r.Host, out.String())
		}
	})
	deadline := time.After(3 * time.Minute)
	for {
		if r.answers(nonce) {
			return ""
		}
		select {
		case <-ended:
			return out.String() + "\n"
		case <-deadline:
			t.Fatalf("docker-registry does not answer on %s:\n%s", r.Host, out.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// freePort returns an address on the loopback that nobody listens on.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// write writes a file.
func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// locked is a buffer that two goroutines may use.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String returns what was written.
func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// serve runs an HTTP server on a free port of the loopback until the test ends, with TLS if cert is not empty.
func serve(t testing.TB, h http.Handler, cert, key string) (host string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var err error
		if cert != "" {
			err = s.ServeTLS(l, cert, key)
		} else {
			err = s.Serve(l)
		}
		if !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("token server: %v", err)
		}
	}()
	t.Cleanup(func() {
		_ = s.Close() // ends the connections, too
		<-done
	})
	return l.Addr().String()
}
