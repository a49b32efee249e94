package remote_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/cache/remote"
)

// memory keeps entries as documents.
type memory struct {
	remote.Backend
	raw []byte
}

func (*memory) Name() string       { return "memory" }
func (*memory) Repository() string { return "host/name" }

func (m *memory) Commit(_ context.Context, entries []remote.Entry, _ bool) (err error) {
	m.raw, err = remote.EncodeEntries(held(entries))
	return err
}

func (m *memory) Records(_ context.Context, keys []cache.Key) ([]remote.Entry, error) {
	list, err := remote.DecodeEntries(m.raw)
	return remote.Entries(list, keys), err
}

func newKey(t *testing.T) (ed25519.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return pub, key
}

func TestSignatures(t *testing.T) {
	pub, key := newKey(t)
	otherPub, otherKey := newKey(t)
	want := []remote.Entry{entryOf(t, "a"), entryOf(t, "b")}
	want[1].Created = time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.FixedZone("x", 3600))
	keys := []cache.Key{want[0].Key, want[1].Key}
	m := &memory{}
	if l, ok := remote.Sign(m, key).(remote.Located); !ok || l.Repository() != "host/name" {
		t.Error("a signing back end does not tell its repository")
	}
	if err := remote.Sign(m, key).Commit(t.Context(), want, true); err != nil {
		t.Fatal(err)
	}
	good := m.raw
	if want[0].Signature != nil {
		t.Error("the caller's entries were changed")
	}
	read := func(t *testing.T, keysOf ...ed25519.PublicKey) (n, warnings int) {
		t.Helper()
		b := remote.Verify(m, keysOf, func(string) { warnings++ })
		if l, ok := b.(remote.Located); !ok || l.Repository() != "host/name" {
			t.Error("a verifying back end does not tell its repository")
		}
		for range 2 {
			got, err := b.Records(t.Context(), keys)
			if err != nil {
				t.Fatal(err)
			}
			n = len(got)
		}
		return n, warnings
	}
	if n, w := read(t, otherPub, pub); n != 2 || w != 0 {
		t.Errorf("%d of 2 signed entries, %d warnings", n, w)
	}
	if n, w := read(t, otherPub); n != 0 || w != 1 {
		t.Errorf("another key: %d entries, %d warnings", n, w)
	}
	for name, change := range map[string]func(e *remote.Entry){
		"key":       func(e *remote.Entry) { e.Key[0] ^= 1; keys[0] = e.Key },
		"below":     func(e *remote.Entry) { e.Below = hashOf(t, "x") },
		"diffID":    func(e *remote.Entry) { e.DiffID = hashOf(t, "x") },
		"digest":    func(e *remote.Entry) { e.Blob.Digest = hashOf(t, "x") },
		"size":      func(e *remote.Entry) { e.Blob.Size++ },
		"type":      func(e *remote.Entry) { e.Blob.MediaType = types.OCILayerZStd },
		"created":   func(e *remote.Entry) { e.Created = e.Created.Add(1) },
		"name":      func(e *remote.Entry) { e.Name += " " },
		"signature": func(e *remote.Entry) { e.Signature[3] ^= 1 },
		"none":      func(e *remote.Entry) { e.Signature = nil },
		"other's": func(e *remote.Entry) {
			if err := remote.Sign(m, otherKey).Commit(t.Context(), []remote.Entry{*e}, true); err != nil {
				t.Fatal(err)
			}
			again, _ := remote.DecodeEntries(m.raw)
			*e = again[0].Entry
		},
	} {
		t.Run(name, func(t *testing.T) {
			entries, err := remote.DecodeEntries(good)
			if err != nil {
				t.Fatal(err)
			}
			keys[0] = entries[0].Key
			change(&entries[0].Entry)
			if m.raw, err = remote.EncodeEntries(entries); err != nil {
				t.Fatal(err)
			}
			if n, w := read(t, pub); n != 1 || w != 1 {
				t.Errorf("%d entries, %d warnings", n, w)
			}
		})
	}
}

// Keys are as openssl makes them.
func TestKeysOfOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("STRAKE_TEST_REQUIRE") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	file := filepath.Join(t.TempDir(), "key.pem")
	private, err := exec.Command(openssl, "genpkey", "-algorithm", "ed25519").Output()
	if err != nil {
		t.Fatal(err)
	}
	key, err := remote.ParseSigningKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(openssl, "pkey", "-pubout", "-out", file)
	cmd.Stdin = strings.NewReader(string(private))
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	public, err := exec.Command("cat", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := remote.ParseVerifyKeys(append(public, public...))
	if err != nil || len(keys) != 2 || !keys[0].Equal(key.Public()) {
		t.Errorf("got %v, %v", keys, err)
	}
	if _, err := remote.ParseVerifyKeys(private); err == nil {
		t.Error("a private key was taken for a public one")
	}
	if _, err := remote.ParseSigningKey(public); err == nil {
		t.Error("a public key was taken for a private one")
	}
}

func TestKeysThatAreNone(t *testing.T) {
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(other)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"nothing":    "",
		"no PEM":     "ed25519",
		"broken":     "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
		"other kind": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	} {
		if _, err := remote.ParseSigningKey([]byte(text)); err == nil {
			t.Errorf("%s: a signing key", name)
		}
		if _, err := remote.ParseVerifyKeys([]byte(strings.ReplaceAll(text, "PRIVATE", "PUBLIC"))); err == nil {
			t.Errorf("%s: a verify key", name)
		}
	}
}
