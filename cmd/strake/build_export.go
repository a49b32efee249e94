package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/builder/export"
	"github.com/strake-build/strake/builder/progress"
	"github.com/strake-build/strake/cmd/ui"
	"github.com/strake-build/strake/dockerfile"
	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/runner"
)

// export puts the result everywhere that opts say, and returns the last manifest that was made.
func (j *job) export(ctx context.Context, results []*builder.Result, sink progress.Sink) (v1.Descriptor, error) {
	var made v1.Descriptor
	s := j.session
	exporter, err := s.exporter()
	if err != nil {
		return made, err
	}
	for _, c := range j.opts.cacheTo {
		if c.repository != "" {
			exporter.From = append(exporter.From, c.repository)
		}
	}
	artifact := export.Artifact{Index: j.opts.index}
	for _, r := range results {
		artifact.Images = append(artifact.Images, r.Image)
	}
	for i, out := range j.opts.outputs {
		artifact.Names, artifact.Epochs = out.tags, out.epochs(results)
		id := fmt.Sprintf("export-%d", i)
		sink(progress.Event{Time: s.env.now(), Kind: progress.Declared, Vertex: id, Name: out.name()})
		sink(progress.Event{Time: s.env.now(), Kind: progress.Started, Vertex: id})
		res, err := s.exportOne(ctx, exporter, out, artifact, func(current int64) {
			sink(progress.Event{Time: s.env.now(), Kind: progress.Transfer, Vertex: id, Current: current})
		})
		sink(progress.Event{Time: s.env.now(), Kind: progress.Completed, Vertex: id, Err: err})
		if err != nil {
			return made, err
		}
		if res.Descriptor.Size > 0 {
			made = res.Descriptor
		}
	}
	return made, nil
}

// epochs are the times of the files that a tar or a folder gets.
func (o output) epochs(results []*builder.Result) []*int64 {
	epochs := make([]*int64, len(results))
	for i, r := range results {
		epochs[i] = r.Epoch
		if o.epoch != nil {
			epochs[i] = o.epoch.Seconds
		}
	}
	return epochs
}

// name is how people see an output.
func (o output) name() string {
	switch o.kind {
	case outputImage:
		if len(o.tags) == 0 {
			return "storing the image"
		}
		return "storing " + joinNames(o.tags, familiarName, ", ")
	case outputRegistry:
		return "pushing " + joinNames(o.tags, canonicalName, ", ")
	default:
		dest := o.dest
		if dest == "-" {
			dest = "standard output"
		}
		return fmt.Sprintf("exporting type=%s to %s", o.kind, dest)
	}
}

// exportOne puts the result to one place. sent is told how many bytes a push has sent so far.
func (s *session) exportOne(ctx context.Context, e *export.Exporter, out output, a export.Artifact, sent func(int64)) (res export.Result, err error) {
	img := a.Images[0]
	switch out.kind {
	case outputImage:
		if err := s.Images.Put(img); err != nil {
			return res, fmt.Errorf("storing the image: %w", err)
		}
		for _, t := range out.tags {
			if err := s.Images.Tag(t, img.ID); err != nil {
				return res, fmt.Errorf("storing the image as %s: %w", t, err)
			}
		}
		if out.unpack {
			for _, l := range img.Layers {
				if _, err := s.Layers.Unpacked(ctx, l, nil); err != nil {
					return res, fmt.Errorf("unpacking the image: %w", err)
				}
			}
		}
		return res, nil
	case outputRegistry:
		sum := sumOf(sent)
		for _, t := range out.tags {
			if res, err = e.Push(ctx, a, t, out.options, sum); err != nil {
				return res, err
			}
		}
		return res, nil
	case outputLocal:
		for i, img := range a.Images {
			folder := out.dest
			if out.splits(a) {
				folder = filepath.Join(folder, platformFolder(img))
			}
			if err := e.Files(ctx, folder, img, a.Epoch(i), s.env.now); err != nil {
				return res, err
			}
		}
		return res, nil
	case outputTar:
		return res, s.writeOutput(out.dest, func(w io.Writer) error {
			if out.splits(a) {
				return e.SplitTar(ctx, w, a, platformFolder)
			}
			return e.Tar(ctx, w, img, a.Epoch(0))
		})
	case outputOCI, outputDocker:
		if out.folder {
			return e.LayoutFolder(ctx, out.dest, []export.Artifact{a}, out.options)
		}
		return res, s.writeOutput(out.dest, func(w io.Writer) error {
			res, err = e.LayoutTar(ctx, w, []export.Artifact{a}, out.options)
			return err
		})
	default:
		return res, fmt.Errorf("unknown output %q", out.kind)
	}
}

