package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/layer/image"
)

// assemble makes the image of a stage from its configuration and layers.
func (b *build) assemble(ctx context.Context, p *planned, f filesystem, t *travel) (*image.Image, error) {
	config := p.state.Config
	img := &image.Image{}
	config.RootFS = v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{}}
	var made []time.Time
	for _, l := range f.layers {
		layer := image.Layer{}
		if l.base != nil {
			layer = *l.base
		} else {
			diffID, _, err := b.Snapshots.DiffID(ctx, l.made)
			if err != nil {
				return nil, fmt.Errorf("computing the digest of a layer: %w", err)
			}
			layer.DiffID = diffID
		}
		if l.step {
			made = append(made, l.created)
		}
		img.Layers = append(img.Layers, layer)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, layer.DiffID)
	}
	var base []v1.History
	if p.base != nil {
		base = p.base.Config.History
	}
	config.History, config.Created = history(base, p.history(), made, times{b.epoch, b.bound})
	config.History = fitHistory(config.History, len(f.layers), config.Created)
	if len(b.opt.Labels) > 0 {
		labels := maps.Clone(config.Config.Labels)
		if labels == nil {
			labels = map[string]string{}
		}
		maps.Copy(labels, b.opt.Labels)
		config.Config.Labels = labels
	}
	var inline json.RawMessage
	if b.opt.InlineCache {
		var err error
		if inline, err = t.inline(p.top, len(f.layers), times{b.epoch, b.bound}); err != nil {
			return nil, err
		}
	}
	raw, err := marshal(config, p.state.StartInterval, inline)
	if err != nil {
		return nil, fmt.Errorf("encoding the image configuration: %w", err)
	}
	if len(raw) > maxConfig {
		return nil, fmt.Errorf("the image configuration would have %d bytes, more than %d MiB: nobody could pull it; say less in labels, ports, variables and the history", len(raw), maxConfig>>20)
	}
	img.RawConfig, img.Config = raw, config
	img.ID, _, err = v1.SHA256(bytes.NewReader(raw))
	return img, err
}

// maxConfig is how large the configuration of an image may be, in bytes: as large as one that is pulled.
const maxConfig = 8 << 20

// times are what the build says of the times of entries, in seconds since 1970; nil is nothing.
type times struct {
	epoch *int64 // what every entry has
	bound *int64 // what none is later than
}

// of is the time of an entry whose layer was made at t.
func (b times) of(t v1.Time) v1.Time {
	if b.epoch != nil {
		t.Time = time.Unix(*b.epoch, 0).UTC()
	}
	if b.bound != nil && t.After(time.Unix(*b.bound, 0)) {
		t.Time = time.Unix(*b.bound, 0).UTC()
	}
	return t
}

// history joins the base's entries and the build's, and gives each of the build's a time: that of its
// layer, or for an entry without one that of the layer before it, or else of the first layer made. So a
// cached build, whose layers keep their times, gives the same bytes. Limits are for the build's entries. The time of the image is that
// of its last entry.
func history(base, own []v1.History, made []time.Time, limits times) ([]v1.History, v1.Time) {
	all := append([]v1.History{}, base...)
	var now v1.Time
	if len(made) > 0 {
		now.Time = made[0]
	} else if len(base) > 0 {
		now = base[len(base)-1].Created
	}
	for _, h := range own {
		if !h.EmptyLayer && len(made) > 0 {
			now.Time, made = made[0], made[1:]
		}
		h.Created = limits.of(now)
		all = append(all, h)
	}
	if len(own) > 0 {
		now = limits.of(now)
	}
	return all, now
}

// fitHistory makes as many entries with a layer as there are layers, as readers of images count on and as BuildKit does: what a base says too much is taken
// for empty, and for a layer that nothing tells of, as of a folder that a stage begins with, there is an entry more at the end.
func fitHistory(all []v1.History, layers int, now v1.Time) []v1.History {
	for i := range all {
		switch {
		case all[i].EmptyLayer:
		case layers == 0:
			all[i].EmptyLayer = true
		default:
			layers--
		}
	}
	for range layers {
		all = append(all, v1.History{Created: now, CreatedBy: "a layer without history"})
	}
	return all
}

// marshal encodes a configuration without escaping <, > and &, which people read in histories.
func marshal(config v1.ConfigFile, start time.Duration, inline json.RawMessage) ([]byte, error) {
	// The key is remote.ConfigKey.
	type withCache struct {
		v1.ConfigFile
		Cache json.RawMessage `json:"build.strake.cache.v1,omitempty"`
	}
	if start == 0 || config.Config.Healthcheck == nil {
		return encode(withCache{config, inline})
	}
	// v1.HealthConfig has no StartInterval: an object of the same name hides the type's at each level.
	type container v1.Config
	type health struct {
		*v1.HealthConfig
		StartInterval time.Duration
	}
	type withHealth struct {
		container
		Healthcheck health
	}
	return encode(struct {
		withCache
		Config withHealth `json:"config"`
	}{withCache{config, inline}, withHealth{container(config.Config), health{config.Config.Healthcheck, start}}})
}

func encode(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// startInterval reads what marshal wrote, of a base image.
func startInterval(raw []byte) time.Duration {
	var c struct {
		Config struct {
			Healthcheck struct{ StartInterval time.Duration }
		} `json:"config"`
	}
	_ = json.Unmarshal(raw, &c) // the store has decoded these bytes before: they are JSON
	return c.Config.Healthcheck.StartInterval
}
