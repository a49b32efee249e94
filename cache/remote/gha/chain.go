package gha

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/strake-build/strake/cache/remote"
	"github.com/strake-build/strake/cache/remote/wire"
)

// Indexes form a chain: each has the number after that of the one that it was made from, and all of its entries. The service makes an
// entry of a key once only. So of two jobs that add to the same index one gets the next number, and the other adds to his.
//
// A job that is killed leaves a number that nobody gets. Others skip it after a while, and so they do with one who is only slow: who has
// made an index looks whether there is a next one, which then may lack what he added, and if so makes another from both.

// The "--" keeps a scope apart from others that begin with it.
func (b *Backend) indexPrefix() string { return "strake-index-" + b.opt.Scope + "--" }

// indexKey is the key of an index of this branch. The name of the branch keeps those apart that the service also shows, of others.
func (b *Backend) indexKey(n int) string {
	return fmt.Sprintf("%s%s-%d", b.indexPrefix(), branch(b.opt.Token), n)
}

// branch names what a token may write, which only the service checks.
func branch(token string) string {
	var claims struct {
		AC string `json:"ac"`
	}
	var scopes []struct {
		Scope      string
		Permission int
	}
	if parts := strings.Split(token, "."); len(parts) == 3 {
		raw, _ := base64.RawURLEncoding.DecodeString(parts[1])
		_ = json.Unmarshal(raw, &claims)
		_ = json.Unmarshal([]byte(claims.AC), &scopes)
	}
	for _, s := range scopes {
		if s.Permission&2 != 0 {
			sum := sha256.Sum256([]byte(s.Scope))
			return hex.EncodeToString(sum[:8])
		}
	}
	return "any"
}

// newestIndex gets the newest index and its number. There being none is an empty one with the number 0, and so is one whose key is none.
func (b *Backend) newestIndex(ctx context.Context) (x index, n int, err error) {
	at, key, err := b.service.newest(ctx, b.indexPrefix())
	if err != nil || at == nil {
		return index{}, 0, err
	}
	n, err = strconv.Atoi(key[strings.LastIndexByte(key, '-')+1:])
	if err != nil || n < 0 {
		return index{}, 0, nil //nolint:nilerr // see above
	}
	x, err = b.readIndex(ctx, at)
	return x, n, err
}

// readIndex gets the index at an address. One that cannot be read is empty: the next job that adds something replaces it.
func (b *Backend) readIndex(ctx context.Context, at *url.URL) (index, error) {
	r, err := b.service.download(ctx, at, 0, 0)
	if errors.Is(err, errGone) {
		return index{}, nil
	}
	if err != nil {
		return index{}, err
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(r, maxIndex))
	if err != nil {
		return index{}, err
	}
	x, err := decodeIndex(raw)
	if err != nil {
		return index{}, nil // see above
	}
	return x, nil
}

// addToIndex makes an index of the newest one and more entries, and returns it.
func (b *Backend) addToIndex(ctx context.Context, entries []remote.Entry) (index, error) {
	x, n, err := b.newestIndex(ctx)
	if err != nil {
		return index{}, err
	}
	b.mu.Lock()
	packed := maps.Clone(b.packed)
	b.mu.Unlock()
	for {
		n++
		x = x.merge(entries, packed, b.opt.Now())
		var at *url.URL
		err := b.createIndex(ctx, n, x)
		switch {
		case err == nil:
			n++
			at, err = b.service.find(ctx, b.indexKey(n))
			if err == nil && at == nil {
				return x, nil
			}
		case errors.Is(err, errExists):
			at, err = b.await(ctx, b.indexKey(n))
		}
		if err != nil {
			return index{}, err
		}
		if at == nil {
			continue // whoever has the number is dead or slow
		}
		other, err := b.readIndex(ctx, at)
		if err != nil {
			return index{}, err
		}
		x = other.over(x)
	}
}

func (b *Backend) createIndex(ctx context.Context, n int, x index) error {
	raw, err := encodeIndex(x)
	if err != nil {
		return err
	}
	return b.service.create(ctx, b.indexKey(n), int64(len(raw)), wire.Bytes(raw))
}

// await waits for an entry that another job is making. It returns nil if that takes too long.
func (b *Backend) await(ctx context.Context, key string) (*url.URL, error) {
	timeout := time.After(b.patience)
	for {
		at, err := b.service.find(ctx, key)
		if err != nil || at != nil {
			return at, err
		}
		select {
		case <-time.After(min(250*time.Millisecond, b.patience/10)):
		case <-timeout:
			return nil, nil //nolint:nilnil // see above
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for %s, which another job is making: %w", key, context.Cause(ctx))
		}
	}
}
