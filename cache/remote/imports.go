package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/layer/image"
)

// Imports are the caches that a build reads. Trouble with one is told once, and it is not asked again.
type Imports struct {
	// Find returns the name of the layer with a diffID on this machine, if it is here.
	Find func(diffID v1.Hash) (layer string, ok bool)
	// Warn tells of trouble. It is called once for each source, from any goroutine.
	Warn func(text string)
	// Budget bounds the time that all lookups of the build wait for one source.
	Budget time.Duration
	// Now is the clock that the budget is measured with.
	Now func() time.Time

	sources []*source
	mu      sync.Mutex // guards what follows
	lost    map[v1.Hash]bool
	used    map[v1.Hash]bool // blobs of records that were returned
	first   map[cache.Key][]found
}

// found is an entry and where it is from.
type found struct {
	Entry
	source *source
}

// source is one cache, and what is left of its budget.
type source struct {
	Backend
	origin string
	warn   func(string)
	now    func() time.Time

	mu   sync.Mutex
	left time.Duration
	off  bool // trouble: it is not asked any more
}

// Add adds a cache; earlier ones are preferred. It must come before the first lookup.
func (i *Imports) Add(b Backend) {
	s := &source{Backend: b, warn: i.Warn, now: i.Now, left: i.Budget}
	s.origin = ":" + strconv.Itoa(len(i.sources))
	if l, ok := b.(Located); ok {
		s.origin = l.Repository()
	}
	i.sources = append(i.sources, s)
}

// records asks a source within its budget. Its errors are a warning.
func (s *source) records(ctx context.Context, keys []cache.Key) []Entry {
	s.mu.Lock()
	left, off := s.left, s.off
	s.mu.Unlock()
	if off {
		return nil
	}
	bounded, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	start := s.now()
	entries, err := s.Records(bounded, keys)
	s.mu.Lock()
	s.left -= s.now().Sub(start)
	if s.left <= 0 && err == nil && len(entries) == 0 {
		err = errors.New("it takes too long to answer")
	}
	trouble := err != nil && ctx.Err() == nil && !s.off
	s.off = s.off || trouble
	s.mu.Unlock()
	if trouble {
		if errors.Is(bounded.Err(), context.DeadlineExceeded) {
			err = fmt.Errorf("it takes too long to answer: %w", err)
		}
		s.warn(fmt.Sprintf("%s is not used: %v", s.Name(), err))
	}
	return entries
}

// Prepare asks all sources for keys at once; Lookup asks anew only for others.
func (i *Imports) Prepare(ctx context.Context, keys []cache.Key) {
	got := i.ask(ctx, keys)
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.first == nil {
		i.first = map[cache.Key][]found{}
	}
	for _, k := range keys {
		i.first[k] = nil // known not to be there
	}
	for _, f := range got {
		i.first[f.Key] = append(i.first[f.Key], f)
	}
}

// ask returns what the sources have, in the order of the sources.
func (i *Imports) ask(ctx context.Context, keys []cache.Key) []found {
	if len(keys) == 0 {
		return nil
	}
	lists := make([][]Entry, len(i.sources))
	var wg sync.WaitGroup
	for n, s := range i.sources {
		wg.Go(func() { lists[n] = s.records(ctx, keys) })
	}
	wg.Wait()
	var out []found
	want := make(map[cache.Key]bool, len(keys))
	for _, k := range keys {
		want[k] = true
	}
	for n, l := range lists {
		for _, e := range l {
			if want[e.Key] {
				out = append(out, found{e, i.sources[n]})
			}
		}
	}
	return out
}

// Lookup returns the records of k, those of earlier sources first. What could not be had is not among them.
func (i *Imports) Lookup(ctx context.Context, k cache.Key) []cache.Record {
	i.mu.Lock()
	list, known := i.first[k]
	i.mu.Unlock()
	if !known {
		list = i.ask(ctx, []cache.Key{k})
	}
	var out []cache.Record
	for _, f := range list {
		i.mu.Lock()
		lost := i.lost[f.Blob.Digest]
		i.mu.Unlock()
		if lost || f.Check() != nil {
			continue
		}
		out = append(out, i.record(f))
	}
	return out
}

// record is an entry as a record of this machine.
func (i *Imports) record(f found) cache.Record {
	r := cache.Record{
		Created: f.Created, Name: f.Name, DiffID: f.DiffID.String(),
		Away: &cache.Away{Below: f.Below, Blob: f.Blob, Origin: f.source.origin},
	}
	if layer, ok := i.Find(f.DiffID); ok {
		r.Layer = layer
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.used == nil {
		i.used = map[v1.Hash]bool{}
	}
	i.used[f.Blob.Digest] = true
	return r
}

// Plain is an image that carries no cache: what it has are layers, and a history.
type Plain struct {
	Config v1.ConfigFile
	Layers []v1.Descriptor
	Origin string
}

// Plain returns the images without a cache that were given for one. Those with a layer that was lost, or of a kind that no entry
// can have, are left out; so are those of caches whose entries must be signed.
func (i *Imports) Plain() []Plain {
	var out []Plain
	for _, s := range i.sources {
		p, ok := s.Backend.(interface{ Plain() []Plain })
		if !ok {
			continue
		}
		for _, img := range p.Plain() {
			if i.usable(img) {
				out = append(out, img)
			}
		}
	}
	return out
}

func (i *Imports) usable(img Plain) bool {
	if len(img.Layers) != len(img.Config.RootFS.DiffIDs) {
		return false
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for n, d := range img.Layers {
		e := Entry{Below: Chain(nil), DiffID: img.Config.RootFS.DiffIDs[n], Blob: d, Created: time.Unix(0, 0).UTC()}
		if e.Check() != nil || i.lost[d.Digest] {
			return false
		}
		if i.used == nil {
			i.used = map[v1.Hash]bool{}
		}
		i.used[d.Digest] = true
	}
	return true
}

// Lose says that a blob of an entry could not be had, or was not what the entry said: no entry with it is returned any more. It is
// false for a blob that no entry has, or that was lost before.
func (i *Imports) Lose(blob v1.Hash) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.used[blob] || i.lost[blob] {
		return false
	}
	if i.lost == nil {
		i.lost = map[v1.Hash]bool{}
	}
	i.lost[blob] = true
	return true
}

// Fetcher returns what fetches blobs by the origins of records: from sources that are no repositories of registries, and
// else by next.
func (i *Imports) Fetcher(next image.Fetcher) image.Fetcher { return fetcher{i, next} }

type fetcher struct {
	imports *Imports
	next    image.Fetcher
}

// FetchBlob implements image.Fetcher.
func (f fetcher) FetchBlob(ctx context.Context, origin string, d v1.Descriptor) (io.ReadCloser, error) {
	n, ok := strings.CutPrefix(origin, ":")
	if !ok {
		return f.next.FetchBlob(ctx, origin, d)
	}
	at, err := strconv.Atoi(n)
	if err != nil || at < 0 || at >= len(f.imports.sources) {
		return nil, fmt.Errorf("the cache that had blob %s is not given in this command: %w", d.Digest, ErrNotFound)
	}
	return watched(ctx, func(ctx context.Context) (io.ReadCloser, error) { return f.imports.sources[at].Open(ctx, d) })
}
