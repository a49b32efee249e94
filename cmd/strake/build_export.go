package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/builder/export"
	"github.com/strake-build/strake/builder/progress"
	"github.com/strake-build/strake/cmd/ui"
	"github.com/strake-build/strake/layer/image"
)

// export puts the image everywhere that opts say, and returns the last manifest that was made.
func (s *store) export(ctx context.Context, opts buildOptions, result *builder.Result, sink progress.Sink) (v1.Descriptor, error) {
	var made v1.Descriptor
	exporter, err := s.exporter()
	if err != nil {
		return made, err
	}
	for i, out := range opts.outputs {
		id := fmt.Sprintf("export-%d", i)
		sink(progress.Event{Time: s.env.now(), Kind: progress.Declared, Vertex: id, Name: out.name()})
		sink(progress.Event{Time: s.env.now(), Kind: progress.Started, Vertex: id})
		res, err := s.exportOne(ctx, exporter, out, result.Image, func(current int64) {
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

func (s *store) exportOne(ctx context.Context, e *export.Exporter, out output, img *image.Image, sent func(int64)) (res export.Result, err error) {
	layout := export.Layout{Names: out.tags, Codec: out.compression, Docker: out.kind == outputDocker}
	switch out.kind {
	case outputImage:
		if err := s.images.Put(img); err != nil {
			return res, fmt.Errorf("storing the image: %w", err)
		}
		for _, t := range out.tags {
			if err := s.images.Tag(t, img.ID); err != nil {
				return res, fmt.Errorf("storing the image as %s: %w", t, err)
			}
		}
		return res, nil
	case outputRegistry:
		sum := sumOf(sent)
		for _, t := range out.tags {
			if res, err = e.Push(ctx, img, t, out.compression, sum); err != nil {
				return res, err
			}
		}
		return res, nil
	case outputLocal:
		return res, e.Files(ctx, out.dest, img, s.env.now)
	case outputTar:
		return res, s.writeOutput(out.dest, func(w io.Writer) error { return e.Tar(ctx, w, img) })
	case outputOCI, outputDocker:
		if out.folder {
			return e.LayoutFolder(ctx, out.dest, img, layout)
		}
		return res, s.writeOutput(out.dest, func(w io.Writer) error {
			res, err = e.LayoutTar(ctx, w, img, layout)
			return err
		})
	default:
		return res, fmt.Errorf("unknown output %q", out.kind)
	}
}

// writeOutput writes a file, or standard output for "-".
func (s *store) writeOutput(dest string, write func(io.Writer) error) error {
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

// reportBuild prints the warnings and the ID, and writes the files that tell programs what was built.
func (s *store) reportBuild(opts buildOptions, file string, result *builder.Result, made v1.Descriptor) error {
	id := result.Image.ID.String()
	if opts.progress != "quiet" {
		for _, w := range result.Warnings {
			fmt.Fprintf(s.env.stderr, "warning: %s:%d: %s: %s\n", file, w.Range.Start, w.Rule, ui.Printable([]byte(w.Message)))
		}
		fmt.Fprintf(s.env.stderr, "built %s\n", id)
	}
	if opts.iidFile != "" {
		if err := writeFile(opts.iidFile, []byte(id), 0o644); err != nil {
			return err
		}
	}
	if opts.metadataFile != "" {
		if err := writeFile(opts.metadataFile, metadata(opts, id, made), 0o644); err != nil {
			return err
		}
	}
	if opts.printID {
		_, err := fmt.Fprintln(s.env.stdout, id)
		return err
	}
	return nil
}

// joinNames lists names for people.
func joinNames(tags []name.Tag, show func(name.Reference) string, separator string) string {
	names := make([]string, len(tags))
	for i, t := range tags {
		names[i] = show(t)
	}
	return strings.Join(names, separator)
}

// metadata is the content of --metadata-file, with docker's keys.
func metadata(opts buildOptions, id string, made v1.Descriptor) []byte {
	m := map[string]any{"containerimage.config.digest": id}
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
