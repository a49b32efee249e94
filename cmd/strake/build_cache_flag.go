package main

import (
	"crypto/ed25519"
	"encoding/csv"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/cache/remote"
	"github.com/strake-build/strake/layer/compress"
)

// cacheType is a kind of place that a cache is in.
type cacheType string

// The types of --cache-from and --cache-to.
const (
	cacheRegistry cacheType = "registry"
	cacheLocal    cacheType = "local"
	cacheInline   cacheType = "inline"
)

// cacheFlag is a value of --cache-from or --cache-to, parsed.
type cacheFlag struct {
	kind cacheType
	to   bool
	// open makes the back end; nil for inline. It does no input or output.
	open       func(j *job) remote.Backend
	repository string // "host/name" of one in a registry
	absent     string // why it is not there; it is told and nothing else
	// verify, of --cache-from, are whose entries are used; nil for everybody's.
	verify []ed25519.PublicKey
	// The following are of --cache-to.
	all     bool // mode=max
	encoder compress.Encoder
	force   bool // force-compression
	strict  bool // ignore-error=false
	sign    ed25519.PrivateKey
	// Cache mounts that are written, and how large one may be.
	mounts    []string
	allMounts bool
	mountsMax int64
}

// attributes are those of a flag that were not taken yet.
type attributes map[string]string

// take returns an attribute, and whether it is given.
func (a attributes) take(k string) (string, bool) {
	v, ok := a[k]
	delete(a, k)
	return v, ok
}

// takeBool takes an attribute that is true or false.
func (a attributes) takeBool(k string, otherwise bool) (bool, error) {
	v, ok := a.take(k)
	if !ok {
		return otherwise, nil
	}
	b, err := strconv.ParseBool(strings.ToLower(v))
	if err != nil {
		return false, fmt.Errorf("%s is true or false", k)
	}
	return b, nil
}

// refusedCacheKeys are attributes that docker has and strake has not, each with what to do instead.
var refusedCacheKeys = map[string]string{
	"registry.insecure": "use the flag --insecure-registry HOST",
	"touch_refresh":     "what is read is not written again; let the bucket's rule drop objects later",
	"repository":        "the token of a job says which repository it is",
	"ghtoken":           "the service is asked so seldom that its limits are not met",
}

// cacheValues are those that one value of a flag stands for: docker takes several names of images in one.
func cacheValues(value string) []string {
	if strings.Contains(value, "=") {
		return []string{value}
	}
	return strings.Split(value, ",")
}

// parseCacheFlag reads one of cacheValues in docker's syntax: type=TYPE,KEY=VALUE…, or the name of an image.
func parseCacheFlag(env *environment, value string, to bool) (cacheFlag, error) {
	flag := "--cache-from"
	if to {
		flag = "--cache-to"
	}
	invalid := func(format string, args ...any) error {
		return usagef("invalid %s %q: "+format, append([]any{flag, shownCache(value)}, args...)...)
	}
	if value == "" {
		return cacheFlag{}, invalid("it is type=TYPE,KEY=VALUE,… or the name of an image")
	}
	fields, err := csv.NewReader(strings.NewReader(value)).Read()
	if err != nil {
		return cacheFlag{}, invalid("%w", err)
	}
	attrs := attributes{}
	if !strings.Contains(value, "=") {
		attrs["type"], attrs["ref"] = string(cacheRegistry), value
	} else {
		last := ""
		for _, f := range fields {
			k, v, ok := strings.Cut(f, "=")
			switch {
			case ok:
				last = strings.ToLower(strings.TrimSpace(k))
				attrs[last] = v
			case last == "mounts": // mounts=ID,ID
				attrs[last] += "," + f
			default:
				return cacheFlag{}, invalid("%q is not KEY=VALUE", f)
			}
		}
	}
	kind, _ := attrs.take("type")
	c := cacheFlag{kind: cacheType(kind), to: to}
	if err := c.decide(env, attrs); err != nil {
		return cacheFlag{}, invalid("%w", err)
	}
	if left := slices.Sorted(maps.Keys(attrs)); len(left) > 0 {
		k := left[0]
		if why, ok := refusedCacheKeys[k]; ok {
			return cacheFlag{}, invalid("%s is not supported: %s", k, why)
		}
		return cacheFlag{}, invalid("type=%s has no %s", c.kind, k)
	}
	return c, nil
}

