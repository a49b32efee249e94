package solver

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/strake-build/strake/builder/progress"
	"github.com/strake-build/strake/cache"
)

// remember says that v has the key k now, if its record is kept here. What comes of trouble is a worse explanation, some day.
func (r *run[R]) remember(ctx context.Context, v *Vertex[R], k cache.Key, rec cache.Record) {
	if r.History == nil || r.dry || rec.Away != nil {
		return
	}
	// They are set together: where the first is right there is nothing to do, which is every step of a cached build.
	if len(v.Identity) > 0 {
		if last, err := r.History.Latest(ctx, v.Identity[0]); err == nil && last == k {
			return
		}
	}
	for _, id := range v.Identity {
		_ = r.History.SetLatest(ctx, id, k)
	}
}

// errNever is that a step was not built before.
var errNever = errors.New("never built here")

// earlier finds the record of v's step when it was last built, or one of a step that was at its place.
func (r *run[R]) earlier(v *Vertex[R], k cache.Key) (cache.Record, error) {
	err := errNever
	if r.History == nil {
		return cache.Record{}, err
	}
	for _, id := range v.Identity {
		last, lookErr := r.History.Latest(r.ctx, id)
		if lookErr != nil {
			continue
		}
		rec, lookErr := r.History.Lookup(r.ctx, last)
		switch {
		case errors.Is(lookErr, cache.ErrDamaged):
			err = errors.New("the record is damaged")
		case lookErr != nil && last == k:
			err = errors.New("the layer is gone (pruned)")
		case lookErr != nil:
			err = errors.New("what it made before is gone (pruned)")
		case id != v.Identity[0] && r.isAnother(rec):
			continue // steps have moved: this is what another one made
		default:
			return rec, nil
		}
	}
	return cache.Record{}, err
}

// isAnother says whether a record is of another step of the graph.
func (r *run[R]) isAnother(rec cache.Record) bool {
	for _, n := range rec.Notes {
		if n.Name == IdentityNote {
			k, ok := cache.ParseKey(n.Value)
			return ok && r.texts[k]
		}
	}
	return false
}

// IdentityNote is the name of the note in a record that holds the first of Vertex.Identity.
const IdentityNote = "step"

// explain tells why v runs, and returns the record of what it made before, nil for none.
func (r *run[R]) explain(v *Vertex[R], k cache.Key, content []cache.Part) *cache.Record {
	if r.History == nil {
		return nil
	}
	rec, err := r.earlier(v, k)
	why := r.reason(v, rec, err, content)
	r.emit(v, progress.Event{Kind: progress.Missed, Data: []byte(why)})
	if err != nil {
		return nil
	}
	return &rec
}

// reason says why v is not in the cache. rec is what was made of it before, unless err says why there is none. content may
// be nil: it is not known yet.
func (r *run[R]) reason(v *Vertex[R], rec cache.Record, err error, content []cache.Part) string {
	n := r.nodes[v]
	prefix := ""
	if v.Title != "" {
		prefix = v.Title + ": "
	}
	switch {
	case r.Verify != nil:
		return "to verify it"
	case v.Fresh:
		return "--no-cache-filter"
	case errors.Is(n.missed, cache.ErrDisabled):
		return "--no-cache"
	case errors.Is(n.missed, cache.ErrDamaged):
		return prefix + "the record is damaged"
	case errors.Is(n.missed, cache.ErrGone):
		return prefix + "the layer is gone (pruned)"
	case errors.Is(err, errNever):
		return err.Error()
	case err != nil:
		return prefix + err.Error()
	}
	if why := r.moved(v, rec.Parts, rec.Notes); why != "" {
		return why
	}
	if v.Explain != nil {
		if why := v.Explain(rec, n.parts, content); why != "" {
			return prefix + why
		}
	}
	if v.Parent != nil && !v.Parent.Source && (n.stale != nil || values(rec.Parts, "parent") != values(n.parts, "parent") || r.nodes[v.Parent].ran.Load()) {
		return prefix + "the step before it ran again: " + r.cause(v.Parent).Name
	}
	for _, in := range v.Inputs {
		if r.nodes[in].ran.Load() {
			return prefix + "what it reads was made again: " + in.Name
		}
	}
	return prefix + "what it reads changed"
}

// cause is v, or where v was found in the cache what ran again below it.
func (r *run[R]) cause(v *Vertex[R]) *Vertex[R] {
	for p := v; p != nil && !p.Source; p = p.Parent {
		if r.nodes[p].ran.Load() {
			return p
		}
	}
	return v
}

// moved says which image that v is made from is another one than before, "" for none.
func (r *run[R]) moved(v *Vertex[R], before, notes []cache.Part) string {
	var sources []*Vertex[R]
	roles := map[*Vertex[R]]string{}
	if v.Parent != nil && v.Parent.Source && v.Parent.Pending == nil {
		sources, roles[v.Parent] = append(sources, v.Parent), "parent "
	}
	for _, in := range v.Inputs {
		if in.Source && in.Pending == nil {
			sources, roles[in] = append(sources, in), "input "
		}
	}
	for _, in := range sources {
		for _, p := range r.nodes[in].parts {
			old, now := values(before, roles[in]+p.Name), values(r.nodes[v].parts, roles[in]+p.Name)
			if old == now {
				continue
			}
			if was := values(notes, roles[in]+"title"); was != "" && was != in.Title {
				return fmt.Sprintf("%s, before it was %s", in.Title, strings.TrimPrefix(was, "FROM: "))
			}
			if old == "" || strings.Contains(old, "\x00") {
				return fmt.Sprintf("%s: it is another image than before", in.Title)
			}
			return fmt.Sprintf("%s moved %s → %s", in.Title, short(old), short(p.Value))
		}
	}
	return ""
}

// sourceNotes name the images that v is made from.
func sourceNotes[R any](v *Vertex[R]) []cache.Part {
	var notes []cache.Part
	if v.Parent != nil && v.Parent.Source {
		notes = append(notes, cache.Part{Name: "parent title", Value: v.Parent.Title})
	}
	for _, in := range v.Inputs {
		if in.Source {
			notes = append(notes, cache.Part{Name: "input title", Value: in.Title})
		}
	}
	return notes
}

// short is the beginning of a digest.
func short(digest string) string {
	const shown = len("sha256:") + 12
	if len(digest) <= shown {
		return digest
	}
	return digest[:shown] + "…"
}

// values joins the values of the parts of that name.
func values(parts []cache.Part, name string) string {
	var found []string
	for _, p := range parts {
		if p.Name == name {
			found = append(found, p.Value)
		}
	}
	return strings.Join(found, "\x00")
}

// changed says whether v itself is another one than in an earlier record, whatever becomes of what it is made from.
func (r *run[R]) changed(v *Vertex[R], earlier cache.Record) bool {
	return r.moved(v, earlier.Parts, earlier.Notes) != "" || v.Explain != nil && v.Explain(earlier, r.nodes[v].parts, nil) != ""
}

// disabled says that the cache finds nothing, as it was told.
func (r *run[R]) disabled(v *Vertex[R]) bool { return errors.Is(r.nodes[v].missed, cache.ErrDisabled) }
