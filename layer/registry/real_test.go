package registry

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/layer/registry/registrytest"
)

var amd64 = v1.Platform{OS: "linux", Architecture: "amd64"}

// TestRealRegistry pushes and pulls with Debian's docker-registry in each of its guises.
func TestRealRegistry(t *testing.T) {
	for _, tt := range []struct {
		name string
		conf registrytest.Config
		user map[string]string
	}{
		{"plain", registrytest.Config{}, nil},
		{"tls", registrytest.Config{TLS: true}, nil},
		{"htpasswd", registrytest.Config{Htpasswd: true}, userAuth()},
		{"tls htpasswd", registrytest.Config{TLS: true, Htpasswd: true}, userAuth()},
		{"token", registrytest.Config{Token: true}, userAuth()},
		{"tls identity token", registrytest.Config{Token: true, TLS: true}, map[string]string{"identitytoken": registrytest.IdentityToken}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := registrytest.Start(t, tt.conf)
			var opt Options
			if r.CAFile != "" {
				opt.CAFiles = []string{r.CAFile}
			}
			if tt.user != nil {
				opt.AuthFiles = []string{filepath.Join(t.TempDir(), "missing.json"), auths(t, r.Host, tt.user)}
			}
			roundTrip(t, client(t, opt), r.Host)
		})
	}
}

// roundTrip pushes an image, resolves and reads it, and mounts its layer elsewhere.
func roundTrip(t *testing.T, c *Client, host string) {
	layer := random(3 << 20)
	ref := reference(t, c, host+"/team/app:1")
	d := pushImage(t, c, ref, amd64, layer)
	got, err := c.ResolveDigest(t.Context(), ref)
	if err != nil || got.Digest != d.Digest || got.Size != d.Size || got.MediaType != d.MediaType {
		t.Fatalf("ResolveDigest = %v, %v; want %v", got, err, d)
	}
	m, err := c.Resolve(t.Context(), ref, amd64)
	if err != nil {
		t.Fatal(err)
	}
	if m.Digest != d.Digest || m.RefDigest != d.Digest || m.Config.Architecture != "amd64" || len(m.Manifest.Layers) != 1 {
		t.Fatalf("Resolve = %+v", m)
	}
	if _, err := c.Resolve(t.Context(), ref.Context().Digest(d.Digest.String()), amd64); err != nil {
		t.Fatal(err)
	}
	b, err := pull(t, c, host+"/team/app", m.Manifest.Layers[0])
	if err != nil || !bytes.Equal(b, layer) {
		t.Fatalf("FetchBlob: %d bytes, %v", len(b), err)
	}

	// Nothing is read when the registry has the blob, or can mount it.
	u := upload(layer, true)
	u.Open = nil
	if _, err := c.PushBlob(t.Context(), ref.Context(), u); err != nil {
		t.Fatal(err)
	}
	u.From = []string{"elsewhere.example/x", host + "/other/empty", host + "/team/app"}
	if _, err := c.PushBlob(t.Context(), repository(t, host+"/other/mounted"), u); err != nil {
		t.Fatal(err)
	}
	if b, err = pull(t, c, host+"/other/mounted", blob(layer)); err != nil || !bytes.Equal(b, layer) {
		t.Fatalf("FetchBlob of a mounted blob: %d bytes, %v", len(b), err)
	}
	// A mount that is answered by an upload goes on with that, by the known length.
	u = upload(random(1000), true)
	u.From = []string{host + "/other/empty"}
	var last int64
	u.Progress = func(n int64) { last = n }
	if _, err := c.PushBlob(t.Context(), ref.Context(), u); err != nil || last != 1000 {
		t.Fatalf("PushBlob: %v, progress %d", err, last)
	}
	if _, err := c.PushBlob(t.Context(), ref.Context(), upload(nil, false)); err != nil {
		t.Fatalf("an empty blob: %v", err)
	}
	if _, err := c.PushBlob(t.Context(), ref.Context(), upload([]byte{}, true)); err != nil {
		t.Fatalf("an empty known blob: %v", err)
	}
	if b, err = pull(t, c, host+"/team/app", blob(nil)); err != nil || len(b) != 0 {
		t.Fatalf("FetchBlob of an empty blob: %d bytes, %v", len(b), err)
	}

	_, err = c.Resolve(t.Context(), reference(t, c, host+"/team/app:none"), amd64)
	wantError(t, err, host+"/team/app:none", "MANIFEST_UNKNOWN")
	if !errors.Is(err, ErrNotFound) {
		t.Errorf("%v is not ErrNotFound", err)
	}
	_, err = c.ResolveDigest(t.Context(), reference(t, c, host+"/team/app:none"))
	wantError(t, err, host+"/team/app:none", "MANIFEST_UNKNOWN")
	_, err = pull(t, c, host+"/team/app", blob([]byte("not there")))
	wantError(t, err, "BLOB_UNKNOWN", host+"/team/app")
	if !errors.Is(err, ErrNotFound) {
		t.Errorf("%v is not ErrNotFound", err)
	}
}