// decide takes the attributes that the type has.
func (c *cacheFlag) decide(env *environment, attrs attributes) (err error) {
	switch c.kind {
	case cacheRegistry:
		err = c.decideRegistry(env, attrs)
	case cacheLocal:
		err = c.decideLocal(env, attrs)
	case cacheHTTP:
		err = c.decideHTTP(env, attrs)
	case cacheS3:
		err = c.decideS3(env, attrs)
	case cacheGHA:
		err = c.decideGHA(env, attrs)
	case cacheInline:
		if !c.to {
			return errors.New("the cache in an image is read with --cache-from NAME")
		}
		if mode, ok := attrs.take("mode"); ok && mode != "min" {
			return fmt.Errorf("mode=%s is not possible: an image holds only its own layers; use type=registry", mode)
		}
		return nil
	case "":
		return errors.New("it has no type")
	default:
		return errors.New("the type is registry, local, http, s3, gha or inline")
	}
	if err == nil && c.to {
		err = c.decideTo(attrs)
	}
	if err == nil && c.to {
		err = c.decideMounts(attrs)
	}
	if err == nil {
		err = c.decideTrust(attrs)
	}
	return err
}

// decideRegistry takes the attributes of type=registry.
func (c *cacheFlag) decideRegistry(env *environment, attrs attributes) error {
	v, _ := attrs.take("ref")
	if v == "" {
		return errors.New("it needs ref=NAME")
	}
	ref, err := env.registry().ParseReference(v)
	if err != nil {
		return err
	}
	if _, digest := ref.(name.Digest); digest && c.to {
		return errors.New("a cache is written to a tag and not to a digest")
	}
	c.repository = ref.Context().Name()
	c.open = func(j *job) remote.Backend {
		return &remote.Registry{Client: j.registry, Ref: ref, Platforms: j.opts.platforms, From: j.repositories(), Now: j.env.now}
	}
	return nil
}

// decideLocal takes the attributes of type=local.
func (c *cacheFlag) decideLocal(env *environment, attrs attributes) error {
	key := "src"
	if c.to {
		key = "dest"
	}
	dir, _ := attrs.take(key)
	if dir == "" {
		return fmt.Errorf("it needs %s=FOLDER", key)
	}
	l := remote.Local{Dir: dir, Tag: "latest", Now: env.now}
	if tag, ok := attrs.take("tag"); ok {
		l.Tag = tag
	}
	var err error
	if c.to {
		if l.Reset, err = attrs.takeBool("reset", false); err != nil {
			return err
		}
	} else if digest, ok := attrs.take("digest"); ok {
		if l.Digest, err = v1.NewHash(digest); err != nil {
			return fmt.Errorf("digest: %w", err)
		}
	}
	c.open = func(*job) remote.Backend {
		return &remote.Local{Dir: l.Dir, Tag: l.Tag, Digest: l.Digest, Reset: l.Reset, Now: l.Now}
	}
	return nil
}

