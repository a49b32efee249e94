package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	maxManifest = 4 << 20 // the limit that the distribution specification asks registries for
	maxConfig   = 8 << 20
	maxNesting  = 4 // indexes in indexes
)

// manifestTypes are the manifests that are understood, for Accept.
var manifestTypes = []types.MediaType{
	types.OCIImageIndex, types.DockerManifestList, types.OCIManifestSchema1, types.DockerManifestSchema2,
}

// Resolve fetches the manifest and configuration that ref means for platform p; it follows an
// index, and every digest is checked. It fetches no layer. An index without the platform is an
// error that lists the platforms there are; an image that is in no index is returned whatever its platform is, as
// BuildKit does: the caller compares Config.Platform.
func (c *Client) Resolve(ctx context.Context, ref name.Reference, p v1.Platform) (*Manifest, error) {
	m, err := c.resolve(ctx, ref, p)
	if err != nil {
		return nil, fmt.Errorf("resolving %s: %w", displayRef(ref), c.explain(err))
	}
	return m, nil
}

func (c *Client) resolve(ctx context.Context, ref name.Reference, p v1.Platform) (*Manifest, error) {
	raw, d, err := c.fetchManifest(ctx, ref, v1.Descriptor{})
	if err != nil {
		return nil, err
	}
	m, err := c.descend(ctx, ref.Context(), raw, d, p, 0)
	if err != nil {
		return nil, err
	}
	m.RefDigest = d.Digest
	return m, nil
}

// descend turns a manifest into an image, through as many indexes as there are.
func (c *Client) descend(ctx context.Context, repo name.Repository, raw []byte, d v1.Descriptor, p v1.Platform, depth int) (*Manifest, error) {
	if d.MediaType.IsImage() {
		return c.image(ctx, repo, raw, d)
	}
	if !d.MediaType.IsIndex() {
		return nil, fmt.Errorf("manifest %s is not of an image (media type %q)", d.Digest, d.MediaType)
	}
	if depth == maxNesting {
		return nil, fmt.Errorf("more than %d indexes in each other", maxNesting)
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, fmt.Errorf("reading index %s: %w", d.Digest, err)
	}
	order, have := choose(index.Manifests, p)
	for _, child := range order {
		raw, cd, err := c.fetchManifest(ctx, repo.Digest(child.Digest.String()), child)
		if err != nil {
			return nil, fmt.Errorf("fetching the manifest for %s: %w", platformOf(child), err)
		}
		m, err := c.descend(ctx, repo, raw, cd, p, depth+1)
		var none *platformError
		if errors.As(err, &none) {
			have = append(have, none.have...)
			continue
		}
		if err != nil {
			return nil, err
		}
		if child.Platform != nil || rank(*m.Config.Platform(), vector(p)) >= 0 {
			return m, nil
		}
		have = append(have, *m.Config.Platform()) // an entry that does not tell its platform: the configuration does
	}
	return nil, &platformError{want: p, have: have}
}

// image reads an image's manifest and fetches its configuration.
func (c *Client) image(ctx context.Context, repo name.Repository, raw []byte, d v1.Descriptor) (*Manifest, error) {
	m := &Manifest{Digest: d.Digest, RefDigest: d.Digest, MediaType: d.MediaType, Raw: raw}
	if err := json.Unmarshal(raw, &m.Manifest); err != nil {
		return nil, fmt.Errorf("reading manifest %s: %w", d.Digest, err)
	}
	conf := m.Manifest.Config
	if _, err := v1.NewHash(conf.Digest.String()); err != nil {
		return nil, fmt.Errorf("manifest %s has no configuration", d.Digest)
	}
	for _, l := range append([]v1.Descriptor{conf}, m.Manifest.Layers...) {
		if _, err := v1.NewHash(l.Digest.String()); err != nil || l.Size < 0 {
			return nil, fmt.Errorf("manifest %s names a blob with a broken digest or size", d.Digest)
		}
	}
	if conf.Size > maxConfig {
		return nil, fmt.Errorf("configuration %s has %d bytes, more than %d", conf.Digest, conf.Size, maxConfig)
	}
	var err error
	if m.RawConfig, err = c.fetchSmall(ctx, repo, conf); err != nil {
		return nil, fmt.Errorf("fetching configuration %s: %w", conf.Digest, err)
	}
	if err := json.Unmarshal(m.RawConfig, &m.Config); err != nil {
		return nil, fmt.Errorf("%s is not a container image: reading its configuration (media type %q): %w", d.Digest, conf.MediaType, err)
	}
	if n, l := len(m.Config.RootFS.DiffIDs), len(m.Manifest.Layers); n != l {
		return nil, fmt.Errorf("%s is not a container image: its manifest has %d layers, its configuration (media type %q) %d", d.Digest, l, conf.MediaType, n)
	}
	return m, nil
}

