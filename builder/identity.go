package builder

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/strake-build/strake/builder/solver"
	"github.com/strake-build/strake/builder/source"
	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/dockerfile"
)

// identify says which instruction a vertex is: by its text, and for one whose text changed by its place among those of its kind.
func (p *planner) identify(v *vertex, op *step, s *dockerfile.Stage, st dockerfile.Step) {
	kind := "RUN"
	switch st.Op.(type) {
	case *dockerfile.Copy: // ADD too
		kind = "COPY"
	case *dockerfile.Workdir:
		kind = "WORKDIR"
	}
	stage := s.String() + "\x00" + s.Platform.String()
	v.Title = title(st)
	v.Identity = []cache.Key{p.identity("text", stage, st.Text), p.identity("place", stage, kind)}
	p.explained(v, op)
}

// identifyFiles is identify for a part of a context that steps mount.
func (p *planner) identifyFiles(v *vertex, op *step, f contextFiles) {
	v.Title = v.Name
	v.Identity = []cache.Key{p.identity("context", f.context, f.path+"\x00"+f.dest)}
	p.explained(v, op)
}

func (p *planner) explained(v *vertex, op *step) {
	op.identity = v.Identity[0]
	v.Notes = op.notes
	v.Explain = func(earlier cache.Record, parts, content []cache.Part) string {
		return op.explain(p.ctx, earlier, parts, content)
	}
}

// identity is the key of the next instruction that these words say.
func (p *planner) identity(by, where, what string) cache.Key {
	name := strings.Join([]string{by, where, what}, "\x00\x00")
	p.counted[name]++
	return cache.NewKey([]cache.Part{
		{Name: "identity", Value: by},
		{Name: "project", Value: p.opt.Project},
		{Name: "where", Value: where},
		{Name: "what", Value: what},
		{Name: "n", Value: strconv.Itoa(p.counted[name])},
	})
}

// title is how what is said of an instruction begins.
func title(st dockerfile.Step) string {
	switch o := st.Op.(type) {
	case *dockerfile.Workdir:
		return "WORKDIR"
	case *dockerfile.Copy:
		word := "COPY"
		if o.Add {
			word = "ADD"
		}
		if f := o.From; f != nil {
			switch {
			case f.Stage != nil:
				return word + " --from=" + f.Stage.String()
			case f.Context != "":
				return word + " --from=" + f.Context
			default:
				return word + " --from=" + f.Image
			}
		}
		switch {
		case len(o.Sources) == 1:
			return word + " " + clip(o.Sources[0])
		case len(o.Sources) > 1:
			return fmt.Sprintf("%s %s …", word, clip(o.Sources[0]))
		}
		return word
	default:
		return "RUN"
	}
}

// clip makes a text short enough for a line that says more.
func clip(s string) string {
	const shown = 60
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > shown {
		return string(r[:shown-1]) + "…"
	}
	return s
}

// notes are what is kept of the step for explanations.
func (s *step) notes() []cache.Part {
	notes := []cache.Part{{Name: solver.IdentityNote, Value: s.identity.String()}}
	if s.bound != nil {
		notes = append(notes, cache.Part{Name: "time bound", Value: strconv.FormatInt(*s.bound, 10)})
	}
	if s.epoch != nil {
		notes = append(notes, cache.Part{Name: "time epoch", Value: strconv.FormatInt(*s.epoch, 10)})
	}
	if s.clamps() {
		notes = append(notes, cache.Part{Name: "time clamp", Value: "true"})
	}
	if w, ok := s.work.(*runWork); ok {
		for _, a := range w.run.Declared {
			notes = append(notes, cache.Part{Name: "ARG", Value: a})
		}
	}
	return notes
}

// timeNotes are those that say something of the times of files.
func timeNotes(notes []cache.Part) []cache.Part {
	return slices.DeleteFunc(slices.Clone(notes), func(n cache.Part) bool { return !strings.HasPrefix(n.Name, "time ") })
}

// list remembers which files a digest stands for, so that it can be told which of them changed.
func (w *copyWork) list(ctx context.Context, tree *source.Tree, items []source.Item, sum string) error {
	if w.Records == nil {
		return nil
	}
	found, err := tree.List(ctx, items, cache.MaxFiles)
	if err != nil || len(found) > cache.MaxFiles {
		return err
	}
	files := make([]cache.File, len(found))
	for i, f := range found {
		files[i] = cache.File{Path: f.Path, Sum: [8]byte(f.Sum[:8])}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.listed == nil {
		w.listed = map[cache.Key][]cache.File{}
	}
	w.listed[w.listKey(sum)] = files
	return nil
}

// listKey names the list of files of a digest.
func (w *copyWork) listKey(sum string) cache.Key { return cache.ListKey(sum, w.copy.Sources) }

// lists are the lists of the files of this build. Those of a context are made when they are first asked for: a build that
// does not miss needs none. What comes of trouble is a worse explanation.
func (w *copyWork) lists(ctx context.Context) map[cache.Key][]cache.File {
	if !w.fromStage {
		w.listOnce.Do(func() {
			groups, _ := w.resolved(ctx)
			for _, g := range groups {
				if len(g.items) > 0 {
					_ = w.list(ctx, w.tree, g.items, g.part.Value)
				}
			}
		})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.listed
}

// keepLists keeps the lists of the files that the step read, for the next build to compare with.
func (s *step) keepLists(ctx context.Context) {
	w, ok := s.work.(*copyWork)
	if !ok || s.Records == nil {
		return
	}
	for k, files := range w.lists(ctx) {
		_ = s.Records.SaveFiles(ctx, k, files)
	}
}
