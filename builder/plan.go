package builder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/builder/device"
	"github.com/strake-build/strake/builder/solver"
	"github.com/strake-build/strake/builder/source"
	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/dockerfile"
	"github.com/strake-build/strake/layer/image"
)

type vertex = solver.Vertex[filesystem]

// plan is the solver's graph of a build.
type plan struct {
	vertices []*vertex // each after those that it needs
	target   *planned
	warnings []dockerfile.Warning
}

// planned is a stage that was lowered to vertices.
type planned struct {
	top   *vertex // nil for an empty file system
	state dockerfile.State
	base  *image.Image // at the bottom of its chain; nil for scratch
	below *planned     // the stage that it is on; nil if that is none of this file
	own   []v1.History // of its steps, without times
	vague bool         // an entry of history is ambiguous
}

// note adds the entry of a step.
func (pl *planned) note(h v1.History) {
	pl.own = append(pl.own, h)
	pl.vague = pl.vague || ambiguous(h)
}

// history is that of the steps of pl and the stages that it is on, without times. Stages share it: there may be many on each other.
func (pl *planned) history() []v1.History {
	var chain [][]v1.History
	for ; pl != nil; pl = pl.below {
		chain = append(chain, pl.own)
	}
	slices.Reverse(chain)
	return slices.Concat(chain...)
}

// planner lowers stages, each once, when another asks for it: what nobody needs is never looked at.
type planner struct {
	*build
	ctx      context.Context //nolint:containedctx // it lives exactly as long as the call of plan
	graph    *dockerfile.Graph
	plan     plan
	stages   map[*dockerfile.Stage]*planned
	images   map[imageKey]func() (*image.Image, error)
	froms    map[imageKey]*vertex
	contexts map[imageKey]func() (Context, error)
	loads    map[contextFiles]*vertex
	taken    map[*source.Tree]*source.Taken
	devices  *device.Registry // nil until a step asks for a device
	counted  map[string]int   // instructions by what identifies them
}

type imageKey struct {
	ref      string
	platform string
}

