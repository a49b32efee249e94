// Package ignore decides which paths of a build context a .dockerignore excludes.
package ignore

import (
	"errors"
	"io"
)

var errTodo = errors.New("not written yet")

// Matcher holds the rules of one file. The nil Matcher excludes nothing. It is safe for concurrent use.
type Matcher struct{}

// Parse reads a .dockerignore. name is what errors call it.
func Parse(name string, r io.Reader) (*Matcher, error) { return nil, errTodo }

// Dir carries the state of a walk: what is known of the folder, so that its entries need not be matched from the root again.
type Dir struct{}

// Root is the Dir of the context's root.
func (m *Matcher) Root() Dir { return Dir{} }

// Match says whether path (slash-separated, relative to the context, in the folder of which parent was
// made) is excluded. skip says, for a folder, that nothing below it can be re-included, so a walk need not enter it. The
// returned Dir is for entries of path.
func (m *Matcher) Match(parent Dir, path string) (excluded, skip bool, dir Dir, err error) {
	return false, false, Dir{}, errTodo
}

// Excludes says whether a single path is excluded, by its own name or a parent's.
func (m *Matcher) Excludes(path string) (bool, error) { return false, errTodo }
