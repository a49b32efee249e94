package cachemount

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/cache/remote"
	"github.com/strake-build/strake/layer"
	"github.com/strake-build/strake/layer/compress"
	"github.com/strake-build/strake/layer/flock"
	"github.com/strake-build/strake/layer/rootfs"
)

// DefaultMax is the default of Travel.Max and Target.Max.
const DefaultMax = 1 << 30

const (
	mountLookup = 15 * time.Second // for the answer of one cache
	mountLock   = 10 * time.Second // for a step of another build to end
)

// Travel takes the directories of cache mounts from other machines' caches and to them. In a cache, one is an
// entry like that of a step, whose layer is the directory's content. Trouble is a warning.
type Travel struct {
	From      []remote.Backend
	To        []Target
	Max       int64 // bytes of a directory, as a tar, that are taken from others; 0 is DefaultMax
	Temp      string
	UserXattr bool
	Warn      func(text string)
	Now       func() time.Time

	mu     sync.Mutex
	used   []*usedMount
	merged map[string]bool // places of this process that merge looked at
}

// Target is a cache that directories of cache mounts are written to.
type Target struct {
	// Open makes a back end that nothing else writes through.
	Open func() remote.Backend
	IDs  []string // those that are written
	All  bool     // or all
	Max  int64    // bytes of a directory, as a tar; 0 is DefaultMax
}

// usedMount is a directory that a step of this build had.
type usedMount struct {
	id, platform string
	key          cache.Key
	place        string
	owners       *rootfs.Owners
}

// mountKey is what a cache keeps a directory under.
func mountKey(m Mount) cache.Key {
	parts := []cache.Part{{Name: "cache mount", Value: m.ID}, {Name: "platform", Value: m.Platform}}
	if m.Variant != "" {
		parts = append(parts, cache.Part{Name: "variant", Value: m.Variant})
	}
	return cache.NewKey(parts)
}

func (t *Travel) warn(id string, err error) {
	t.Warn(fmt.Sprintf("the cache mount %s: %v", id, err))
}

// first says whether a place was not asked for yet.
func (t *Travel) first(place string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.merged[place] {
		return false
	}
	if t.merged == nil {
		t.merged = map[string]bool{}
	}
	t.merged[place] = true
	return true
}

// use notes that a step has a directory.
func (t *Travel) use(m Mount, place string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, u := range t.used {
		if u.place == place && u.platform == m.Platform {
			return
		}
	}
	t.used = append(t.used, &usedMount{m.ID, m.Platform, mountKey(m), place, m.Owners})
}

// fetch fills the empty directory tmp with what another machine's cache has of a mount, and returns its entry. It returns nil, and
// leaves tmp empty, if none has it or wanted does not want it by its diffID; the error then is trouble with those that were asked.
func (t *Travel) fetch(ctx context.Context, m Mount, tmp string, wanted func(diffID string) bool) (*remote.Entry, error) {
	key := mountKey(m)
	var errs []error
	for _, b := range t.From {
		e, ok, err := findMount(ctx, b, key)
		if err == nil && ok {
			if !wanted(e.DiffID.String()) {
				return nil, nil //nolint:nilnil // there is nothing to do
			}
			if err = t.unpack(ctx, b, e, tmp, m.Owners); err == nil {
				return &e, nil
			}
			if cerr := emptyDir(tmp); cerr != nil {
				return nil, errors.Join(err, cerr)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("reading %s: %w", b.Name(), err))
		}
	}
	return nil, errors.Join(errs...)
}

func emptyDir(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Mkdir(dir, 0o700)
}

func findMount(ctx context.Context, b remote.Backend, key cache.Key) (remote.Entry, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, mountLookup)
	defer cancel()
	entries, err := b.Records(ctx, []cache.Key{key})
	for _, e := range entries {
		if e.Key == key && e.Check() == nil {
			return e, true, nil
		}
	}
	return remote.Entry{}, false, err
}

// unpack unpacks a blob and checks that it is what its entry says.
func (t *Travel) unpack(ctx context.Context, b remote.Backend, e remote.Entry, dir string, owners *rootfs.Owners) error {
	most := orMax(t.Max)
	if e.Blob.Size > most {
		return fmt.Errorf("it has %d bytes, more than %d", e.Blob.Size, most)
	}
	blob, err := b.Open(ctx, e.Blob)
	if err != nil {
		return err
	}
	defer blob.Close()
	sum := sha256.New()
	plain, _, err := compress.NewReader(io.TeeReader(io.LimitReader(blob, e.Blob.Size+1), sum))
	if err != nil {
		return err
	}
	defer plain.Close()
	root, err := rootfs.Open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	diff := sha256.New()
	tape := &countingReader{r: plain, most: most}
	err = withoutDevices(io.TeeReader(tape, diff), func(r io.Reader) error {
		return layer.Apply(ctx, root.With(owners), r, layer.Options{Form: layer.Plain, UserXattr: t.UserXattr})
	})
	if err == nil {
		_, err = io.Copy(io.Discard, plain) // what follows the compressed stream, too
	}
	if err != nil {
		return fmt.Errorf("unpacking it: %w", err)
	}
	if got := hashOf(sum); got != e.Blob.Digest {
		return fmt.Errorf("its blob is %s and not %s", got, e.Blob.Digest)
	}
	if got := hashOf(diff); got != e.DiffID {
		return fmt.Errorf("its content is %s and not %s", got, e.DiffID)
	}
	return nil
}

func hashOf(h hash.Hash) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
}