func (b *build) plan(ctx context.Context, g *dockerfile.Graph) (*plan, error) {
	p := &planner{
		build: b, ctx: ctx, graph: g, stages: map[*dockerfile.Stage]*planned{},
		counted: map[string]int{},
		images:  map[imageKey]func() (*image.Image, error){}, froms: map[imageKey]*vertex{}, contexts: map[imageKey]func() (Context, error){}, loads: map[contextFiles]*vertex{}, taken: map[*source.Tree]*source.Taken{},
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, s := range g.Stages {
		if s.Base.Image != "" { // all bases at once; stage reports what went wrong
			resolve := p.image(s.Base.Image, s.Platform)
			wg.Go(func() { _, _ = resolve() })
		}
	}
	var err error
	if p.plan.target, err = p.stage(g.Target); err != nil {
		return nil, err
	}
	for v := p.plan.target.top; v != nil; v = v.Parent {
		if s, ok := v.Op.(*step); ok {
			s.exported = true
		}
	}
	p.plan.warnings = append(slices.Clone(g.Warnings), p.plan.warnings...)
	return &p.plan, g.Violation(p.plan.warnings)
}

// onImage starts a stage on an image.
func (pl *planned) onImage(img *image.Image) {
	pl.base = img
	pl.state = dockerfile.BaseState(img.Config)
	pl.state.StartInterval = startInterval(img.RawConfig)
}

// programs is the platform that the programs of a stage for the platform want are for: its base may be an image for another one.
func (pl *planned) programs(want v1.Platform) v1.Platform {
	if pl.base == nil || pl.base.Config.Architecture == "" || pl.base.Config.Architecture == want.Architecture {
		return want
	}
	return *pl.base.Config.Platform()
}

// context returns the function that opens a named context, once.
func (p *planner) context(name string, platform v1.Platform) func() (Context, error) {
	k := imageKey{name, platform.String()}
	if p.contexts[k] == nil {
		open := p.opt.Contexts[name]
		p.contexts[k] = sync.OnceValues(func() (Context, error) {
			if open == nil {
				return Context{}, fmt.Errorf("internal error: the context %s is not given", name)
			}
			return open(p.ctx, platform)
		})
	}
	return p.contexts[k]
}

// image returns the function that resolves ref, once.
func (p *planner) image(ref string, platform v1.Platform) func() (*image.Image, error) {
	k := imageKey{ref, platform.String()}
	if p.images[k] == nil {
		p.images[k] = sync.OnceValues(func() (*image.Image, error) { return p.Resolver.Resolve(p.ctx, ref, platform) })
	}
	return p.images[k]
}

func (p *planner) stage(s *dockerfile.Stage) (*planned, error) {
	if done := p.stages[s]; done != nil {
		return done, nil
	}
	if err := context.Cause(p.ctx); err != nil {
		return nil, err
	}
	from := &planned{}
	switch {
	case s.Base.Stage != nil:
		below, err := p.stage(s.Base.Stage)
		if err != nil {
			return nil, err
		}
		*from = *below
		from.below = below
	case s.Base.Image != "":
		img, err := p.image(s.Base.Image, s.Platform)()
		if err != nil {
			return nil, p.at(s, s.Range, "FROM "+s.Base.Image, err)
		}
		from.onImage(img)
	case s.Base.Context != "":
		c, err := p.context(s.Base.Context, s.Platform)()
		if err != nil {
			return nil, p.at(s, s.Range, "FROM "+s.Base.Context, err)
		}
		if c.Image != nil {
			from.onImage(c.Image)
		} else {
			from.top = p.files(contextFiles{s.Base.Context, c.Tree, "/", "/"}, s, s.Range)
		}
	}
	steps, state, err := p.graph.Expand(s, from.state)
	if err != nil {
		return nil, err
	}
	name := cmp.Or(s.Base.Image, s.Base.Context)
	pulls := name != "" && from.top == nil
	n := p.newNumbers(s, steps, pulls)
	if pulls {
		from.top = p.from(n.next()+"FROM "+name, name, s.Platform, from.base)
	}
	st := &planned{top: from.top, state: state, base: from.base, below: from.below, vague: from.vague}
	for _, step := range steps {
		st.note(step.History)
		if step.Op == nil {
			continue
		}
		if st.top, err = p.step(s, step, n.next(), st); err != nil {
			return nil, err
		}
	}
	p.stages[s] = st
	p.plan.warnings = append(p.plan.warnings, state.Warnings...)
	return st, nil
}

// from is the vertex of an image: it says which layers there are and fetches none.
func (p *planner) from(label, ref string, platform v1.Platform, img *image.Image) *vertex {
	k := imageKey{ref, platform.String()}
	if p.froms[k] == nil {
		v := &vertex{Name: label, Title: "FROM: " + ref, Source: true, Op: fromOp{img}}
		if open := p.contexts[k]; open != nil {
			c, _ := open() // img is of it
			v.Pending = c.Pending
		}
		p.froms[k] = p.add(v)
	}
	return p.froms[k]
}

func (p *planner) add(v *vertex) *vertex {
	v.ID = p.opt.label + fmt.Sprint(len(p.plan.vertices)+1)
	p.plan.vertices = append(p.plan.vertices, v)
	return v
}

// step lowers one instruction on top of parent, the part of its stage before it.
func (p *planner) step(s *dockerfile.Stage, st dockerfile.Step, label string, parent *planned) (*vertex, error) {
	v := &vertex{Name: label + st.Name, Parent: parent.top, Fresh: p.isFresh(s), Wrap: func(err error) error { return p.at(s, st.Range, st.Text, err) }}
	op := &step{build: p.build, vertex: v}
	switch o := st.Op.(type) {
	case *dockerfile.Run:
		if err := p.entitled(o); err != nil {
			return nil, p.at(s, st.Range, st.Text, err)
		}
		w := &runWork{build: p.build, vertex: v, run: o, platform: parent.programs(s.Platform)}
		if err := p.resolveDevices(w); err != nil {
			return nil, p.at(s, st.Range, st.Text, err)
		}
		if err := p.mountInputs(s, st, w); err != nil {
			return nil, err
		}
		op.work = w
	case *dockerfile.Workdir:
		op.work = &workdirWork{build: p.build, vertex: v, dir: o.Dir, user: o.User, at: p.epoch}
	case *dockerfile.Copy:
		c := &copyWork{build: p.build, vertex: v, copy: o, tree: p.opt.Context}
		if o.From != nil {
			in, tree, err := p.input(s, st, o.From)
			if err != nil {
				return nil, err
			}
			c.tree, c.fromStage = tree, tree == nil
			if in != nil {
				v.Inputs = []*vertex{in}
			}
		}
		c.taken = p.take(c.tree, o.Sources...)
		op.work = c
	default:
		return nil, p.at(s, st.Range, st.Text, fmt.Errorf("internal error: no lowering for %T", o))
	}
	v.Op, v.Further = op, p.inHistory(st, parent)
	p.identify(v, op, s, st)
	return p.add(v), nil
}

// isFresh says whether the steps of s run whatever the cache holds.
func (p *planner) isFresh(s *dockerfile.Stage) bool {
	return s.Name != "" && slices.ContainsFunc(p.opt.FreshStages, func(n string) bool { return strings.EqualFold(n, s.Name) })
}

// mountInputs adds the inputs of a RUN: what its mounts are made from.
func (p *planner) mountInputs(s *dockerfile.Stage, st dockerfile.Step, w *runWork) error {
	for _, m := range w.run.Mounts {
		var in *vertex
		var err error
		tree, inContext := p.opt.Context, m.From == nil && m.Type == dockerfile.MountBind
		var name string
		if m.From != nil {
			if in, tree, err = p.input(s, st, m.From); err != nil {
				return err
			}
			inContext, name = tree != nil, m.From.Context
		}
		if inContext {
			in = p.files(contextFiles{name, tree, m.Source, contextMount}, s, st.Range)
		}
		w.inContext = append(w.inContext, inContext)
		n := -1
		if in != nil {
			n = len(w.vertex.Inputs)
			w.vertex.Inputs = append(w.vertex.Inputs, in)
		}
		w.mountInputs = append(w.mountInputs, n)
	}
	return nil
}

// take notes that a step takes sources of a context, and returns what all steps take of it, once the plan is made. It is nil for the file system of a stage.
func (p *planner) take(tree *source.Tree, sources ...string) *source.Taken {
	if tree == nil {
		return nil
	}
	if p.taken[tree] == nil {
		p.taken[tree] = &source.Taken{}
	}
	t := p.taken[tree]
	t.Patterns = append(t.Patterns, sources...)
	return t
}

// contextMount is where what is mounted of a context is in the file system that is made of it.
const contextMount = "/context"

// contextFiles is a part of a context, a folder or a file, in a file system of its own at dest: what a step sees
// of a context is a copy, so neither what .dockerignore excludes nor what changes meanwhile.
type contextFiles struct {
	context string // its name; empty is the build context
	tree    *source.Tree
	path    string
	dest    string
}

// files is the vertex of a part of a context.
func (p *planner) files(f contextFiles, s *dockerfile.Stage, r dockerfile.Range) *vertex {
	if v := p.loads[f]; v != nil {
		return v
	}
	name := "[" + cmp.Or(f.context, "context") + "] load " + f.path
	v := &vertex{Name: name, Wrap: func(err error) error { return p.at(s, r, "", err) }}
	op := &step{build: p.build, vertex: v, private: true, work: &copyWork{
		build: p.build, vertex: v, tree: f.tree, taken: p.take(f.tree, f.path),
		copy: &dockerfile.Copy{Sources: []string{f.path}, Dest: f.dest}, itself: true,
	}}
	v.Op = op
	p.identifyFiles(v, op, f)
	p.loads[f] = p.add(v)
	return v
}

// input is what a COPY --from or a mount reads: the file system of a vertex (nil is an empty one), or the tree of a named context.
func (p *planner) input(s *dockerfile.Stage, st dockerfile.Step, from *dockerfile.Source) (*vertex, *source.Tree, error) {
	switch {
	case from.Stage != nil:
		in, err := p.stage(from.Stage)
		if err != nil {
			return nil, nil, err
		}
		return in.top, nil, nil
	case from.Context != "":
		c, err := p.context(from.Context, s.Platform)()
		if err != nil {
			return nil, nil, p.at(s, st.Range, st.Text, err)
		}
		if c.Image != nil {
			return p.from("FROM "+from.Context, from.Context, s.Platform, c.Image), nil, nil
		}
		return nil, c.Tree, nil
	case from.Image != "":
		img, err := p.image(from.Image, s.Platform)()
		if err != nil {
			return nil, nil, p.at(s, st.Range, st.Text, err)
		}
		p.plan.warnings = append(p.plan.warnings, p.graph.LintImage(from.Image, s.Platform, img.Config, st.Range)...)
		return p.from("FROM "+from.Image, from.Image, s.Platform, img), nil, nil
	default:
		return nil, nil, nil // scratch
	}
}

// at puts an error into the Dockerfile's words, once.
func (p *planner) at(s *dockerfile.Stage, r dockerfile.Range, text string, err error) error {
	var located *dockerfile.Error
	if errors.As(err, &located) {
		return err
	}
	return &dockerfile.Error{File: p.graph.File.Name, Source: p.graph.File.Source, Range: r, Stage: s.String(), Instruction: text, Err: err}
}

// numbers labels the steps of a stage, "[build 2/5] ", as BuildKit counts them: the pull of
// a base and every instruction that makes a layer. A file with one stage needs no stage name.
type numbers struct {
	stage   string
	i, last int
}

func (p *planner) newNumbers(s *dockerfile.Stage, steps []dockerfile.Step, pulls bool) *numbers {
	n := &numbers{}
	if p.opt.label != "" {
		n.stage = p.opt.label + " "
	}
	if len(p.graph.File.Stages) > 1 {
		n.stage += s.String() + " "
	}
	if pulls {
		n.last++
	}
	for _, st := range steps {
		if st.Op != nil {
			n.last++
		}
	}
	return n
}

func (n *numbers) next() string {
	n.i++
	return fmt.Sprintf("[%s%*d/%d] ", n.stage, len(fmt.Sprint(n.last)), n.i, n.last)
}

// fromOp describes the layers of an image.
type fromOp struct{ img *image.Image }

func (o fromOp) Parts(context.Context) ([]cache.Part, error) {
	// The configuration's digest covers the layers' diffIDs: the same image is the same base from every registry.
	return []cache.Part{{Name: "image", Value: o.img.ID.String()}}, nil
}

func (o fromOp) ContentParts(ctx context.Context, _ filesystem, _ []filesystem) ([]cache.Part, error) {
	return o.Parts(ctx)
}

func (o fromOp) Load(filesystem, cache.Record) filesystem { return o.filesystem() }

func (o fromOp) Run(context.Context, filesystem, []filesystem, *cache.Record) (filesystem, cache.Record, error) {
	return o.filesystem(), cache.Record{}, nil
}

func (o fromOp) Portable(filesystem, []cache.Part) (cache.Key, bool) { return cache.Key{}, false }

func (o fromOp) Fits(context.Context, filesystem, cache.Record) bool { return true }

func (o fromOp) Place(_ filesystem, r cache.Record) cache.Record { return r }

func (o fromOp) Differences(context.Context, cache.Record, cache.Record) ([]string, error) {
	return nil, nil
}

func (o fromOp) filesystem() filesystem {
	var f filesystem
	for i := range o.img.Layers {
		f.layers = append(f.layers, layerRef{base: &o.img.Layers[i]})
	}
	return f
}
