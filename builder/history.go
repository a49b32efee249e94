package builder

import (
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/strake-build/strake/cache"
	"github.com/strake-build/strake/cache/remote"
	"github.com/strake-build/strake/dockerfile"
)

// Plain are images that carry no cache, which steps are looked for in by their history.
type Plain interface {
	Plain() []remote.Plain
}

// inHistory returns what finds a step in images that carry no cache: nil for a step that an image's history does not tell all of.
//
// That is a RUN without mounts, devices and documents, in a build whose steps have no network, names and limits of their own; and
// WORKDIR. What it runs with is what the entries before it say, so that these must all be the same, from the base's first on: ARG, ENV, USER, SHELL.
// Texts that could be read in two ways are not taken. What a COPY copied, no history tells.
func (p *planner) inHistory(st dockerfile.Step, on *planned) func() []cache.Record {
	if p.Plain == nil || on.base == nil || on.vague || !p.plainSteps() || !tellsAll(st) {
		return nil
	}
	at := *on // the steps so far; on goes on
	return func() (out []cache.Record) {
		prefix := slices.Concat(at.base.Config.History, at.history())
		for _, img := range p.Plain.Plain() {
			if r, ok := fromHistory(img, prefix); ok {
				r.Name = st.Name
				out = append(out, r)
			}
		}
		return out
	}
}

// plainSteps says whether steps see nothing that the history does not tell.
func (p *planner) plainSteps() bool {
	s := p.opt.Sandbox
	return len(s.ExtraHosts) == 0 && s.Hostname == "" && len(s.Ulimits) == 0 && p.epoch == nil && p.bound == nil &&
		(s.Network == "" || s.Network == dockerfile.NetworkDefault || s.Network == dockerfile.NetworkHost)
}

// tellsAll says whether the text of an instruction is all that there is to it.
func tellsAll(st dockerfile.Step) bool {
	switch o := st.Op.(type) {
	case *dockerfile.Run:
		return len(o.Mounts) == 0 && len(o.Devices) == 0 && o.Script == nil && o.Security != dockerfile.SecurityInsecure &&
			(o.Network == "" || o.Network == dockerfile.NetworkDefault)
	case *dockerfile.Workdir:
		return true
	}
	return false
}

// ambiguous says whether two instructions could have left the entry: values are not quoted.
func ambiguous(h v1.History) bool {
	text := h.CreatedBy
	switch {
	case strings.HasPrefix(text, "ENV "):
		return strings.Count(text, "=") != 1 || strings.Count(text, " ") != 1
	case strings.HasPrefix(text, "RUN |"):
		// RUN |2 A=b C=d /bin/sh -c …: each of the words after the number must be one argument.
		fields := strings.Fields(text)
		n := 0
		for _, c := range fields[1][1:] {
			if c < '0' || c > '9' || n > 1000 {
				return true
			}
			n = 10*n + int(c-'0')
		}
		return len(fields) < 2+n+3 || fields[2+n] != "/bin/sh" || strings.ContainsAny(strings.Join(fields[2:2+n], ""), "\"'\\")
	case strings.HasPrefix(text, "RUN "):
		return !strings.HasPrefix(text, "RUN /bin/sh -c ")
	}
	return false
}

// fromHistory is the layer that an image has after the entries of prefix.
func fromHistory(img remote.Plain, prefix []v1.History) (cache.Record, bool) {
	h := img.Config.History
	if len(h) < len(prefix) {
		return cache.Record{}, false
	}
	made := 0
	for i, e := range h {
		if i < len(prefix) && (e.CreatedBy != prefix[i].CreatedBy || e.EmptyLayer != prefix[i].EmptyLayer || e.Comment != prefix[i].Comment) {
			return cache.Record{}, false
		}
		if i < len(prefix) && !e.EmptyLayer {
			made++
		}
	}
	ids := img.Config.RootFS.DiffIDs
	all := len(slices.DeleteFunc(slices.Clone(h), func(e v1.History) bool { return e.EmptyLayer }))
	if made == 0 || all != len(ids) || all != len(img.Layers) {
		return cache.Record{}, false // the history is not the layers'
	}
	return cache.Record{
		Created: h[len(prefix)-1].Created.UTC(), DiffID: ids[made-1].String(),
		Away: &cache.Away{Below: remote.Chain(ids[:made-1]), Blob: img.Layers[made-1], Origin: img.Origin},
	}, true
}