// decideTo takes the attributes that say how a cache is written.
func (c *cacheFlag) decideTo(attrs attributes) (err error) {
	switch mode, _ := attrs.take("mode"); mode {
	case "", "min":
	case "max":
		c.all = true
	default:
		return errors.New("mode is min or max")
	}
	c.encoder = compress.Gzip.Encoder()
	if v, ok := attrs.take("compression"); ok {
		algorithm, ok := map[string]compress.Algorithm{"gzip": compress.Gzip, "zstd": compress.Zstd, "uncompressed": compress.None}[v]
		if !ok {
			return errors.New("compression is gzip, zstd or uncompressed")
		}
		c.encoder.Algorithm = algorithm
	}
	if v, ok := attrs.take("compression-level"); ok {
		level, err := strconv.Atoi(v)
		if err != nil {
			return errors.New("compression-level is a number")
		}
		c.encoder.Level = &level
	}
	if err := c.encoder.Check(); err != nil {
		return err
	}
	if c.force, err = attrs.takeBool("force-compression", false); err != nil {
		return err
	}
	ignore, err := attrs.takeBool("ignore-error", true)
	if err != nil {
		return err
	}
	c.strict = !ignore
	for _, k := range []string{"image-manifest", "oci-mediatypes"} {
		on, err := attrs.takeBool(k, true)
		if err != nil {
			return err
		}
		if !on {
			return fmt.Errorf("%s=false is not supported: a cache is an OCI image manifest, which all registries take", k)
		}
	}
	return nil
}

// decideTrust takes the attributes that say whom the reader of a cache trusts.
func (c *cacheFlag) decideTrust(attrs attributes) error {
	key := "verify-key"
	if c.to {
		key = "sign-key"
	}
	file, ok := attrs.take(key)
	if !ok {
		return nil
	}
	text, err := os.ReadFile(file)
	if err == nil && c.to {
		c.sign, err = remote.ParseSigningKey(text)
	} else if err == nil {
		c.verify, err = remote.ParseVerifyKeys(text)
	}
	if err != nil {
		return fmt.Errorf("%s=%s: %w", key, file, err)
	}
	return nil
}

// decideMounts takes the attributes that say which cache mounts are written.
func (c *cacheFlag) decideMounts(attrs attributes) (err error) {
	list, given := attrs.take("mounts")
	if most, ok := attrs.take("mounts-max"); ok {
		if !given {
			return errors.New("mounts-max is of mounts=ID,… or mounts=all, which is not given")
		}
		if c.mountsMax, err = parseSize("mounts-max", most); err != nil || c.mountsMax <= 0 {
			return errors.New("mounts-max is a size, such as 2g")
		}
	}
	if !given {
		return nil
	}
	for id := range strings.SplitSeq(list, ",") {
		switch id = strings.TrimSpace(id); id {
		case "":
			return errors.New("mounts is a list of ids of cache mounts, or all")
		case "all":
			c.allMounts = true
		default:
			c.mounts = append(c.mounts, id)
		}
	}
	return nil
}

// secretCacheKeys are attributes whose values are shown to nobody.
var secretCacheKeys = map[string]bool{"secret_access_key": true, "session_token": true, "access_key_id": true, "token": true, "ghtoken": true}

// shownCache is a value of --cache-from or --cache-to without what is secret.
func shownCache(value string) string {
	fields := strings.Split(value, ",")
	for i, f := range fields {
		k, v, ok := strings.Cut(f, "=")
		key := strings.ToLower(strings.Trim(k, "\" "))
		switch {
		case ok && secretCacheKeys[key]:
			fields[i] = k + "=…"
		case ok && strings.Contains(v, "@") && strings.Contains(v, "://"):
			u, err := url.Parse(strings.Trim(v, "\""))
			if err != nil {
				fields[i] = k + "=…"
				continue
			}
			u.User = nil
			fields[i] = k + "=" + u.String()
		}
	}
	return strings.Join(fields, ",")
}

// decideCaches decides where caches are.
func (f *buildFlags) decideCaches(env *environment, opts *buildOptions) error {
	var err error
	if opts.cacheFrom, err = parseCacheFlags(env, f.cacheFrom, false); err != nil {
		return err
	}
	opts.cacheTo, err = parseCacheFlags(env, f.cacheTo, true)
	return err
}

func parseCacheFlags(env *environment, values []string, to bool) ([]cacheFlag, error) {
	var all []cacheFlag
	for _, list := range values {
		for _, v := range cacheValues(list) {
			c, err := parseCacheFlag(env, v, to)
			if err != nil {
				return nil, err
			}
			all = append(all, c)
		}
	}
	return all, nil
}
