package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spf13/cobra"

	"github.com/strake-build/strake/layer/blob"
	"github.com/strake-build/strake/layer/image"
)

func newLoadCommand(env *environment) *cobra.Command {
	var input, platform string
	var quiet bool
	cmd := &cobra.Command{
		Use:   "load [OPTIONS]",
		Short: "Read images from an archive",
		Long: `Read images from an archive, as "docker save" or "strake save" write it, or from an OCI image layout in a
tar, compressed or not, or in a folder. Every digest is checked.`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := parsePlatform(platform)
			if err != nil {
				return err
			}
			return runLoad(cmd.Context(), env, input, p, quiet)
		},
	}
	cmd.Flags().StringVarP(&input, "input", "i", "", "`file` or folder to read instead of standard input")
	cmd.Flags().StringVar(&platform, "platform", "", "`platform` of the images that are taken from an index, as OS/ARCH[/VARIANT] (default: this machine's)")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	addIsolationFlag(cmd, env)
	return cmd
}

func runLoad(ctx context.Context, env *environment, input string, platform v1.Platform, quiet bool) error {
	if input == "" && isTerminal(env.stdin) {
		return usagef("requested load from stdin, but stdin is a terminal: use -i FILE")
	}
	s, err := env.openLayers(ctx)
	if err != nil {
		return err
	}
	a, err := s.openArchive(ctx, input)
	if err != nil {
		return fmt.Errorf("reading the archive: %w", err)
	}
	defer a.close()
	l := &loader{session: s, from: a, bars: newTransfers(env, env.stdout, quiet), platform: platform}
	loaded, err := l.load(ctx)
	l.bars.close()
	if err != nil {
		l.undo(ctx)
		return fmt.Errorf("loading the archive: %w", err)
	}
	// Before an image is named, what it consists of is durable.
	if err := s.syncLoaded(); err != nil {
		return err
	}
	for _, img := range loaded {
		if err := s.keepLoaded(img); err != nil {
			return err
		}
	}
	return nil
}

// loadedImage is an image of an archive whose bytes are in the store.
type loadedImage struct {
	img  *image.Image
	tags []name.Tag
}

// keepLoaded gives a loaded image its place and names in the store, and tells them.
func (s *session) keepLoaded(l loadedImage) error {
	if err := s.Images.Put(l.img); err != nil {
		return err
	}
	for _, t := range l.tags {
		if err := s.Images.Tag(t, l.img.ID); err != nil {
			return err
		}
		fmt.Fprintf(s.env.stdout, "Loaded image: %s\n", familiarName(t))
	}
	if len(l.tags) == 0 {
		fmt.Fprintf(s.env.stdout, "Loaded image ID: %s\n", l.img.ID)
	}
	return nil
}

// loader reads the images of one archive. What it adds to the store belongs to no image until the whole archive
// turned out to be good.
type loader struct {
	*session
	from *archive
	bars *transfers
	// platform is whose image is taken from an index.
	platform v1.Platform
	others   []string       // platforms that indexes have beside
	begun    []*image.Image // images that the store did not have
}

// begin notes that the layers of an image, which are all listed in it, will be added.
func (l *loader) begin(img *image.Image) error {
	_, err := l.Images.Get(img.ID)
	if errors.Is(err, image.ErrNotFound) {
		l.begun = append(l.begun, img)
		return nil
	}
	return err
}

// undo removes what was added: by giving it to its images, and removing these. So what others
// use meanwhile stays until they are done.
func (l *loader) undo(ctx context.Context) {
	l.Release()
	for _, img := range l.begun {
		img.Manifest = v1.Hash{}
		if l.Images.Put(img) == nil {
			_ = l.RemoveImage(context.WithoutCancel(ctx), img.ID)
		}
	}
}

// load reads all images: by index.json of an OCI image layout, else by docker's manifest.json.
func (l *loader) load(ctx context.Context) ([]loadedImage, error) {
	if l.from.has("index.json") {
		return l.loadLayout(ctx)
	}
	if l.from.has("manifest.json") {
		return l.loadDocker(ctx)
	}
	return nil, errors.New("it holds no image: neither index.json nor manifest.json")
}

// json reads a small file of the archive.
func (l *loader) json(path string, v any) ([]byte, error) {
	raw, err := l.from.read(path)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return raw, nil
}

// verified reads a small blob of a layout and checks its digest.
func (l *loader) verified(h v1.Hash, v any) ([]byte, error) {
	raw, err := l.json(blobPath(h), v)
	if err != nil {
		return nil, err
	}
	if got, _, err := v1.SHA256(strings.NewReader(string(raw))); err != nil || got != h {
		return nil, fmt.Errorf("%s has the digest %s", blobPath(h), got)
	}
	return raw, nil
}

func blobPath(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

// put copies a blob into the store.
func (l *loader) put(ctx context.Context, h v1.Hash) error {
	_, err := l.Blobs.Size(h)
	if err == nil {
		return nil
	}
	if !errors.Is(err, blob.ErrNotFound) {
		return err
	}
	r, err := l.from.open(blobPath(h))
	if err != nil {
		return err
	}
	defer r.Close()
	return l.Blobs.Put(ctx, h, r)
}

// unpack unpacks the layers of an image, which checks their diffIDs.
func (l *loader) unpack(ctx context.Context, img *image.Image) error {
	for _, layer := range img.Layers {
		if _, err := l.Snapshots.ByDiffID(layer.DiffID); err == nil {
			continue
		}
		if _, err := l.Layers.Unpacked(ctx, layer, l.bars.progress(shortID(layer.DiffID), "Loading layer")); err != nil {
			return err
		}
	}
	return nil
}

// archive is the files of an image archive.
type archive struct {
	has   func(path string) bool
	open  func(path string) (io.ReadCloser, error)
	close func()
}

// maxDocument bounds the JSON files of an archive, in bytes.
const maxDocument = 16 << 20

// read returns a small file.
func (a *archive) read(path string) ([]byte, error) {
	r, err := a.open(path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err == nil && len(raw) > maxDocument {
		err = &fs.PathError{Op: "reading", Path: path, Err: errors.New("it is too large")}
	}
	return raw, err
}
