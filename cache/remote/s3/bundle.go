package s3

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/cache/remote"
	"github.com/strake-build/strake/cache/remote/wire"
)

const (
	transfers = 8        // of bundles at once
	maxBundle = 16 << 20 // bytes, as it is stored
	maxListed = 100      // bundles that are looked at, the newest
	relists   = 5        // how often bundles are listed anew that were replaced meanwhile
)

// bundle is an object of entries: all that its writer knew. It never changes, so that builders beside each other lose
// nothing: each writes one of its own and removes those that are in it.
type bundle struct {
	entries  []remote.Held
	replaces []string // names of bundles whose entries it has
}

// storedBundle is a bundle as it is stored, compressed by gzip.
type storedBundle struct {
	Records  json.RawMessage `json:"records"` // a document of entries
	Replaces []string        `json:"replaces"`
}

// bundleName is of names that sort by time, the newest first.
var bundleName = regexp.MustCompile(`^[0-9a-f]{16}-[0-9A-Z]{26}$`)

func newName(now time.Time) string {
	return fmt.Sprintf("%016x-%s", math.MaxInt64-now.UnixNano(), rand.Text())
}

// folder is where bundles are. Its last part is the version of what they hold.
func (b *Backend) folder() string { return b.opt.Prefix + b.opt.Manifests + b.opt.Name + "/1/" }

// Records returns what the bundles say, which are read once.
func (b *Backend) Records(ctx context.Context, keys []cache.Key) ([]remote.Entry, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.loaded {
		if _, err := b.refresh(ctx); err != nil {
			return nil, fmt.Errorf("looking up cache entries: %w", err)
		}
	}
	return remote.Entries(b.known, keys), nil
}

// Commit writes a bundle of the entries and of what there is, unless that is one bundle which has them.
func (b *Backend) Commit(ctx context.Context, entries []remote.Entry, _ bool) error {
	if len(entries) == 0 {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	// Another build may have written one since.
	names, err := b.refresh(ctx)
	if err != nil {
		return fmt.Errorf("looking up cache entries: %w", err)
	}
	now := b.opt.Now()
	if len(names) == 1 && remote.Holds(b.known, entries, now) {
		return nil
	}
	written := bundle{remote.Merge(b.known, entries, now), names}
	raw, err := written.encode()
	if err != nil {
		return err
	}
	name := newName(now)
	if err := b.put(ctx, b.folder()+name, sumOf(raw), int64(len(raw)), wire.Bytes(raw)); err != nil {
		return fmt.Errorf("storing cache entries: %w", err)
	}
	b.known, b.read[name] = written.entries, written
	b.remove(ctx, names)
	return nil
}

// refresh lists the bundles, and reads those that are new to this process. It returns the names of all.
func (b *Backend) refresh(ctx context.Context) (names []string, err error) {
	for range relists {
		if names, err = b.list(ctx); err != nil {
			return nil, err
		}
		err = b.fetch(ctx, names)
		if !errors.Is(err, remote.ErrNotFound) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	read := make(map[string]bundle, len(names))
	b.known, b.loaded = nil, true
	seen := map[cache.Key]bool{}
	for _, n := range names {
		read[n] = b.read[n]
		for _, h := range read[n].entries {
			if !seen[h.Key] {
				seen[h.Key] = true
				b.known = append(b.known, h)
			}
		}
	}
	b.read = read // what is gone is forgotten
	return names, nil
}

// list returns the names of the bundles, the newest first.
func (b *Backend) list(ctx context.Context) ([]string, error) {
	r := b.query(http.MethodGet, "", emptySum, url.Values{"list-type": {"2"}, "prefix": {b.folder()}, "max-keys": {fmt.Sprint(maxListed)}})
	resp, err := b.client.Do(ctx, r)
	if err != nil {
		return nil, err
	}
	text, err := wire.ReadAll(resp, maxReply)
	if err != nil {
		return nil, err
	}
	var found struct {
		XMLName xml.Name `xml:"ListBucketResult"`
		Keys    []string `xml:"Contents>Key"`
	}
	if err := xml.Unmarshal(text, &found); err != nil {
		return nil, errors.New("the server's list of objects cannot be read")
	}
	var names []string
	for _, k := range found.Keys {
		if n := k[strings.LastIndexByte(k, '/')+1:]; bundleName.MatchString(n) {
			names = append(names, n)
		}
	}
	return names, nil
}

// fetch reads bundles. The newest one says which of the others need not be read.
func (b *Backend) fetch(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	if err := b.fetchAll(ctx, names[:1]); err != nil {
		return err
	}
	replaced := map[string]bool{}
	for _, n := range b.read[names[0]].replaces {
		replaced[n] = true
	}
	var rest []string
	for _, n := range names[1:] {
		if !replaced[n] {
			rest = append(rest, n)
		}
	}
	return b.fetchAll(ctx, rest)
}

// fetchAll reads bundles that were not read before, several at once.
func (b *Backend) fetchAll(ctx context.Context, names []string) error {
	got := make([]bundle, len(names))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(transfers)
	for i, n := range names {
		if have, ok := b.read[n]; ok {
			got[i] = have
			continue
		}
		group.Go(func() error {
			resp, err := b.get(ctx, b.folder()+n)
			if err != nil {
				return err
			}
			raw, err := wire.ReadAll(resp, maxBundle)
			if err != nil {
				return err
			}
			got[i] = decodeBundle(raw)
			return nil
		})
	}
	err := group.Wait()
	if err != nil {
		return err
	}
	for i, n := range names {
		b.read[n] = got[i]
	}
	return nil
}

// remove deletes bundles that another one replaces. What cannot be deleted stays until the bucket's rules drop it: nobody
// reads it.
func (b *Backend) remove(ctx context.Context, names []string) {
	for _, n := range names {
		if b.keeps {
			return
		}
		r := b.request(http.MethodDelete, b.folder()+n, emptySum)
		r.Pass = []int{http.StatusNotFound}
		resp, err := b.client.Do(ctx, r)
		if err != nil {
			b.keeps = true
			return
		}
		wire.Drain(resp)
	}
}

func (x bundle) encode() ([]byte, error) {
	doc, err := remote.EncodeEntries(x.entries)
	if err != nil {
		return nil, err
	}
	raw, err := remote.MarshalGzip(storedBundle{doc, x.replaces})
	if err != nil {
		return nil, fmt.Errorf("encoding cache entries: %w", err)
	}
	return raw, nil
}

// decodeBundle reads a bundle that others wrote. One that cannot be read has no entries.
func decodeBundle(raw []byte) bundle {
	var s storedBundle
	if remote.UnmarshalGzip(raw, &s) != nil {
		return bundle{}
	}
	entries, err := remote.DecodeEntries(s.Records)
	if err != nil {
		return bundle{}
	}
	return bundle{entries, s.Replaces}
}
