package builder

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/builder/cachemount"
	"github.com/strake-build/strake/builder/copier"
	"github.com/strake-build/strake/builder/progress"
	"github.com/strake-build/strake/builder/source"
	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/dockerfile"
	"github.com/strake-build/strake/layer/rootfs"
	"github.com/strake-build/strake/runner"
)

// Secrets finds what RUN --mount=type=secret asks for.
type Secrets interface {
	// Secret returns the value of id; ok is false if there is no such secret.
	Secret(id string) (value []byte, ok bool, err error)
}

// Agents forwards ssh agents to RUN --mount=type=ssh.
type Agents interface {
	// Listen opens a socket that speaks to the agent id, owned by uid and gid, with mode. It returns the socket's path on the
	// host; close ends it. ok is false if there is no such agent.
	Listen(ctx context.Context, id string, mode uint32, uid, gid int) (path string, closeSocket func(), ok bool, err error)
}

// mounts is what the --mounts of a RUN come to.
type mounts struct {
	mounts  []runner.Mount
	env     []string // secrets given as variables
	release []func()
}

func (m *mounts) close() {
	for _, f := range slices.Backward(m.release) {
		f()
	}
}

// add appends a mount, or replaces the last one if that is at the same target: a file may take the place of a folder.
func (m *mounts) add(mount runner.Mount) {
	if n := len(m.mounts); n > 0 && m.mounts[n-1].Target == mount.Target {
		m.mounts[n-1] = mount
		return
	}
	m.mounts = append(m.mounts, mount)
}

// The defaults of mounts (Dockerfile reference, RUN --mount).
const (
	cacheMode  = 0o755
	secretMode = 0o400
	socketMode = 0o600
)

