package main

import (
	"strconv"
	"strings"

	"github.com/strake-build/strake/builder"
	"github.com/strake-build/strake/layer/compress"
)

// refusedKeys are attributes that docker's builder has and strake has not, each with what to do instead.
var refusedKeys = map[string]string{
	"registry.insecure":        "use the flag --insecure-registry HOST",
	"name-canonical":           "the store names images by tag and by ID, and by digest what was pushed or pulled",
	"dangling-name-prefix":     "an image without a name is kept by its ID, which --iidfile writes",
	"danging-name-empty-only":  "an image without a name is kept by its ID, which --iidfile writes", // as BuildKit spells it
	"dangling-name-empty-only": "an image without a name is kept by its ID, which --iidfile writes",
	"attestation-inline":       "no attestations are made",
	"attestation-prefix":       "no attestations are made",
	"sbom":                     "no attestations are made",
	"provenance":               "no attestations are made",
	"buildinfo":                "build information is no part of images any more: use --metadata-file",
	"buildinfo-attrs":          "build information is no part of images any more: use --metadata-file",
	"context":                  "write the archive with dest=FILE, and give it to docker --context NAME load",
}

// set sets one attribute of -o. key is lower-case, given as it was typed.
func (o *output) set(env *environment, value, key, given, v string) (err error) {
	switch key {
	case "type":
		o.kind = outputType(v)
	case "dest", "output":
		o.dest = v
	case "name":
		o.tags, err = parseTags(env, strings.Split(v, ","))
	case "compression":
		codec, ok := map[string]compress.Algorithm{"gzip": compress.Gzip, "zstd": compress.Zstd, "uncompressed": compress.None}[v]
		if !ok {
			return usagef("invalid -o %q: compression is gzip, zstd or uncompressed", value)
		}
		o.options.Codec = codec
	case "compression-level":
		var level int
		if level, err = strconv.Atoi(v); err != nil {
			return usagef("invalid -o %q: compression-level is a number", value)
		}
		o.options.Level = &level
	case "source-date-epoch":
		o.epoch = &builder.Epoch{}
		if v == "" { // no time, whatever the build has
			return nil
		}
		var seconds int64
		if seconds, err = strconv.ParseInt(v, 10, 64); err != nil {
			return usagef("invalid -o %q: source-date-epoch is a number of seconds since 1970, or empty for none", value)
		}
		o.epoch.Seconds = &seconds
	case "mode":
		if strings.ToLower(strings.TrimSpace(v)) != "copy" {
			return usagef("invalid -o %q: mode=%s is not supported: files are written over what is there; remove the folder before, to have nothing else in it", value, v)
		}
	default:
		return o.setBool(value, key, given, v)
	}
	return err
}

// setBool sets an attribute that is true or false. As in docker some mean true by being there: "push=".
func (o *output) setBool(value, key, given, v string) error {
	bare := map[string]bool{"push": true, "push-by-digest": true, "unpack": true, "store": true, "force-compression": true, "tar": true}
	why, refused := refusedKeys[key]
	switch {
	case refused:
		return usagef("invalid -o %q: %s is not supported: %s", value, given, why)
	case strings.HasPrefix(key, "attest:"):
		return usagef("invalid -o %q: %s is not supported: no attestations are made", value, given)
	case strings.HasPrefix(key, "annotation"):
		return o.addAnnotation(value, given, v)
	}
	if v == "" && bare[key] {
		v = "true"
	}
	var set func(bool)
	switch key {
	case "push":
		set = func(b bool) { o.push = b }
	case "push-by-digest":
		set = func(b bool) { o.options.ByDigest = b }
	case "store":
		set = func(b bool) { o.skip = !b }
	case "unpack":
		set = func(b bool) { o.unpack = b }
	case "tar":
		set = func(b bool) { o.folder = !b }
	case "force-compression":
		set = func(b bool) { o.options.Force = b }
	case "oci-mediatypes":
		set = func(b bool) { o.options.DockerTypes = !b }
	case "platform-split":
		set = func(b bool) { o.split = &b }
	case "rewrite-timestamp":
		set = func(b bool) { o.rewrite = b }
	case "oci-artifact", "prefer-nondist-layers":
	default:
		return usagef("invalid -o %q: %q is not supported", value, given)
	}
	b, err := parseBool(value, key, v)
	switch {
	case err != nil:
		return err
	case key == "oci-artifact" && b:
		return usagef("invalid -o %q: oci-artifact is for attestations, and none are made", value)
	case key == "prefer-nondist-layers" && !b:
		return usagef("invalid -o %q: a layer that may not be distributed keeps a media type that says so", value)
	case set != nil:
		set(b)
	}
	return nil
}

// checkPush refuses attributes of pushing and storing that contradict each other.
func (o *output) checkPush(value string) error {
	pushes := o.push || o.kind == outputRegistry
	switch {
	case o.kind != outputImage && o.kind != outputRegistry:
		for key, given := range map[string]bool{"push": o.push, "push-by-digest": o.options.ByDigest, "store": o.skip, "unpack": o.unpack} {
			if given {
				return usagef("invalid -o %q: type=%s has no %s", value, o.kind, key)
			}
		}
	case o.options.ByDigest && !pushes:
		return usagef("invalid -o %q: push-by-digest needs push=true", value)
	case o.unpack && (o.kind == outputRegistry || o.skip):
		return usagef("invalid -o %q: unpack is for images that are stored", value)
	case o.unpack && o.rewrite: // as in BuildKit
		return usagef("invalid -o %q: rewrite-timestamp and unpack exclude each other", value)
	}
	if o.options.ByDigest {
		for _, t := range o.tags {
			if t.TagStr() != "latest" {
				return usagef("invalid -o %q: push-by-digest pushes under no tag: leave out :%s", value, t.TagStr())
			}
		}
	}
	return nil
}