func orMax(n int64) int64 {
	if n <= 0 {
		return DefaultMax
	}
	return n
}

// errTooLarge is that of a directory beyond its limit.
var errTooLarge = errors.New("it is larger than the limit")

type countingReader struct {
	r       io.Reader
	n, most int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if c.n += int64(n); c.n > c.most {
		return 0, errTooLarge
	}
	return n, err
}

// withoutDevices has do read the tar r, which fails at a device node: no step makes one in a cache, and one of a hostile cache could
// be opened where nothing else keeps steps from the host's devices.
func withoutDevices(r io.Reader, do func(io.Reader) error) error {
	pr, pw := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for tr := tar.NewReader(pr); ; {
			h, err := tr.Next()
			if err != nil {
				break
			}
			if h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
				_ = pr.CloseWithError(errors.New("there are device nodes in it"))
				return
			}
		}
		_, _ = io.Copy(io.Discard, pr) // what is malformed fails where it is unpacked
	}()
	err := do(io.TeeReader(r, pw))
	_ = pw.Close() // never fails
	<-done
	return err
}

// Export writes the directories that steps of this build had, and that changed, to other machines' caches.
func (t *Travel) Export(ctx context.Context) {
	t.mu.Lock()
	used := slices.Clone(t.used)
	t.mu.Unlock()
	for _, to := range t.To {
		var wanted []*usedMount
		for _, u := range used {
			if to.All || slices.ContainsFunc(to.IDs, func(id string) bool { return cleanID(id) == cleanID(u.id) }) {
				wanted = append(wanted, u)
			}
		}
		if len(wanted) > 0 {
			t.exportTo(ctx, to, wanted)
		}
	}
}

// cleanID is the id of a mount without what strake puts before it.
func cleanID(id string) string { return path.Clean("/" + id) }

func (t *Travel) exportTo(ctx context.Context, to Target, mounts []*usedMount) {
	b := to.Open()
	var entries []remote.Entry
	for _, u := range mounts {
		e, err := t.export(ctx, b, u, orMax(to.Max))
		if err != nil {
			t.warn(u.id, fmt.Errorf("it is not written to %s: %w", b.Name(), err))
		}
		if e != nil {
			entries = append(entries, *e)
		}
	}
	if len(entries) == 0 {
		return
	}
	if err := b.Commit(ctx, entries, true); err != nil {
		t.Warn(fmt.Sprintf("the cache mounts are not written to %s: %v", b.Name(), err))
	}
}

// export stores a directory's blob, and returns its entry; nil for a directory that the cache has as it is, or that is empty.
func (t *Travel) export(ctx context.Context, b remote.Backend, u *usedMount, most int64) (*remote.Entry, error) {
	p, err := t.packMount(ctx, u, most)
	if errors.Is(err, errTooLarge) {
		return nil, fmt.Errorf("it is larger than %d MiB; give mounts-max= another size, or clean it", most>>20)
	}
	if err != nil || p == nil {
		return nil, err
	}
	defer p.file.Close() // it has no name
	if old, ok, err := findMount(ctx, b, u.key); err == nil && ok && old.DiffID == p.diffID {
		return nil, nil
	}
	d := v1.Descriptor{MediaType: types.OCILayerZStd, Digest: p.digest, Size: p.size}
	err = b.Put(ctx, d, func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(io.NewSectionReader(p.file, 0, p.size)), nil
	})
	if err != nil {
		return nil, err
	}
	name := "cache mount " + u.id
	return &remote.Entry{
		Key: u.key, Below: remote.Chain(nil), DiffID: p.diffID, Blob: d, Created: t.Now(), Name: name[:min(len(name), 200)],
	}, nil
}

// packedMount is a directory as a compressed tar in a file without a name.
type packedMount struct {
	file           *os.File
	digest, diffID v1.Hash
	size           int64
}

// packMount packs a directory; nil is an empty one. Steps of other builds wait meanwhile.
func (t *Travel) packMount(ctx context.Context, u *usedMount, most int64) (_ *packedMount, err error) {
	bounded, cancel := context.WithTimeoutCause(ctx, mountLock, errors.New("another build uses it"))
	defer cancel()
	lock, err := flock.Open(bounded, filepath.Join(u.place, "lock"), os.O_RDWR, flock.Alone)
	if err != nil {
		return nil, err
	}
	defer lock.Close() // and the lock with it
	root, err := rootfs.Open(filepath.Join(u.place, "fs"))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := os.CreateTemp(t.Temp, "mount-*")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	if err := os.Remove(f.Name()); err != nil {
		return nil, err
	}
	sum, diff := sha256.New(), sha256.New()
	z, err := compress.Zstd.Encoder().NewWriter(io.MultiWriter(f, sum))
	if err != nil {
		return nil, err
	}
	limit := &countingWriter{w: io.MultiWriter(z, diff), most: most}
	err = layer.Write(ctx, limit, root.With(u.owners), layer.Options{Form: layer.Plain, UserXattr: t.UserXattr, Attributes: true})
	if err = errors.Join(err, z.Close()); err != nil {
		return nil, err
	}
	const endOfArchive = 1024
	if limit.n <= endOfArchive {
		return nil, f.Close()
	}
	size, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, err
	}
	return &packedMount{file: f, digest: hashOf(sum), diffID: hashOf(diff), size: size}, nil
}

type countingWriter struct {
	w       io.Writer
	n, most int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	if c.n += int64(len(p)); c.n > c.most {
		return 0, errTooLarge
	}
	return c.w.Write(p)
}
