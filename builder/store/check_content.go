package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/builder/source"
	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/layer/snapshot"
)

// checkBlobs compares all blobs with their names.
func (c *checker) checkBlobs(ctx context.Context) error {
	var all []v1.Hash
	if err := c.Blobs.Walk(func(h v1.Hash, _ int64) error {
		all = append(all, h)
		return nil
	}); err != nil {
		return err
	}
	c.found.Blobs = len(all)
	return each(ctx, all, func(ctx context.Context, h v1.Hash) error {
		path := c.Path("blobs", "sha256", h.Hex)
		read, _ := os.Lstat(path)
		bad, err := fileDiffers(ctx, path, h.Hex)
		if err != nil || bad == nil {
			return err
		}
		c.mu.Lock()
		c.badBlobs[h] = true
		c.mu.Unlock()
		return c.problem("blob "+h.String(), bad, func() (bool, error) {
			return c.collection.Take(func() error {
				if now, _ := os.Lstat(path); !os.SameFile(read, now) {
					return nil // somebody stored it again since
				}
				return c.Blobs.Remove(h)
			}, h.String())
		})
	})
}

// fileDiffers says what is wrong with a file that should have a digest; nil if nothing is, or the file is gone.
func fileDiffers(ctx context.Context, path, digest string) (bad, err error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close() // only read
	sum := sha256.New()
	buf := make([]byte, 1<<20)
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		n, err := file.Read(buf)
		sum.Write(buf[:n])
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("it cannot be read: %w", err), nil
		}
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != digest {
		return fmt.Errorf("its content has the digest sha256:%s", got), nil
	}
	return nil, nil
}

// checkLayers compares all layers with their diffIDs.
func (c *checker) checkLayers(ctx context.Context) error {
	list, _ := c.Images.List() // those that cannot be read are for checkImages
	for _, n := range list {
		for _, l := range n.Image.Layers {
			if l.Blob != nil && !c.badBlobs[l.Blob.Digest] {
				if _, err := c.Blobs.Size(l.Blob.Digest); err == nil {
					c.blobOf[l.DiffID] = l
				}
			}
		}
	}
	var all []snapshot.ID
	if err := c.Snapshots.Walk(func(id snapshot.ID) error {
		all = append(all, id)
		return nil
	}); err != nil {
		return err
	}
	c.found.Layers = len(all)
	return each(ctx, all, c.checkLayer)
}

// checkLayer compares a layer with its diffID, and with the blob that it was unpacked from if that is here.
func (c *checker) checkLayer(ctx context.Context, id snapshot.ID) error {
	info, err := c.Snapshots.Info(id)
	if errors.Is(err, snapshot.ErrNotFound) {
		return nil
	}
	var open func() (io.ReadCloser, error)
	if l, ok := c.blobOf[info.DiffID]; ok {
		open = func() (io.ReadCloser, error) { return c.local.Uncompressed(ctx, l) }
	}
	if err == nil {
		err = c.Snapshots.Verify(ctx, id, open)
	}
	switch {
	case err == nil, errors.Is(err, snapshot.ErrNotFound):
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, snapshot.ErrUnverifiable):
		c.mu.Lock()
		c.found.Unverified++
		c.mu.Unlock()
		return nil
	}
	c.mu.Lock()
	c.badLayers[id] = true
	c.mu.Unlock()
	return c.problem("layer "+string(id), err, func() (bool, error) { return c.Snapshots.Collect(c.collection, id) })
}

// checkCopies looks at the files of copies of layers. One that somebody changed would not be used.
func (c *checker) checkCopies(ctx context.Context) error {
	for _, held := range c.Snapshots.Copies() {
		err := c.Snapshots.VerifyCopy(ctx, held.ID)
		if errors.Is(err, snapshot.ErrDamaged) {
			err = c.problem("copy "+held.ID, err, func() (bool, error) { return c.Snapshots.RemoveCopy(held.ID) })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkStale finds what points to layers that are gone.
func (c *checker) checkStale(context.Context) error {
	var failed error
	err := c.Snapshots.Stale(func(what string, remove func() error) {
		failed = errors.Join(failed, c.stale(what, always(remove)))
	})
	return errors.Join(err, failed)
}

// always makes a drop of something that nobody can use.
func always(remove func() error) func() (bool, error) {
	return func() (bool, error) { return true, remove() }
}

// checkRecords reads all records of the build cache.
func (c *checker) checkRecords(ctx context.Context) error {
	return c.Cache.Entries(ctx, func(e cache.Entry) error {
		c.found.Records++
		id := snapshot.ID(e.Record.Layer)
		switch {
		case e.Err != nil:
			why := strings.TrimPrefix(e.Err.Error(), cache.ErrMiss.Error()+": ")
			return c.problem("record "+filepath.Base(e.Path), errors.New(why), removeFile(e.Path))
		case !c.Snapshots.Has(id) || c.badLayers[id]:
			return c.stale("record "+filepath.Base(e.Path)+" ("+e.Record.Name+")", removeFile(e.Path))
		}
		return nil
	})
}

// checkImages reads all images and names, and asks for the layers of images.
func (c *checker) checkImages(ctx context.Context) error {
	list, _ := c.Images.List()
	c.found.Images = len(list)
	problems, err := c.Images.Check(c.have)
	if err != nil {
		return err
	}
	for _, p := range problems {
		if err := c.problem(p.What, p.Err, always(p.Repair)); err != nil {
			return err
		}
	}
	return nil
}

// have says why a layer of an image cannot be had.
func (c *checker) have(l image.Layer) error {
	if l.Blob != nil {
		if l.Origin != "" {
			return nil // it is fetched when it is needed
		}
		if _, err := c.Blobs.Size(l.Blob.Digest); err != nil || c.badBlobs[l.Blob.Digest] {
			return fmt.Errorf("the blob of its layer %s is missing or damaged, and was not fetched from a registry", l.DiffID)
		}
		return nil
	}
	if id, err := c.Snapshots.ByDiffID(l.DiffID); err != nil || c.badLayers[id] {
		return fmt.Errorf("its layer %s is missing or damaged", l.DiffID)
	}
	return nil
}

// checkFiles reads the small files of caches, and what was fetched.
func (c *checker) checkFiles(ctx context.Context) error {
	check := func(pattern string, wrong func(path string) (bad, err error)) error {
		names, err := fs.Glob(os.DirFS(c.Root), pattern)
		if err != nil {
			return err
		}
		for _, name := range names {
			if strings.Contains(filepath.Base(name), ".tmp-") {
				continue
			}
			c.found.Files++
			p := c.Path(name)
			bad, err := wrong(p)
			if err == nil && bad != nil {
				err = c.problem(name, bad, removeFile(p))
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	return errors.Join(
		check("compressed/[^.]*", content(func(b []byte) error {
			var d v1.Descriptor
			if err := json.Unmarshal(b, &d); err != nil {
				return err
			}
			if d.Digest == (v1.Hash{}) {
				return errors.New("it names no blob")
			}
			return nil
		})),
		check("contexts/[^.]*", content(source.CheckIndex)),
		check("remote/http/*/sha256-*", func(p string) (bad, err error) {
			return fileDiffers(ctx, p, strings.TrimPrefix(filepath.Base(p), "sha256-"))
		}),
	)
}

// content makes a check of a file of a check of its bytes.
func content(check func([]byte) error) func(path string) (bad, err error) {
	return func(path string) (bad, err error) {
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return check(b), nil
	}
}
