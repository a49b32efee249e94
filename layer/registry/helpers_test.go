package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/strake-build/strake/layer/registry/registrytest"
)

// client makes a client with short pauses.
func client(t *testing.T, opt Options) *Client {
	t.Helper()
	c := New(opt)
	c.pace.base, c.pace.most = time.Millisecond, 5*time.Millisecond
	t.Cleanup(c.closeIdle)
	return c
}

// auths writes a credential file with an entry for host.
func auths(t *testing.T, host string, entry map[string]string) string {
	t.Helper()
	data, err := json.Marshal(map[string]any{"auths": map[string]any{host: entry}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// userAuth is the entry of registrytest's user.
func userAuth() map[string]string {
	return map[string]string{"username": registrytest.User, "password": registrytest.Password}
}

// random makes n bytes that are the same each time.
func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// blob describes content.
func blob(content []byte) v1.Descriptor {
	return v1.Descriptor{MediaType: types.OCILayer, Size: int64(len(content)), Digest: sum(content)}
}

// upload makes an Upload of content; known says whether its digest is.
func upload(content []byte, known bool) Upload {
	u := Upload{
		Open:      func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
		MediaType: types.OCILayer,
	}
	if known {
		d := blob(content)
		u.Known = &d
	}
	return u
}

// repository parses a repository.
func repository(t *testing.T, s string) name.Repository {
	t.Helper()
	r, err := parseRepository(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// reference parses a reference.
func reference(t *testing.T, c *Client, s string) name.Reference {
	t.Helper()
	r, err := c.ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// pushImage pushes an image of one layer and returns its manifest.
func pushImage(t *testing.T, c *Client, ref name.Reference, p v1.Platform, layer []byte) v1.Descriptor {
	t.Helper()
	d, err := tryPushImage(t.Context(), c, ref, p, layer)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func tryPushImage(ctx context.Context, c *Client, ref name.Reference, p v1.Platform, layer []byte) (v1.Descriptor, error) {
	l, err := c.PushBlob(ctx, ref.Context(), upload(layer, false))
	if err != nil {
		return v1.Descriptor{}, err
	}
	conf, err := json.Marshal(v1.ConfigFile{
		OS: p.OS, Architecture: p.Architecture, Variant: p.Variant,
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{l.Digest}},
	})
	if err != nil {
		return v1.Descriptor{}, err
	}
	cu := upload(conf, true)
	cu.Known.MediaType = types.OCIConfigJSON
	cd, err := c.PushBlob(ctx, ref.Context(), cu)
	if err != nil {
		return v1.Descriptor{}, err
	}
	raw, err := json.Marshal(v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: cd, Layers: []v1.Descriptor{l}})
	if err != nil {
		return v1.Descriptor{}, err
	}
	d := v1.Descriptor{MediaType: types.OCIManifestSchema1, Size: int64(len(raw)), Digest: sum(raw), Platform: &p}
	return d, c.PushManifest(ctx, ref, raw, types.OCIManifestSchema1)
}

// pushIndex pushes an index.
func pushIndex(t *testing.T, c *Client, ref name.Reference, children ...v1.Descriptor) []byte {
	t.Helper()
	raw, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: children})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.PushManifest(t.Context(), ref, raw, types.OCIImageIndex); err != nil {
		t.Fatal(err)
	}
	return raw
}

// pull reads a blob.
func pull(t *testing.T, c *Client, repo string, d v1.Descriptor) ([]byte, error) {
	t.Helper()
	r, err := c.FetchBlob(t.Context(), repo, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// fake runs a handler as a registry and returns its host.
func fake(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// wantError checks that err contains all texts.
func wantError(t *testing.T, err error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", texts)
	}
	for _, s := range texts {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("error %q lacks %q", err, s)
		}
	}
}

func v1AuthConfig(user, password string) authn.AuthConfig {
	return authn.AuthConfig{Username: user, Password: password}
}

// copyAll copies until either side ends.
func copyAll(to io.Writer, from io.Reader) { _, _ = io.Copy(to, from) }

// closeIdle closes the connections that no request uses.
func (c *Client) closeIdle() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.routes {
		if t, ok := t.(*http.Transport); ok {
			t.CloseIdleConnections()
		}
	}
}
