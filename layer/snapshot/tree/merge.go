package tree

import (
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strake-build/strake/layer/rootfs"
)

// entry says what to do with a name of a directory that is filled.
type entry struct {
	name string
	do   action
	typ  uint8    // unix.DT_*
	src  *os.File // the directory that has it; it belongs to the content
	from int      // which layer that is of: inode numbers of two of them have nothing to do with each other
	sub  content  // of a directory
	keep bool     // a directory that is there stays, with what is in it and sub does not replace
}

type action uint8

const (
	put    action = iota // what src has
	remove               // what is there
	mark                 // an empty file
)

// content is what a directory is filled with: merged layers, or what changed.
type content interface {
	// open must be called before all others, while the content that this one is of is open.
	open() error
	// entries lists it; there is what the directory holds already.
	entries(l *listers, there []rootfs.Entry) ([]entry, error)
	// model is the directory whose attributes are given to the one that is filled.
	model() *os.File
	close()
}

// layerDir is a directory of a layer.
type layerDir struct {
	file  *os.File
	layer int
}

// merged is the content of directories of several layers, topmost first.
type merged struct {
	dirs []layerDir
	// above are the directories that have those, under this name, until open.
	above []layerDir
	name  string
}

func (m *merged) open() error {
	for _, d := range m.above {
		f, err := rootfs.OpenEntry(d.file, m.name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			m.close()
			return err
		}
		m.dirs = append(m.dirs, layerDir{f, d.layer})
	}
	m.above = nil
	return nil
}

func (m *merged) model() *os.File { return m.dirs[0].file }

func (m *merged) close() {
	for _, d := range m.dirs {
		_ = d.file.Close()
	}
}

// shown is what the layers show of a name.
type shown struct {
	entry
	dirs   []layerDir // that have it as a directory
	closed bool       // what lies below does not count
	hidden bool       // there is nothing
}

func (m *merged) entries(l *listers, there []rootfs.Entry) ([]entry, error) {
	names := map[string]*shown{}
	opaque := false
	var err error
	for _, d := range m.dirs {
		if opaque, err = d.merge(l, names); err != nil {
			return nil, err
		}
		if opaque {
			break
		}
	}
	list := make([]entry, 0, len(names))
	for name, s := range names {
		if s.hidden {
			continue
		}
		s.name = name
		if s.typ == unix.DT_DIR {
			s.sub = &merged{above: s.dirs, name: name}
			s.keep = !s.closed && !opaque
		}
		list = append(list, s.entry)
	}
	for _, e := range there {
		if s := names[e.Name]; s != nil && s.hidden || s == nil && opaque {
			list = append(list, entry{name: e.Name, do: remove})
		}
	}
	slices.SortFunc(list, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return list, nil
}

// merge adds what the layer has to what those above it show. opaque: nothing below it counts.
func (d layerDir) merge(l *listers, names map[string]*shown) (opaque bool, err error) {
	list, err := l.readDir(d.file)
	if err != nil {
		return false, err
	}
	var hidden []string
	for _, e := range list {
		if e.Type != unix.DT_DIR && strings.HasPrefix(e.Name, whiteoutPrefix) {
			switch {
			case e.Name == opaqueName:
				opaque = true
			case !strings.HasPrefix(e.Name, metaPrefix):
				hidden = append(hidden, e.Name[len(whiteoutPrefix):])
			}
			continue
		}
		s := names[e.Name]
		switch {
		case s == nil:
			s = &shown{entry: entry{typ: e.Type, src: d.file, from: d.layer}}
			names[e.Name] = s
		case s.closed:
			continue
		}
		if e.Type != unix.DT_DIR {
			s.closed = true
			continue
		}
		s.dirs = append(s.dirs, d)
	}
	// A whiteout is about the layers below only.
	for _, name := range hidden {
		if s := names[name]; s != nil {
			s.closed = true
		} else {
			names[name] = &shown{closed: true, hidden: true}
		}
	}
	return opaque, nil
}

// changed is the content of a directory of a new layer.
type changed struct {
	c     *change
	above *os.File // has the directory, unless that is the root
	src   *os.File // in the tree
}

func (m *changed) open() (err error) {
	if m.src == nil {
		m.src, err = rootfs.OpenEntry(m.above, m.c.n.name, unix.O_RDONLY|unix.O_DIRECTORY)
	}
	return err
}

func (m *changed) model() *os.File { return m.src }
func (m *changed) close()          { _ = m.src.Close() }

func (m *changed) entries(*listers, []rootfs.Entry) ([]entry, error) {
	var list []entry
	for _, name := range m.c.hidden {
		if m.c.kids[name] == nil {
			list = append(list, entry{name: whiteoutPrefix + name, do: mark})
		}
	}
	if m.c.opaque {
		list = append(list, entry{name: opaqueName, do: mark})
	}
	for name, k := range m.c.each() {
		e := entry{name: name, src: m.src, typ: uint8(k.n.mode & unix.S_IFMT >> 12)}
		if k.n.isDir() {
			e.sub = &changed{c: k, above: m.src}
		}
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return list, nil
}