// mountAll prepares the mounts of a RUN; close must follow, also after an error.
func (w *runWork) mountAll(ctx context.Context, inputs []filesystem) (*mounts, error) {
	all := &mounts{}
	for i, m := range w.run.Mounts {
		if w.inContext[i] {
			m.Source = contextMount
		}
		var err error
		switch m.Type {
		case dockerfile.MountBind:
			err = w.bind(ctx, all, m, w.mountInput(inputs, i))
		case dockerfile.MountCache:
			err = w.cache(ctx, all, m, w.mountInput(inputs, i))
		case dockerfile.MountTmpfs:
			all.add(runner.Mount{Type: runner.Tmpfs, Target: m.Target, Size: m.Size, ReadOnly: m.ReadOnly})
		case dockerfile.MountSecret:
			err = w.secret(all, m)
		case dockerfile.MountSSH:
			err = w.ssh(ctx, all, m)
		default:
			err = fmt.Errorf("internal error: no mount of type %q", m.Type)
		}
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

// mountInput is the file system that mount i reads; an empty one if it has none.
func (w *runWork) mountInput(inputs []filesystem, i int) filesystem {
	if n := w.mountInputs[i]; n >= 0 {
		return inputs[n]
	}
	return filesystem{}
}

// bind mounts a part of another file system. What is written to it goes to an upper directory that is thrown away.
func (w *runWork) bind(ctx context.Context, all *mounts, m dockerfile.Mount, from filesystem) error {
	ids, err := w.unpacked(ctx, from, w.vertex)
	if err != nil {
		return err
	}
	mount := runner.Mount{Type: runner.Bind, Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly}
	if m.ReadOnly {
		view, err := w.Snapshots.View(ctx, ids)
		if err != nil {
			return err
		}
		mount.Overlay = overlay(view)
	} else {
		active, err := w.Snapshots.Prepare(ctx, ids)
		if err != nil {
			return err
		}
		all.release = append(all.release, active.Discard)
		mount.Overlay = overlay(active.Mount())
	}
	all.add(mount)
	return nil
}

func (w *runWork) cache(ctx context.Context, all *mounts, m dockerfile.Mount, from filesystem) error {
	var seed func(dir string) error
	if m.From != nil {
		seed = func(dir string) error { return w.seed(ctx, dir, from, m) }
	}
	dir, release, err := w.Mounts.Open(ctx, cachemount.Mount{
		ID: m.ID, Variant: cacheVariant(m, from), Sharing: m.Sharing, Seed: seed,
		Mode: orElse(m.Mode, cacheMode), UID: orElse(m.UID, 0), GID: orElse(m.GID, 0), Owners: w.Snapshots.Owners(),
		Platform: w.platform.String(),
	})
	if err != nil {
		return fmt.Errorf("opening the cache mount %s: %w", m.ID, err)
	}
	all.release = append(all.release, release)
	mount := runner.Mount{Type: runner.Bind, Source: dir, Target: m.Target, ReadOnly: m.ReadOnly}
	if m.From == nil && m.Source != "" && m.Source != "/" {
		mount.Inside = m.Source
	}
	all.add(mount)
	return nil
}

// cacheVariant says what a cache begins as, where that is not an empty folder of root's: one of another owner or mode, or a part of
// other layers. In BuildKit too these are caches of their own.
func cacheVariant(m dockerfile.Mount, from filesystem) string {
	var parts []string
	if m.Mode != nil || m.UID != nil || m.GID != nil {
		parts = append(parts, fmt.Sprintf("%o %d:%d", orElse(m.Mode, cacheMode), orElse(m.UID, 0), orElse(m.GID, 0)))
	}
	if m.From != nil {
		parts = append(parts, m.Source)
		for _, l := range from.layers {
			parts = append(parts, l.identity())
		}
	}
	return strings.Join(parts, "\x00")
}

// seed fills a new cache with what its from= and source= name.
func (w *runWork) seed(ctx context.Context, dir string, from filesystem, m dockerfile.Mount) error {
	ids, err := w.unpacked(ctx, from, w.vertex)
	if err != nil {
		return err
	}
	view, err := w.Snapshots.OpenView(ctx, ids)
	if err != nil {
		return err
	}
	tree := source.FromRoot(view, source.Options{Unwritten: true, Now: w.Now})
	defer tree.Close()
	items, err := tree.Select(ctx, source.Selection{Patterns: []string{m.Source}, Literal: true})
	if err != nil {
		return fmt.Errorf("filling it from %s: %w", m.Source, err)
	}
	root, err := rootfs.Open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := copier.Copy(ctx, root.With(view.Owners()), tree, items, nil, copier.Options{Dest: "/", UserXattr: w.UserXattr}); err != nil {
		return err
	}
	st, err := view.Stat(m.Source)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return err
	}
	return view.Owners().Set(root.File(), ".", int(st.Uid), int(st.Gid), int(st.Mode&0o7777))
}

// hasSecrets says whether the RUN is given secrets or an ssh agent.
func (w *runWork) hasSecrets() bool {
	return slices.ContainsFunc(w.run.Mounts, func(m dockerfile.Mount) bool {
		return m.Type == dockerfile.MountSecret || m.Type == dockerfile.MountSSH
	})
}

// secret gives the step a secret as a file, as a variable, or as both.
func (w *runWork) secret(all *mounts, m dockerfile.Mount) error {
	var value []byte
	var ok bool
	var err error
	if w.opt.Secrets != nil {
		value, ok, err = w.opt.Secrets.Secret(m.ID)
	}
	if err != nil {
		return fmt.Errorf("reading the secret %s: %w", m.ID, err)
	}
	if !ok {
		if m.Required {
			return fmt.Errorf("secret %s: not found", m.ID)
		}
		if m.Env != "" { // as BuildKit has it
			all.env = append(all.env, m.Env+"=")
		}
		return nil
	}
	if m.Env != "" {
		all.env = append(all.env, m.Env+"="+string(value))
	}
	if m.Target != "" {
		if value == nil {
			value = []byte{}
		}
		all.add(runner.Mount{
			Type: runner.Bind, Target: m.Target, Data: value, ReadOnly: true,
			Mode: orElse(m.Mode, secretMode), UID: orElse(m.UID, 0), GID: orElse(m.GID, 0),
		})
	}
	return nil
}

func (w *runWork) ssh(ctx context.Context, all *mounts, m dockerfile.Mount) error {
	var socket string
	var stop func()
	var ok bool
	var err error
	if w.opt.Agents != nil {
		uid, gid := orElse(m.UID, 0), orElse(m.GID, 0)
		if w.Snapshots.Owners().Records() {
			uid, gid = -1, -1 // there is one id, which every process of the step has
		}
		socket, stop, ok, err = w.opt.Agents.Listen(ctx, m.ID, orElse(m.Mode, socketMode), uid, gid)
	}
	if err != nil {
		return fmt.Errorf("forwarding the ssh agent %s: %w", m.ID, err)
	}
	if !ok {
		if m.Required {
			return fmt.Errorf("unset ssh forward key %s", m.ID)
		}
		return nil
	}
	all.release = append(all.release, stop)
	all.add(runner.Mount{Type: runner.Bind, Source: socket, Target: m.Target})
	return nil
}

func orElse[T any](p *T, other T) T {
	if p != nil {
		return *p
	}
	return other
}

// mountParts describe mounts in a key: what is mounted where, and as whose. The contents of a cache are not in it, nor
// is the value of a secret, unless the build says so.
func (w *runWork) mountParts() ([]cache.Part, error) {
	var parts []cache.Part
	add := func(name, value string) { parts = append(parts, cache.Part{Name: name, Value: value}) }
	for i, m := range w.run.Mounts {
		add("mount", string(m.Type))
		add("target", m.Target)
		add("read-only", strconv.FormatBool(m.ReadOnly))
		switch m.Type {
		case dockerfile.MountBind:
			if !w.inContext[i] {
				add("source", m.Source)
			}
		case dockerfile.MountTmpfs:
			add("size", strconv.FormatInt(m.Size, 10))
		case dockerfile.MountSSH:
			add("mount-id", m.ID)
			add("mount-owner", mountOwner(m))
		case dockerfile.MountCache:
			if m.Sharing != dockerfile.SharingShared || !strings.HasSuffix(m.ID, "/"+m.Target) {
				add("mount-id", "its own") // which one, BuildKit's keys do not say either
			}
			add("mount-owner", mountOwner(m))
			if m.From != nil {
				add("mount-source", m.Source)
			}
		case dockerfile.MountSecret:
			add("mount-id", m.ID)
			add("mount-env", m.Env)
			add("mount-owner", mountOwner(m))
			if w.opt.SecretKey == nil {
				continue
			}
			key, ok, err := w.opt.SecretKey(m.ID)
			if err != nil {
				return nil, fmt.Errorf("reading the secret %s: %w", m.ID, err)
			}
			if ok {
				parts = append(parts, cache.Part{Name: "secret", Value: m.ID + "=" + key, Local: true})
			}
		}
	}
	return parts, nil
}

// mountOwner is the mode and the owner that a mount asks for; empty if it asks for none.
func mountOwner(m dockerfile.Mount) string {
	if m.Mode == nil && m.UID == nil && m.GID == nil {
		return ""
	}
	return fmt.Sprintf("%o %d:%d", orElse(m.Mode, 0), orElse(m.UID, 0), orElse(m.GID, 0))
}

// mountContent digests what the bind mounts of a RUN show of other stages.
func (w *runWork) mountContent(ctx context.Context, inputs []filesystem) ([]cache.Part, error) {
	var parts []cache.Part
	for i, m := range w.run.Mounts {
		if m.Type != dockerfile.MountBind {
			continue
		}
		if w.inContext[i] {
			m.Source = contextMount
		}
		sum, err := w.mountDigest(ctx, m, w.mountInput(inputs, i))
		if err != nil {
			return nil, err
		}
		parts = append(parts, cache.Part{Name: "mounted", Value: hex.EncodeToString(sum[:])})
	}
	return parts, nil
}

func (w *runWork) mountDigest(ctx context.Context, m dockerfile.Mount, from filesystem) (sum source.Digest, err error) {
	ids, err := w.unpacked(ctx, from, w.vertex)
	if err != nil {
		return sum, err
	}
	root, err := w.Snapshots.OpenView(ctx, ids)
	if err != nil {
		return sum, err
	}
	tree := source.FromRoot(root, source.Options{Unwritten: true, Now: w.Now})
	defer tree.Close()
	sum, err = tree.DigestPath(ctx, m.Source)
	var missing *source.NotFoundError
	if errors.As(err, &missing) {
		err = fmt.Errorf("mounting %s: %w", m.Target, err)
	}
	return sum, err
}

// warn tells the person who builds something about a step.
func (b *build) warn(v *vertex, text string) {
	b.opt.Progress(progress.Event{Time: b.Now(), Kind: progress.Warned, Vertex: v.ID, Data: []byte(text)})
}
