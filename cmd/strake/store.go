package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/layer/blob"
	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/layer/lease"
	"github.com/strake-build/strake/layer/registry"
	"github.com/strake-build/strake/layer/snapshot"
	"github.com/strake-build/strake/runner"
)

// store is the directory that holds everything strake keeps:
//
//	format      its version, and in which form overlay marks are
//	blobs/      configurations, manifests and compressed layers, by digest
//	images/     images and their names
//	layers/     unpacked layers
//	compressed/ what compressing a layer gave
//	cache/      records of build steps
//	contexts/   digests of the files of build contexts
//	mounts/     directories of RUN --mount=type=cache
//	remote/     files and repositories fetched for ADD and contexts
//	run/        what running steps and containers need
//	tmp/        folders of one command each
//	names/      names of running containers
//	leases/     what running commands use of all this
type store struct {
	env      *environment
	root     string
	blobs    *blob.Store
	images   *image.Store
	registry *registry.Client
	namings  namings // what registries made this command name

	// The following are set by openLayers only.
	isolation runner.Isolation
	snapshots *snapshot.Store
	layers    *image.Layers
	cache     *cache.Store
	// lease keeps others from removing what this command finds and makes, until its Release or the end of the process.
	lease *lease.Lease
}

// openStore opens the part of the store that needs no privileges: names, configurations and manifests.
func (e *environment) openStore() (*store, error) {
	root, err := e.root()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("making the store: %w", err)
	}
	s := &store{env: e, root: root, registry: e.registry()}
	if err := s.checkFormat(""); err != nil {
		return nil, err
	}
	if s.blobs, err = blob.Open(s.path("blobs")); err != nil {
		return nil, fmt.Errorf("opening the store %s: %w", root, err)
	}
	if s.images, err = image.Open(s.path("images"), s.blobs); err != nil {
		return nil, fmt.Errorf("opening the store %s: %w", root, err)
	}
	return s, nil
}

// openLayers opens the whole store. It is the one place where strake takes the privileges that layers
// need: as an ordinary user it does not return, but runs this command again in a user namespace.
func (e *environment) openLayers(ctx context.Context) (*store, error) {
	root, err := e.root()
	if err != nil {
		return nil, err
	}
	if err := writable(root); err != nil {
		return nil, err
	}
	isolation, err := e.probe(root)
	if err != nil {
		return nil, err
	}
	// In the namespace the user looks like root; the store must stay the user's.
	if err := e.setenv("STRAKE_ROOT", root); err != nil {
		return nil, err
	}
	if isolation, err = e.remember(isolation); err != nil {
		return nil, err
	}
	// Enter passes signals on to the command in the namespace, which decides what they mean.
	resume := e.signals.suspend()
	err = runner.Enter(isolation)
	resume()
	if err != nil {
		return nil, &isolationError{err}
	}
	s, err := e.openStore()
	if err != nil {
		return nil, err
	}
	if s.isolation, err = s.settle(isolation); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if s.lease, err = lease.Open(s.path("leases")); err != nil {
		return nil, fmt.Errorf("opening the store %s: %w", root, err)
	}
	s.blobs.Lease = s.lease
	// Before the trees of dead processes are removed: a cache may be in one.
	if err := runner.Sweep(s.path("run")); err != nil {
		return nil, fmt.Errorf("opening the store %s: %w", root, err)
	}
	if s.snapshots, err = snapshot.Open(s.path("layers"), s.snapshotOptions()); err != nil {
		return nil, fmt.Errorf("opening the store %s: %w", root, err)
	}
	if s.cache, err = cache.Open(s.path("cache")); err != nil {
		return nil, fmt.Errorf("opening the store %s: %w", root, err)
	}
	s.layers = &image.Layers{Blobs: s.blobs, Snapshots: s.snapshots, Remote: s.registry, Dir: s.path("compressed")}
	return s, nil
}

// openSizes opens the whole store for a command that can do without unpacked layers, which only tell it sizes: where
// there are no privileges for them, it gets what openStore opens.
func (e *environment) openSizes(ctx context.Context) (*store, error) {
	root, err := e.root()
	if err != nil {
		return nil, err
	}
	if writable(root) != nil {
		return e.openStore()
	}
	if _, err := e.probe(root); err != nil {
		return e.openStore()
	}
	return e.openLayers(ctx)
}

// writable says why nothing can be written in a store that is there.
func writable(root string) error {
	err := unix.Access(root, unix.W_OK|unix.X_OK)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if errors.Is(err, unix.EROFS) {
		return &hintError{fmt.Errorf("the store %s is on a file system that is mounted read-only", root), "use another store with --root or STRAKE_ROOT; \"strake images\", \"inspect\" and \"history\" can read this one"}
	}
	return fmt.Errorf("writing to the store %s: %w", root, err)
}

// path returns the path of something in the store.
func (s *store) path(elem ...string) string {
	return filepath.Join(append([]string{s.root}, elem...)...)
}

// resolver finds images in the store and asks registries for others, or for all of them.
func (s *store) resolver(always bool) *builder.Puller {
	return &builder.Puller{Images: s.images, Blobs: s.blobs, Client: s.registry, Always: always, Named: s.namings.add}
}

// writeFile writes a file under a temporary name and renames it: it is there whole or not at all.
func writeFile(path string, data []byte, mode fs.FileMode) error {
	return replaceFile(path, data, mode, false)
}

// replaceFile is writeFile; with durable, a power failure cannot tear it either.
func replaceFile(path string, data []byte, mode fs.FileMode, durable bool) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil { // the file that was asked for tells more than the temporary one
		return &fs.PathError{Op: "writing", Path: path, Err: errors.Unwrap(err)}
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil && durable {
		err = f.Sync()
	}
	err = errors.Join(err, f.Chmod(mode), f.Close())
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}

// registry makes the client that speaks to registries. It does no input or output.
func (e *environment) registry() *registry.Client {
	opt := registry.Options{
		CAFiles:   e.flags.registryCA,
		Insecure:  e.flags.insecure,
		CertsDirs: e.certsDirs(),
		AuthFile:  e.flags.authFile,
		AuthFiles: e.authFiles(),
		UserAgent: "strake/" + version,
		Path:      e.getenv("PATH"),
		Proxy:     http.ProxyFromEnvironment,
	}
	if e.chosenAuthFile() == "" {
		opt.AuthJSON = []byte(e.getenv("DOCKER_AUTH_CONFIG"))
	}
	return registry.New(opt)
}
