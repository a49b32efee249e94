package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/strake-build/strake/layer/registry/registrytest"
)

// folder makes dir/name with copies of files.
func folder(t *testing.T, name string, files map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
		t.Fatal(err)
	}
	for to, from := range files {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, to), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestTLS(t *testing.T) {
	r := registrytest.Start(t, registrytest.Config{TLS: true})
	good := client(t, Options{CertsDirs: []string{"/does/not/exist", folder(t, r.Host, map[string]string{"ca.crt": r.CAFile})}})
	ref := reference(t, good, r.Host+"/r:1")
	pushImage(t, good, ref, amd64, random(10))

	insecure := client(t, Options{Insecure: []string{"127.0.0.1"}})
	if _, err := insecure.Resolve(t.Context(), ref, amd64); err != nil {
		t.Error(err)
	}
	// An unknown authority is never a reason to try HTTP, not even on the loopback.
	_, err := client(t, Options{}).Resolve(t.Context(), ref, amd64)
	wantError(t, err, "certificate of "+r.Host+" is not trusted", "--registry-ca", "certs.d/"+r.Host+"/ca.crt")
	var unknown x509.UnknownAuthorityError
	if !errors.As(err, &unknown) {
		t.Errorf("%v is not an UnknownAuthorityError", err)
	}

	for name, tt := range map[string]struct {
		files map[string]string
		want  string
	}{
		"broken":     {map[string]string{"ca.crt": "/dev/null"}, "no PEM certificate"},
		"no key":     {map[string]string{"client.cert": r.CAFile}, "client.key"},
		"no cert":    {map[string]string{"client.key": r.CAFile}, "no client certificate"},
		"hosts.toml": {map[string]string{"hosts.toml": "/dev/null"}, "not supported"},
	} {
		_, err := client(t, Options{CertsDirs: []string{folder(t, r.Host, tt.files)}}).Resolve(t.Context(), ref, amd64)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	_, err = client(t, Options{CAFiles: []string{"/does/not/exist"}}).Resolve(t.Context(), ref, amd64)
	wantError(t, err, "/does/not/exist")
}

func TestClientCertificate(t *testing.T) {
	dir := t.TempDir()
	ca := registrytest.NewCA(t, dir)
	cert, key := ca.Issue(t, dir, "server", "127.0.0.1")
	clientCert, clientKey := ca.Issue(t, dir, "client", "client")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(ca.File)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	content := random(1000)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("%s, want HTTP/2", r.Proto)
		}
		if r.URL.Path != "/v2/" {
			_, _ = w.Write(content)
		}
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	host := strings.TrimPrefix(s.URL, "https://")
	c := client(t, Options{CertsDirs: []string{folder(t, host, map[string]string{"ca.crt": ca.File, "client.cert": clientCert, "client.key": clientKey})}})
	if _, err := pull(t, c, host+"/r", blob(content)); err != nil {
		t.Error(err)
	}
	if _, err := pull(t, client(t, Options{CAFiles: []string{ca.File}}), host+"/r", blob(content)); err == nil {
		t.Error("the server took a client without a certificate")
	}
}

// TestPlainHTTP speaks to a registry by another name than the loopback's, through a proxy that resolves it.
func TestPlainHTTP(t *testing.T) {
	content := random(10)
	var plain atomic.Bool
	host := fake(t, func(w http.ResponseWriter, r *http.Request) {
		plain.Store(true)
		if r.URL.Path != "/v2/" {
			_, _ = w.Write(content)
		}
	})
	// The proxy tunnels to the registry whatever is asked for.
	proxy := fake(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			r.URL.Host = host
			resp, err := http.Get(r.URL.String())
			if err != nil {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			defer resp.Body.Close()
			copyAll(w, resp.Body)
			return
		}
		up, err := net.Dial("tcp", host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		w.WriteHeader(http.StatusOK)
		down, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		go func() { defer up.Close(); copyAll(up, down) }()
		defer down.Close()
		copyAll(down, up)
	})
	via := func(*http.Request) (*url.URL, error) { return url.Parse("http://" + proxy) }
	for _, name := range []string{"registry.example", "10.1.2.3:5000", "printer.local"} {
		_, err := pull(t, client(t, Options{Proxy: via}), name+"/r", blob(content))
		wantError(t, err, "speaks plain HTTP", "--insecure-registry "+name)
		plain.Store(false)
		if _, err := pull(t, client(t, Options{Proxy: via, Insecure: []string{name}}), name+"/r", blob(content)); err != nil || !plain.Load() {
			t.Errorf("%s, allowed: %v", name, err)
		}
	}
}

// TestTokenServerPlain refuses to send credentials to a token server without HTTPS.
func TestTokenServerPlain(t *testing.T) {
	c := client(t, Options{})
	h := newHost(c, "registry.example")
	h.scheme = "https"
	for realm, want := range map[string]string{
		"http://auth.example/token": "without HTTPS", "https://169.254.169.254/token": "address of this machine", "https://localhost/token": "address of this machine",
		"file:///etc/passwd": "broken token server", "ftp://auth.example/": "without HTTPS", "::": "broken token server", "": "broken token server",
	} {
		_, err := h.fetchToken(t.Context(), nil, credential{}, challenge{scheme: "bearer", params: map[string]string{"realm": realm}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", realm, err, want)
		}
	}
}

func TestLoopback(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "LOCALHOST:5000": true, "127.0.0.1:5000": true, "127.9.9.9": true, "[::1]:5000": true, "::1": true, "[::ffff:127.0.0.1]:1": true,
		"localhost.example": false, "127.0.0.1.example": false, "10.0.0.1": false, "example.local": false, "[fe80::1]:1": false, "": false,
	} {
		if loopback(host) != want {
			t.Errorf("%q: %t", host, !want)
		}
	}
}

func TestUnreachable(t *testing.T) {
	const host = "127.0.0.1:1" // tcpmux, which nobody has and no port is given out for
	_, err := pull(t, client(t, Options{}), host+"/r", blob(nil))
	wantError(t, err, "connection refused", host)
	if strings.Contains(err.Error(), "attempts") {
		t.Errorf("a registry that is not there was asked again: %v", err)
	}
}
