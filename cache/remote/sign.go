package remote

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"

	"github.com/strake-build/strake/cache"
)

// signed is what signatures are over: the entry as it is stored, without a signature. What is signed for something else
// begins otherwise.
func (e Entry) signed() ([]byte, error) {
	s := e.stored()
	s.Sig = nil
	raw, err := marshal(s)
	return append([]byte("strake cache entry, signed 1\n"), raw...), err
}

// ParseSigningKey reads an Ed25519 private key in PEM (PKCS #8), as "openssl genpkey -algorithm ed25519" makes it.
func ParseSigningKey(text []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("it is no private key in PEM; openssl genpkey -algorithm ed25519 makes one")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, errors.New("it is no Ed25519 key; openssl genpkey -algorithm ed25519 makes one")
	}
	return key, nil
}

// ParseVerifyKeys reads Ed25519 public keys in PEM (SubjectPublicKeyInfo), one or more, as "openssl pkey -pubout" makes them.
func ParseVerifyKeys(text []byte) ([]ed25519.PublicKey, error) {
	var keys []ed25519.PublicKey
	for {
		var block *pem.Block
		block, text = pem.Decode(text)
		if block == nil {
			break
		}
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		key, ok := parsed.(ed25519.PublicKey)
		if block.Type != "PUBLIC KEY" || err != nil || !ok {
			return nil, errors.New("it holds something else than Ed25519 public keys; openssl pkey -pubout makes one of a private key")
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("it holds no public key in PEM; openssl pkey -pubout makes one of a private key")
	}
	return keys, nil
}

// Sign returns b with every entry signed that is committed.
func Sign(b Backend, key ed25519.PrivateKey) Backend {
	s := signer{b, key}
	if l, ok := b.(Located); ok {
		return struct {
			signer
			located
		}{s, located{l.Repository()}}
	}
	return s
}

// located is where a back end is, for those that wrap it.
type located struct{ repository string }

func (l located) Repository() string { return l.repository }

type signer struct {
	Backend
	key ed25519.PrivateKey
}

func (s signer) Commit(ctx context.Context, entries []Entry, last bool) error {
	out := make([]Entry, 0, len(entries))
	for _, e := range entries {
		text, err := e.signed()
		if err != nil {
			return fmt.Errorf("signing a cache entry: %w", err)
		}
		e.Signature = ed25519.Sign(s.key, text)
		out = append(out, e)
	}
	return s.Backend.Commit(ctx, out, last)
}

// Verify returns b without the entries that none of keys signed. The first time that there is such an entry, warn is called.
func Verify(b Backend, keys []ed25519.PublicKey, warn func(text string)) Backend {
	v := &verifier{Backend: b, keys: keys, warn: warn}
	if l, ok := b.(Located); ok {
		return struct {
			*verifier
			located
		}{v, located{l.Repository()}}
	}
	return v
}

type verifier struct {
	Backend
	keys []ed25519.PublicKey
	warn func(string)
	once sync.Once
}

func (v *verifier) Records(ctx context.Context, keys []cache.Key) ([]Entry, error) {
	entries, err := v.Backend.Records(ctx, keys)
	wanted := make(map[cache.Key]bool, len(keys))
	for _, k := range keys {
		wanted[k] = true
	}
	good := make([]Entry, 0, len(entries))
	refused := 0
	for _, e := range entries {
		switch {
		case !wanted[e.Key]:
		case v.verifies(e):
			good = append(good, e)
		default:
			refused++
		}
	}
	if refused > 0 {
		v.once.Do(func() {
			v.warn(fmt.Sprintf("%s: %d of %d entries are not signed by the key of verify-key, and are not used", v.Name(), refused, refused+len(good)))
		})
	}
	return good, err
}

func (v *verifier) verifies(e Entry) bool {
	if len(e.Signature) != ed25519.SignatureSize {
		return false
	}
	text, err := e.signed()
	if err != nil {
		return false
	}
	for _, k := range v.keys {
		if ed25519.Verify(k, text, e.Signature) {
			return true
		}
	}
	return false
}
