package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/builder/store"
	"github.com/strake-build/strake/layer/registry"
	"github.com/strake-build/strake/layer/snapshot"
	"github.com/strake-build/strake/runner"
)

// session is the store as one command has it, with what it needs besides.
type session struct {
	*store.Store
	env       *environment
	registry  *registry.Client
	namings   namings          // what registries made this command name
	isolation runner.Isolation // set by openLayers only
}

// openStore opens the part of the store that needs no privileges: names, configurations and manifests.
func (e *environment) openStore() (*session, error) {
	root, err := e.root()
	if err != nil {
		return nil, err
	}
	opened, err := store.Open(root, e.now)
	if err != nil {
		return nil, err
	}
	return &session{Store: opened, env: e, registry: e.registry()}, nil
}

// openLayers opens the whole store. It is the one place where strake takes the privileges that layers
// need: as an ordinary user it does not return, but runs this command again in a user namespace.
func (e *environment) openLayers(ctx context.Context) (*session, error) {
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
	// Before the trees of dead processes are removed: a cache may be in one.
	if err := runner.Sweep(s.Path("run")); err != nil {
		return nil, fmt.Errorf("opening the store %s: %w", root, err)
	}
	i := s.isolation
	err = s.OpenLayers(store.LayerOptions{
		Form:      formOf(i),
		Snapshots: snapshot.Options{UserXattr: i.UserNS, RecordOwners: i.RecordsOwners(), Copy: i.NoOverlay},
		Remote:    s.registry,
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// openSizes opens the whole store for a command that can do without unpacked layers, which only tell it sizes: where
// there are no privileges for them, it gets what openStore opens.
func (e *environment) openSizes(ctx context.Context) (*session, error) {
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

// resolver finds images in the store and asks registries for others, or for all of them.
func (s *session) resolver(always bool) *builder.Puller {
	return &builder.Puller{Images: s.Images, Blobs: s.Blobs, Client: s.registry, Always: always, Named: s.namings.add}
}

// syncLayers makes new layers durable, for a build or a pull that took so long.
func (s *session) syncLayers(took time.Duration) error {
	mode, err := s.env.syncMode()
	if err != nil {
		return err
	}
	return s.SyncNew(mode, took)
}

// syncLoaded makes everything durable: what came from an archive may be nowhere else.
func (s *session) syncLoaded() error {
	mode, err := s.env.syncMode()
	if err != nil {
		return err
	}
	return s.SyncAll(mode)
}

// syncMode is the value of STRAKE_SYNC.
func (e *environment) syncMode() (store.SyncMode, error) {
	switch mode := store.SyncMode(cmp.Or(e.getenv("STRAKE_SYNC"), string(store.SyncAuto))); mode {
	case store.SyncAuto, store.SyncAlways, store.SyncNever:
		return mode, nil
	default:
		return "", usagef("invalid STRAKE_SYNC %q: it is auto, always or never", mode)
	}
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
