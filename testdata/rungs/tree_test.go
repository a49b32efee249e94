package rungs

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

// tree has a line about each entry of an archive, by name.
type tree map[string]string

// readTree reads an archive. With contents, the lines have sizes, times and digests too.
func readTree(t *testing.T, r io.Reader, contents bool) tree {
	t.Helper()
	all := tree{}
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		must(t, err)
		line := fmt.Sprintf("%c %05o %d:%d %q %d,%d", h.Typeflag, h.Mode, h.Uid, h.Gid, h.Linkname, h.Devmajor, h.Devminor)
		for _, key := range slices.Sorted(maps.Keys(h.PAXRecords)) {
			if strings.HasPrefix(key, "SCHILY.xattr.") {
				line += fmt.Sprintf(" %s=%q", key, h.PAXRecords[key])
			}
		}
		if contents {
			sum := sha256.New()
			_, err := io.Copy(sum, archive)
			must(t, err)
			line += fmt.Sprintf(" %d bytes %s %.6x", h.Size, h.ModTime.UTC().Format("2006-01-02T15:04:05"), sum.Sum(nil))
		}
		all[strings.TrimSuffix(h.Name, "/")] = line
	}
}

// differences has the lines that one of the trees has alone, at most 40.
func differences(a, b tree) string {
	names := maps.Clone(a)
	maps.Copy(names, b)
	var text strings.Builder
	n := 0
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if a[name] == b[name] {
			continue
		}
		if n++; n <= 40 {
			fmt.Fprintf(&text, "  %s: %s, as root %s\n", name, orNothing(a[name]), orNothing(b[name]))
		}
	}
	if n > 40 {
		fmt.Fprintf(&text, "  and %d more\n", n-40)
	}
	return text.String()
}

func orNothing(line string) string {
	if line == "" {
		return "nothing"
	}
	return line
}

// explain compares two images, archives of an OCI layout, layer by layer.
func explain(t *testing.T, image, root string) string {
	t.Helper()
	a, b := readImage(t, image), readImage(t, root)
	text := ""
	if a.config != b.config {
		text = fmt.Sprintf("configuration: %s\nas root: %s\n", a.config, b.config)
	}
	for i := range min(len(a.layers), len(b.layers)) {
		if d := differences(a.layers[i], b.layers[i]); d != "" {
			text += fmt.Sprintf("layer %d:\n%s", i, d)
		}
	}
	return text
}

// image is what explain compares.
type image struct {
	config string
	layers []tree
}

func readImage(t *testing.T, path string) image {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	blobs := map[string][]byte{}
	for archive := tar.NewReader(f); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		blobs[h.Name], err = io.ReadAll(archive)
		must(t, err)
	}
	type descriptor struct{ Digest string }
	var m struct {
		Config            descriptor
		Layers, Manifests []descriptor
	}
	blob := func(d descriptor) []byte { return blobs["blobs/"+strings.ReplaceAll(d.Digest, ":", "/")] }
	must(t, json.Unmarshal(blobs["index.json"], &m))
	for len(m.Layers) == 0 && len(m.Manifests) > 0 {
		next := blob(m.Manifests[0])
		m.Manifests = nil
		must(t, json.Unmarshal(next, &m))
	}
	i := image{config: string(blob(m.Config))}
	for _, l := range m.Layers {
		r, err := gzip.NewReader(bytes.NewReader(blob(l)))
		must(t, err)
		i.layers = append(i.layers, readTree(t, r, true))
	}
	return i
}
