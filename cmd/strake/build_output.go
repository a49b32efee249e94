package main

import (
	"encoding/csv"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/builder/export"
	"github.com/strake-build/strake/layer/compress"
)

// outputType says where the result of a build goes.
type outputType string

// The types of outputs.
const (
	outputImage    outputType = "image"     // strake's store
	outputRegistry outputType = "registry"  // pushed under its names
	outputOCI      outputType = "oci"       // an OCI layout in a tar, or in a folder with tar=false
	outputDocker   outputType = "docker"    // a tar that docker load takes
	outputTar      outputType = "tar"       // the file system as a tar
	outputLocal    outputType = "local"     // the file system as a folder
	outputNone     outputType = "cacheonly" // nothing: the build is for the cache, or for its steps
)

// output is one place that the result of a build goes to.
type output struct {
	kind   outputType
	dest   string // path, "-" for standard output; empty for image and registry
	folder bool   // oci with tar=false
	tags   []name.Tag
	// split says whether local and tar have a folder for each platform; nil is only if there are several.
	split   *bool
	rewrite bool // rewrite-timestamp
	// epoch is source-date-epoch, where it is given.
	epoch  *builder.Epoch
	unpack bool // image: layers are unpacked, also those of the base
	// push, and store=false, ask for the outputs that pushed and skipped make.
	push, skip bool
	options    export.Options
}

// outputFlags are the flags that say where the result of a build goes, as they were typed.
type outputFlags struct {
	values, annotations []string
	push                bool
}

// decide parses the values of -o and adds what --push asks for. Without any the image goes to the store. An index of several
// platforms goes only where it is told to.
func (f outputFlags) decide(env *environment, tags []name.Tag, index bool) ([]output, error) {
	var outputs []output
	stdout := 0
	for _, v := range f.values {
		o, err := parseOutput(env, v, tags)
		if err != nil {
			return nil, err
		}
		if o.dest == "-" {
			stdout++
		}
		push := o
		if !o.skip && o.kind != outputNone && (!o.push || !index) {
			outputs = append(outputs, o)
		}
		if o.push && o.kind != outputRegistry {
			push.kind = outputRegistry
			outputs = append(outputs, push)
		}
	}
	if stdout > 1 {
		return nil, usagef("only one output can go to standard output")
	}
	standard := output{kind: outputImage, tags: tags, options: export.Options{Codec: compress.Gzip}}
	if len(f.values) == 0 && (!f.push || !index) {
		outputs = append(outputs, standard)
	}
	if f.push {
		standard.kind = outputRegistry
		outputs = append(outputs, standard)
	}
	for i := range outputs {
		o := &outputs[i]
		switch {
		case o.kind == outputRegistry && len(o.tags) == 0:
			return nil, usagef("pushing needs a name: use -t REGISTRY/NAME:TAG")
		case o.kind == outputImage && index:
			return nil, usagef("the store keeps images of one platform: use --push, -o type=oci,dest=FILE, or a build for each --platform")
		case o.kind == outputDocker && index:
			return nil, usagef("docker's archives hold no index of several platforms: use -o type=oci,dest=FILE")
		}
		if err := o.annotate(f.annotations, index); err != nil {
			return nil, err
		}
	}
	return outputs, nil
}

// parseOutput parses one value of -o, in docker's syntax: a folder, "-", or type=TYPE,KEY=VALUE…
func parseOutput(env *environment, value string, tags []name.Tag) (o output, err error) {
	o = output{tags: tags, options: export.Options{Codec: compress.Gzip}}
	if value == "" {
		return o, usagef(`invalid -o "": it is a folder, -, or type=TYPE[,KEY=VALUE…]`)
	}
	fields, err := csv.NewReader(strings.NewReader(value)).Read()
	if err != nil {
		return o, usagef("invalid -o %q: %w", value, err)
	}
	if len(fields) == 1 && !strings.Contains(value, "=") {
		o.kind, o.dest = outputLocal, value
		if value == "-" {
			o.kind = outputTar
		}
		return o, o.checkDest(env, value)
	}
	for _, field := range fields {
		k, v, ok := strings.Cut(field, "=")
		if !ok {
			return o, usagef("invalid -o %q: %q is not KEY=VALUE", value, field)
		}
		k = strings.TrimSpace(k)
		if err := o.set(env, value, strings.ToLower(k), k, v); err != nil {
			return o, err
		}
	}
	return o, o.check(env, value)
}

