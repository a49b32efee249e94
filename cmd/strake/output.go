package main

import (
	"encoding/csv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/strake-build/strake/layer/compress"
)

// outputType says where the result of a build goes.
type outputType string

// The types of outputs.
const (
	outputImage    outputType = "image"    // strake's store
	outputRegistry outputType = "registry" // pushed under its names
	outputOCI      outputType = "oci"      // an OCI layout in a tar, or in a folder with tar=false
	outputDocker   outputType = "docker"   // a tar that docker load takes
	outputTar      outputType = "tar"      // the file system as a tar
	outputLocal    outputType = "local"    // the file system as a folder
)

// output is one place that the result of a build goes to.
type output struct {
	kind        outputType
	dest        string // path, "-" for standard output; empty for image and registry
	folder      bool   // oci with tar=false
	tags        []name.Tag
	compression compress.Algorithm
}

// decideOutputs parses the values of -o and adds what --push asks for. Without any the image goes to the store.
func decideOutputs(env *environment, values []string, push bool, tags []name.Tag) ([]output, error) {
	var outputs []output
	stdout := 0
	for _, v := range values {
		o, pushed, err := parseOutput(env, v, tags)
		if err != nil {
			return nil, err
		}
		outputs = append(outputs, o)
		if pushed {
			outputs = append(outputs, output{kind: outputRegistry, tags: o.tags, compression: o.compression})
		}
		if o.dest == "-" {
			stdout++
		}
	}
	if stdout > 1 {
		return nil, usagef("only one output can go to standard output")
	}
	if len(values) == 0 {
		outputs = append(outputs, output{kind: outputImage, tags: tags, compression: compress.Gzip})
	}
	if push {
		outputs = append(outputs, output{kind: outputRegistry, tags: tags, compression: compress.Gzip})
	}
	for _, o := range outputs {
		if o.kind == outputRegistry && len(o.tags) == 0 {
			return nil, usagef("pushing needs a name: use -t REGISTRY/NAME:TAG")
		}
	}
	return outputs, nil
}

// parseOutput parses one value of -o, in docker's syntax: a folder, "-", or type=TYPE,KEY=VALUE…
func parseOutput(env *environment, value string, tags []name.Tag) (o output, push bool, err error) {
	o = output{tags: tags, compression: compress.Gzip}
	fields, err := csv.NewReader(strings.NewReader(value)).Read()
	if err != nil {
		return o, false, usagef("invalid -o %q: %w", value, err)
	}
	if len(fields) == 1 && !strings.Contains(value, "=") {
		o.kind, o.dest = outputLocal, value
		if value == "-" {
			o.kind = outputTar
		}
		return o, false, o.checkDest(env, value)
	}
	for _, field := range fields {
		k, v, ok := strings.Cut(field, "=")
		if !ok {
			return o, false, usagef("invalid -o %q: %q is not KEY=VALUE", value, field)
		}
		switch strings.ToLower(strings.TrimSpace(k)) {
		case "type":
			o.kind = outputType(v)
		case "dest", "output":
			o.dest = v
		case "name":
			if o.tags, err = parseTags(env, strings.Split(v, ",")); err != nil {
				return o, false, err
			}
		case "push":
			push, err = parseBool(value, k, v)
		case "tar":
			var tar bool
			tar, err = parseBool(value, k, v)
			o.folder = !tar
		case "compression":
			o.compression = compress.Algorithm(v)
			if o.compression != compress.Gzip && o.compression != compress.Zstd {
				err = usagef("invalid -o %q: compression is gzip or zstd", value)
			}
		default:
			err = usagef("invalid -o %q: %q is not supported", value, k)
		}
		if err != nil {
			return o, false, err
		}
	}
	return o, push, o.check(env, value, push)
}

// check refuses attributes that the type does not have.
func (o *output) check(env *environment, value string, push bool) error {
	switch o.kind {
	case outputImage, outputRegistry:
		if o.dest != "" {
			return usagef("invalid -o %q: type=%s has no dest", value, o.kind)
		}
	case outputOCI, outputDocker, outputTar, outputLocal:
		if push {
			return usagef("invalid -o %q: type=%s has no push", value, o.kind)
		}
	case "":
		return usagef("invalid -o %q: it has no type", value)
	default:
		return usagef("invalid -o %q: the type is image, registry, oci, docker, tar or local", value)
	}
	if o.folder && o.kind != outputOCI {
		return usagef("invalid -o %q: type=%s has no tar", value, o.kind)
	}
	if o.compression != compress.Gzip && (o.kind == outputDocker || o.kind == outputTar || o.kind == outputLocal) {
		return usagef("invalid -o %q: type=%s has no compression", value, o.kind)
	}
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
	switch strings.ToLower(v) {
	case "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	default:
		return false, usagef("invalid -o %q: %s is true or false", value, k)
	}
}