func TestRealUnauthorized(t *testing.T) {
	for _, conf := range []registrytest.Config{{Htpasswd: true}, {Token: true}} {
		r := registrytest.Start(t, conf)
		ref := r.Host + "/team/app:1"
		anonymous := client(t, Options{})
		_, err := anonymous.Resolve(t.Context(), reference(t, anonymous, ref), amd64)
		wantError(t, err, ref+": it does not exist or needs a login", "strake login "+r.Host)
		if !errors.Is(err, ErrUnauthorized) {
			t.Errorf("%v is not ErrUnauthorized", err)
		}
		_, err = anonymous.PushBlob(t.Context(), repository(t, r.Host+"/team/app"), upload(random(10<<20), false))
		if !errors.Is(err, ErrUnauthorized) {
			t.Errorf("%v is not ErrUnauthorized", err)
		}
		file := auths(t, r.Host, map[string]string{"username": "strake", "password": "hunter2hunter2"})
		wrong := client(t, Options{AuthFiles: []string{file}})
		_, err = wrong.Resolve(t.Context(), reference(t, wrong, ref), amd64)
		wantError(t, err, r.Host+" refuses the credentials in "+file)
		if !errors.Is(err, ErrUnauthorized) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v is not ErrUnauthorized, or tells the password", err)
		}
	}
}

func TestRealToken(t *testing.T) {
	r := registrytest.Start(t, registrytest.Config{Token: true})
	opt := Options{AuthFiles: []string{auths(t, r.Host, userAuth())}}
	c := client(t, opt)
	layer := random(100)
	d := pushImage(t, c, reference(t, c, r.Host+"/public/app:1"), amd64, layer)

	anonymous := client(t, Options{})
	m, err := anonymous.Resolve(t.Context(), reference(t, c, r.Host+"/public/app:1"), amd64)
	if err != nil || m.Digest != d.Digest {
		t.Fatalf("anonymous pull: %v", err)
	}
	u := upload(layer, true)
	u.Open, u.From = nil, []string{r.Host + "/public/app"}
	if _, err := c.PushBlob(t.Context(), repository(t, r.Host+"/team/b"), u); err != nil {
		t.Fatal(err)
	}
	want := "repository:team/b:pull,push repository:public/app:pull"
	if asked := r.Tokens.Asked(); !slices.Contains(asked, want) {
		t.Errorf("no token for a mount among %q", asked)
	}
	// Without leave to read the other repository the blob is sent.
	u = upload(layer, true)
	u.From = []string{r.Host + "/denied/app"}
	if _, err := c.PushBlob(t.Context(), repository(t, r.Host+"/team/c"), u); err != nil {
		t.Fatal(err)
	}
	_, err = c.PushBlob(t.Context(), repository(t, r.Host+"/denied/app"), upload(layer, false))
	wantError(t, err, "refuses the credentials")
	// One token serves for all that is asked of a repository.
	n := len(r.Tokens.Asked())
	fresh := client(t, opt)
	for range 3 {
		if _, err := fresh.Resolve(t.Context(), reference(t, c, r.Host+"/public/app:1"), amd64); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(r.Tokens.Asked()) - n; got != 1 {
		t.Errorf("%d tokens were asked for, want 1", got)
	}
}

func TestRealLogin(t *testing.T) {
	for _, conf := range []registrytest.Config{{Htpasswd: true}, {Token: true}} {
		r := registrytest.Start(t, conf)
		file := filepath.Join(t.TempDir(), "sub", "config.json")
		c := client(t, Options{AuthFiles: []string{file}})
		ref := reference(t, c, r.Host+"/team/app:1")
		if _, err := tryPushImage(t.Context(), c, ref, amd64, random(10)); !errors.Is(err, ErrUnauthorized) {
			t.Fatalf("push without login: %v", err)
		}
		err := c.Login(t.Context(), r.Host, registrytest.User, "wrong-password", file)
		wantError(t, err, "login to "+r.Host, "password is wrong")
		if !errors.Is(err, ErrUnauthorized) || strings.Contains(err.Error(), "wrong-password") {
			t.Errorf("%v is not ErrUnauthorized, or tells the password", err)
		}
		if _, err := os.Stat(file); err == nil {
			t.Error("a refused login was stored")
		}
		if err := c.Login(t.Context(), "http://"+r.Host+"/", registrytest.User, registrytest.Password, file); err != nil {
			t.Fatal(err)
		}
		if _, err := tryPushImage(t.Context(), c, ref, amd64, random(10)); err != nil {
			t.Fatalf("push after login: %v", err)
		}
		if err := c.Logout(r.Host, file); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Resolve(t.Context(), ref, amd64); !errors.Is(err, ErrUnauthorized) {
			t.Errorf("pull after logout: %v", err)
		}
		wantError(t, c.Logout(r.Host, file), "not logged in to "+r.Host)
	}
}