// times say what the outputs want of the times in the image. It is the image that has them, so all that write one must agree.
func times(outputs []output) (rewrite bool, epoch *builder.Epoch, err error) {
	var first *output
	for i := range outputs {
		o := &outputs[i]
		if o.rewrite != outputs[0].rewrite {
			return false, nil, usagef("rewrite-timestamp makes another image: ask for it in every output, or build twice")
		}
		if o.kind == outputTar || o.kind == outputLocal {
			continue // the times of their files are their own
		}
		if first == nil {
			first = o
		}
		if !o.epoch.Equal(first.epoch) {
			return false, nil, usagef("source-date-epoch makes another image: give every output the same, or build twice")
		}
	}
	if len(outputs) > 0 {
		rewrite = outputs[0].rewrite
	}
	if first != nil {
		epoch = first.epoch
	}
	return rewrite, epoch, nil
}

// check refuses attributes that the type does not have.
func (o *output) check(env *environment, value string) error {
	if o.kind == outputNone {
		return nil
	}
	switch o.kind {
	case outputImage, outputRegistry:
		if o.dest != "" {
			return usagef("invalid -o %q: type=%s has no dest", value, o.kind)
		}
	case outputOCI, outputDocker, outputTar, outputLocal:
	case "":
		return usagef("invalid -o %q: it has no type", value)
	default:
		return usagef("invalid -o %q: the type is image, registry, oci, docker, tar, local or cacheonly", value)
	}
	if err := o.checkPush(value); err != nil {
		return err
	}
	if o.folder && o.kind != outputOCI {
		return usagef("invalid -o %q: type=%s has no tar", value, o.kind)
	}
	if files := o.kind == outputTar || o.kind == outputLocal; files {
		switch {
		case o.options.Codec != compress.Gzip || o.options.Force || o.options.Level != nil:
			return usagef("invalid -o %q: type=%s has no compression", value, o.kind)
		case o.options.DockerTypes:
			return usagef("invalid -o %q: type=%s has no media types", value, o.kind)
		case len(o.options.Annotations) > 0:
			return usagef("invalid -o %q: type=%s has no annotations", value, o.kind)
		}
	} else if o.split != nil {
		return usagef("invalid -o %q: type=%s has no platform-split", value, o.kind)
	}
	if o.kind == outputImage && !o.push && o.given() {
		return usagef("invalid -o %q: the store keeps layers as they are; compression, media types and annotations are for pushing and for archives", value)
	}
	if o.options.DockerTypes && o.options.Codec == compress.Zstd {
		return usagef("invalid -o %q: docker has no media type for zstd", value)
	}
	if err := (compress.Encoder{Algorithm: o.options.Codec, Level: o.options.Level}).Check(); err != nil {
		return usagef("invalid -o %q: compression-level: %w", value, err)
	}
	o.options.Archive = o.kind == outputDocker
	return o.checkDest(env, value)
}

// checkDest makes sure that an output that writes files says where.
func (o *output) checkDest(env *environment, value string) error {
	switch {
	case o.kind == outputImage || o.kind == outputRegistry:
	case o.kind == outputLocal || o.folder:
		if o.dest == "" || o.dest == "-" {
			return usagef("invalid -o %q: it needs dest=FOLDER", value)
		}
	case o.dest == "":
		o.dest = "-"
		fallthrough
	case o.dest == "-":
		if isTerminal(env.stdout) {
			return usagef("invalid -o %q: refusing to write an archive to a terminal; use dest=FILE", value)
		}
	}
	return nil
}

func parseBool(value, k, v string) (bool, error) {
	b, err := strconv.ParseBool(strings.ToLower(v))
	if err != nil {
		return false, usagef("invalid -o %q: %s is true or false", value, k)
	}
	return b, nil
}