// splits says whether each platform gets a folder of its own.
func (o output) splits(a export.Artifact) bool {
	if o.split != nil {
		return *o.split
	}
	return a.Index
}

// platformFolder is the folder of a platform's files: linux_amd64, linux_arm_v7.
func platformFolder(img *image.Image) string {
	return strings.ReplaceAll(img.Config.Platform().String(), "/", "_")
}

// writeOutput writes a file, or standard output for "-".
func (s *session) writeOutput(dest string, write func(io.Writer) error) error {
	if dest == "-" {
		return write(s.env.stdout)
	}
	return export.WriteFile(dest, write)
}

// sumOf adds up the bytes of layers that are sent at once.
func sumOf(sent func(int64)) func(v1.Hash, int64) {
	var mu sync.Mutex
	var sum int64
	layers := make(map[v1.Hash]int64)
	return func(layer v1.Hash, current int64) {
		mu.Lock()
		defer mu.Unlock()
		sum += current - layers[layer]
		layers[layer] = current
		sent(sum)
	}
}

// writeNamed writes a file that a flag names.
func writeNamed(path string, data []byte) error {
	return export.WriteFile(path, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// report prints the warnings and the ID, and writes the files that tell programs what was built.
func (j *job) report(results []*builder.Result, made v1.Descriptor) error {
	opts, s := j.opts, j.session
	id := results[0].Image.ID.String()
	if opts.index && made.Size > 0 {
		id = made.Digest.String()
	}
	if err := j.reportFindings(results, id); err != nil {
		return err
	}
	if opts.iidFile != "" {
		if err := writeNamed(opts.iidFile, []byte(id)); err != nil {
			return err
		}
	}
	if opts.metadataFile != "" {
		if err := writeNamed(opts.metadataFile, metadata(opts, id, made, s.isolation)); err != nil {
			return err
		}
	}
	if opts.printID {
		_, err := fmt.Fprintln(s.env.stdout, id)
		return err
	}
	return nil
}

// reportFindings tells what lint rules found, and what was built, as the display would.
func (j *job) reportFindings(results []*builder.Result, id string) error {
	var found []dockerfile.Warning
	for _, r := range results {
		for _, w := range r.Warnings {
			if !slices.Contains(found, w) { // another platform's build finds the same
				found = append(found, w)
			}
		}
	}
	switch w := j.env.stderr; j.opts.progress {
	case "quiet":
		return nil
	case "rawjson":
		return ui.RawJSONLint(w, j.in.name, j.in.text, found)
	default:
		printWarnings(w, j.in.name, found)
		_, err := fmt.Fprintf(w, "built %s\n", id)
		return err
	}
}

// printWarnings counts the findings of the lint rules and says where each is.
func printWarnings(w io.Writer, file string, found []dockerfile.Warning) {
	if len(found) == 0 {
		return
	}
	fmt.Fprintf(w, "%s found (use --check to see the lines):\n", count(len(found), "warning"))
	for _, f := range found {
		fmt.Fprintf(w, " - %s:%d: %s: %s", file, f.Range.Start, f.Rule, ui.Printable([]byte(f.Message)))
		if f.URL != "" {
			fmt.Fprintf(w, " (%s)", f.URL)
		}
		fmt.Fprintln(w)
	}
}

// joinNames lists names for people.
func joinNames(tags []name.Tag, show func(name.Reference) string, separator string) string {
	names := make([]string, len(tags))
	for i, t := range tags {
		names[i] = show(t)
	}
	return strings.Join(names, separator)
}

// metadata is the content of --metadata-file, with docker's keys and one of strake's own.
func metadata(opts buildOptions, id string, made v1.Descriptor, i runner.Isolation) []byte {
	m := map[string]any{"strake.isolation": reportIsolation(i)}
	if !opts.index {
		m["containerimage.config.digest"] = id
	}
	if made.Size > 0 {
		m["containerimage.digest"] = made.Digest.String()
		m["containerimage.descriptor"] = made
	}
	if names := joinNames(opts.tags, canonicalName, ","); names != "" {
		m["image.name"] = names
	}
	raw, _ := json.MarshalIndent(m, "", "  ") //nolint:errchkjson // plain data: it cannot fail
	return append(raw, '\n')
}
