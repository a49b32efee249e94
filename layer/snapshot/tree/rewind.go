package tree

import (
	"context"
	"errors"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
)

// errRewind is returned for a tree that Rewind cannot take layers off.
var errRewind = errors.New("the layers cannot be taken off the tree")

// Rewind makes the tree, which shows the layers stay (directories, topmost first) and others above them, one that shows these only.
// That costs what the others have and hide. After an error the tree can only be thrown away.
func (t *Tree) Rewind(ctx context.Context, stay []string) error {
	n := len(t.layers) - len(stay)
	if n < 0 || len(stay) == 0 || !slices.Equal(t.layers[n:], stay) || t.owners.Records() {
		return errRewind // a directory's record of owners would keep those of files that go
	}
	away, err := openLayers(t.layers[:n])
	if err != nil {
		return err
	}
	below, err := openLayers(stay)
	if err != nil {
		(&merged{dirs: away}).close()
		return err
	}
	t.layers = slices.Clone(stay)
	return t.restore(ctx, &restored{merged{dirs: below}, merged{dirs: away}})
}

// Reset makes the tree what its layers show again, after somebody wrote to it, who does not any more. trusted is as for Diff. That costs what was changed. After
// an error the tree can only be thrown away.
func (t *Tree) Reset(ctx context.Context, trusted bool) error {
	if len(t.layers) == 0 || t.private || t.owners.Records() {
		return errRewind
	}
	c, err := t.diff(ctx, trusted)
	if err != nil {
		return err
	}
	dirs, err := openLayers(t.layers)
	if err != nil {
		return err
	}
	if err := t.restore(ctx, &undone{merged{dirs: dirs}, c}); err != nil {
		return err
	}
	t.private = false
	return nil
}

// restore puts content over what is in the tree.
func (t *Tree) restore(ctx context.Context, from content) error {
	err := fill(ctx, t.dir, from, oneByOne, t.owners)
	if errors.Is(err, errNames) {
		return errRewind
	}
	if err != nil {
		return err
	}
	return t.learn(ctx)
}

// restored is the content of a directory that layers are taken off: of what these have, it is what those below show.
type restored struct {
	below merged
	away  merged
}

func (m *restored) open() error {
	if err := m.below.open(); err != nil {
		return err
	}
	if err := m.away.open(); err != nil {
		m.below.close()
		return err
	}
	return nil
}

func (m *restored) model() *os.File { return m.below.model() }

func (m *restored) close() {
	m.below.close()
	m.away.close()
}

func (m *restored) entries(l *listers, there []rootfs.Entry) ([]entry, error) {
	touched := map[string]*shown{}
	opaque := false
	var err error
	for _, d := range m.away.dirs {
		if opaque, err = d.merge(l, touched); err != nil {
			return nil, err
		}
		if opaque {
			break
		}
	}
	below, err := m.below.entries(l, nil)
	if err != nil {
		return nil, err
	}
	kept := map[string]bool{}
	var list []entry
	for _, e := range below {
		kept[e.name] = true
		s := touched[e.name]
		if s == nil && !opaque {
			continue
		}
		e.keep = false
		if sub, ok := e.sub.(*merged); ok && s != nil && s.typ == unix.DT_DIR && !s.closed && !opaque {
			e.keep = true
			e.sub = &restored{*sub, merged{above: s.dirs, name: e.name}}
		}
		list = append(list, e)
	}
	for _, e := range there {
		if !kept[e.Name] && (opaque || touched[e.Name] != nil) {
			list = append(list, entry{name: e.Name, do: remove})
		}
	}
	return list, nil
}

// undone is the content of a directory that was changed: what the layers show of what changed in it.
type undone struct {
	merged
	c *change
}

func (m *undone) entries(l *listers, there []rootfs.Entry) ([]entry, error) {
	below, err := m.merged.entries(l, nil)
	if err != nil {
		return nil, err
	}
	shows := map[string]bool{}
	var list []entry
	for _, e := range below {
		shows[e.name] = true
		k := m.c.kids[e.name]
		if k == nil && !slices.Contains(m.c.hidden, e.name) {
			continue
		}
		e.keep = false
		if sub, ok := e.sub.(*merged); ok && k != nil && k.n.isDir() && !k.fresh && !k.opaque {
			e.keep = true
			e.sub = &undone{*sub, k}
		}
		list = append(list, e)
	}
	for _, e := range there {
		if m.c.kids[e.Name] != nil && !shows[e.Name] {
			list = append(list, entry{name: e.Name, do: remove})
		}
	}
	return list, nil
}