// fetchSmall reads a whole blob, with its digest checked.
func (c *Client) fetchSmall(ctx context.Context, repo name.Repository, d v1.Descriptor) ([]byte, error) {
	r, err := c.open(ctx, repo, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var b bytes.Buffer
	b.Grow(int(d.Size))
	if _, err := b.ReadFrom(r); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// FetchManifest fetches the manifest or index that ref names, as served, with its digest checked; it follows nothing.
func (c *Client) FetchManifest(ctx context.Context, ref name.Reference) ([]byte, v1.Descriptor, error) {
	raw, d, err := c.fetchManifest(ctx, ref, v1.Descriptor{})
	if err != nil {
		return nil, v1.Descriptor{}, fmt.Errorf("fetching the manifest of %s: %w", displayRef(ref), c.explain(err))
	}
	return raw, d, nil
}

// fetchManifest fetches a manifest. want is the descriptor that an index has for it, or empty.
func (c *Client) fetchManifest(ctx context.Context, ref name.Reference, want v1.Descriptor) ([]byte, v1.Descriptor, error) {
	a, err := c.host(ref.Context().Registry).call(ctx, manifestRequest(http.MethodGet, ref), maxManifest, http.StatusOK)
	if err != nil {
		return nil, v1.Descriptor{}, err
	}
	mediaType, err := mediaTypeOf(a)
	if err != nil {
		return nil, v1.Descriptor{}, err
	}
	d := v1.Descriptor{MediaType: mediaType, Size: int64(len(a.body)), Digest: sum(a.body)}
	if dr, ok := ref.(name.Digest); ok {
		if err := checkDigest(a.body, dr.DigestStr()); err != nil {
			return nil, v1.Descriptor{}, err
		}
		if d.Digest, err = v1.NewHash(dr.DigestStr()); err != nil {
			return nil, v1.Descriptor{}, fmt.Errorf("%s: %w", ref, err)
		}
	} else if s := a.header.Get("Docker-Content-Digest"); s != "" {
		if err := checkDigest(a.body, s); err != nil {
			return nil, v1.Descriptor{}, err
		}
	}
	if want.Size != 0 && want.Size != d.Size {
		return nil, v1.Descriptor{}, fmt.Errorf("manifest %s has %d bytes, its index says %d", d.Digest, d.Size, want.Size)
	}
	return a.body, d, nil
}

// manifestRequest asks for a manifest (distribution specification, end-3).
func manifestRequest(method string, ref name.Reference) request {
	repo := ref.Context().RepositoryStr()
	accept := make([]string, 0, len(manifestTypes))
	for _, t := range manifestTypes {
		accept = append(accept, string(t))
	}
	return request{
		method: method,
		url:    "/v2/" + repo + "/manifests/" + ref.Identifier(),
		repo:   repo,
		scopes: []string{scope(repo, "pull")},
		header: http.Header{"Accept": {strings.Join(accept, ", ")}},
	}
}

// scope is what a token is asked for (Docker's token scope documentation).
func scope(repo, actions string) string { return "repository:" + repo + ":" + actions }

// mediaTypeOf finds out what a manifest is: from Content-Type, else from the content. What could be read as two kinds
// of manifest is refused (CVE-2021-41190).
func mediaTypeOf(a answer) (types.MediaType, error) {
	var m struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     types.MediaType   `json:"mediaType"`
		Manifests     []json.RawMessage `json:"manifests"`
		Config        json.RawMessage   `json:"config"`
		Layers        []json.RawMessage `json:"layers"`
		FSLayers      []json.RawMessage `json:"fsLayers"`
	}
	served, _, _ := strings.Cut(a.header.Get("Content-Type"), ";")
	mediaType := types.MediaType(strings.TrimSpace(served))
	if err := json.Unmarshal(a.body, &m); err != nil {
		return "", fmt.Errorf("reading the manifest (%s): %w", printable(served, 100), err)
	}
	if mediaType == types.DockerManifestSchema1 || mediaType == types.DockerManifestSchema1Signed || m.SchemaVersion == 1 || m.FSLayers != nil {
		return "", errors.New("the image has a manifest of Docker's schema 1, which has been out of use since 2017: push it again with a current tool")
	}
	if m.Manifests != nil && (m.Layers != nil || m.Config != nil) {
		return "", errors.New("the manifest is ambiguous: it has both manifests and layers")
	}
	known := mediaType.IsImage() || mediaType.IsIndex()
	if m.MediaType != "" {
		if known && m.MediaType != mediaType {
			return "", fmt.Errorf("the manifest is served as %s, but calls itself %s", mediaType, printable(string(m.MediaType), 100))
		}
		mediaType = m.MediaType
	} else if !known && m.Manifests != nil {
		mediaType = types.OCIImageIndex
	} else if !known && m.Config != nil {
		mediaType = types.OCIManifestSchema1
	}
	if mediaType.IsIndex() && (m.Layers != nil || m.Config != nil) || mediaType.IsImage() && m.Manifests != nil {
		return "", fmt.Errorf("the manifest's content does not fit its media type %s", mediaType)
	}
	return mediaType, nil
}

// sum is the digest of b.
func sum(b []byte) v1.Hash {
	s := sha256.Sum256(b)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(s[:])}
}

// checkDigest compares content with the digest it was asked for or is said to have.
func checkDigest(content []byte, want string) error {
	h, err := v1.NewHash(want)
	if err != nil {
		return fmt.Errorf("the digest %q: %w", printable(want, 100), err)
	}
	hasher, err := v1.Hasher(h.Algorithm)
	if err != nil {
		return err
	}
	hasher.Write(content)
	if got := hex.EncodeToString(hasher.Sum(nil)); got != h.Hex {
		return fmt.Errorf("the manifest's digest is %s:%s, but it should be %s", h.Algorithm, got, want)
	}
	return nil
}

// ResolveDigest returns digest, size and media type of the manifest or index that ref names, without fetching it if the
// registry answers HEAD with a digest. ref's own digest, if it has one, is not checked against content.
func (c *Client) ResolveDigest(ctx context.Context, ref name.Reference) (v1.Descriptor, error) {
	a, err := c.host(ref.Context().Registry).call(ctx, manifestRequest(http.MethodHead, ref), 0, http.StatusOK)
	var status *StatusError
	// GET also has an error message, which HEAD cannot have.
	tellsMore := errors.As(err, &status) && (status.Status == http.StatusMethodNotAllowed || status.Status == http.StatusNotFound || status.Status == http.StatusBadRequest)
	if err != nil && !tellsMore {
		return v1.Descriptor{}, fmt.Errorf("resolving %s: %w", displayRef(ref), c.explain(err))
	}
	if err == nil {
		d, ok := headDescriptor(a)
		if ok {
			return d, nil
		}
	}
	_, d, err := c.fetchManifest(ctx, ref, v1.Descriptor{})
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("resolving %s: %w", displayRef(ref), c.explain(err))
	}
	return d, nil
}

// headDescriptor reads the headers of a manifest.
func headDescriptor(a answer) (v1.Descriptor, bool) {
	digest, err := v1.NewHash(a.header.Get("Docker-Content-Digest"))
	if err != nil {
		return v1.Descriptor{}, false
	}
	served, _, _ := strings.Cut(a.header.Get("Content-Type"), ";")
	d := v1.Descriptor{Digest: digest, MediaType: types.MediaType(strings.TrimSpace(served))}
	if _, err := fmt.Sscan(a.header.Get("Content-Length"), &d.Size); err != nil || d.Size <= 0 {
		return v1.Descriptor{}, false
	}
	return d, d.MediaType.IsImage() || d.MediaType.IsIndex()
}

// PushManifest stores a manifest under ref (a tag, or a digest of repo). A tag that cannot be overwritten is fine when
// it has the same digest.
func (c *Client) PushManifest(ctx context.Context, ref name.Reference, raw []byte, mediaType types.MediaType) error {
	if len(raw) > maxManifest {
		return fmt.Errorf("pushing %s: the manifest has %d bytes, more than %d", displayRef(ref), len(raw), maxManifest)
	}
	if d, ok := ref.(name.Digest); ok {
		if err := checkDigest(raw, d.DigestStr()); err != nil {
			return fmt.Errorf("pushing %s: %w", displayRef(ref), err)
		}
	}
	repo := ref.Context().RepositoryStr()
	a, err := c.host(ref.Context().Registry).call(ctx, request{
		method: http.MethodPut,
		url:    "/v2/" + repo + "/manifests/" + ref.Identifier(),
		repo:   repo,
		scopes: []string{scope(repo, "pull,push")},
		header: http.Header{"Content-Type": {string(mediaType)}},
		body:   raw,
	}, maxErrorBody, http.StatusCreated, http.StatusOK, http.StatusAccepted, http.StatusNoContent)
	var status *StatusError
	if errors.As(err, &status) && status.Status/100 == 4 && status.Status != http.StatusUnauthorized && status.Status != http.StatusNotFound {
		if d, herr := c.ResolveDigest(ctx, ref); herr == nil && d.Digest == sum(raw) {
			return nil
		}
		if strings.Contains(strings.ToLower(status.Code+" "+status.Message), "immutable") {
			return fmt.Errorf("pushing %s: the tag exists with other content and cannot be overwritten: %w", displayRef(ref), err)
		}
	}
	if err != nil {
		return fmt.Errorf("pushing %s: %w", displayRef(ref), c.explain(withCreateHint(ref.Context(), err)))
	}
	if got, err := v1.NewHash(a.header.Get("Docker-Content-Digest")); err == nil && got.Algorithm == "sha256" && got != sum(raw) {
		return fmt.Errorf("pushing %s: the registry stored the manifest as %s, but it is %s", displayRef(ref), got, sum(raw))
	}
	return nil
}
