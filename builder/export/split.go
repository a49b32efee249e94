package export

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"time"

	"github.com/strake-build/strake/layer/image"
)

// SplitTar writes the files of a's images as one tar, those of each in the folder that folder names.
func (e *Exporter) SplitTar(ctx context.Context, w io.Writer, a Artifact, folder func(*image.Image) string) error {
	out := tar.NewWriter(w)
	for i, img := range a.Images {
		h := &tar.Header{Typeflag: tar.TypeDir, Name: folder(img) + "/", Mode: 0o755}
		if epoch := a.Epoch(i); epoch != nil {
			h.ModTime = time.Unix(*epoch, 0)
		}
		if err := out.WriteHeader(h); err != nil {
			return fmt.Errorf("writing the image's files: %w", err)
		}
		if err := e.splitOne(ctx, out, a, i, folder(img)); err != nil {
			return err
		}
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("writing the image's files: %w", err)
	}
	return nil
}

// splitOne copies the tar of the image of index i, each name below dir.
func (e *Exporter) splitOne(ctx context.Context, out *tar.Writer, a Artifact, i int, dir string) error {
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(e.Tar(ctx, w, a.Images[i], a.Epoch(i)))
	}()
	defer func() { _ = r.Close(); <-done }()
	in := tar.NewReader(r)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		slash := ""
		if h.Typeflag == tar.TypeDir {
			slash = "/"
		}
		h.Name = path.Join(dir, h.Name) + slash //nolint:gosec // it is strake's own tar, and nothing is extracted
		if h.Typeflag == tar.TypeLink {
			h.Linkname = path.Join(dir, h.Linkname) //nolint:gosec // the same
		}
		if err := out.WriteHeader(h); err != nil {
			return fmt.Errorf("writing the image's files: %w", err)
		}
		if _, err := io.Copy(out, in); err != nil { //nolint:gosec // the same: not compressed
			return fmt.Errorf("writing the image's files: %w", err)
		}
	}
}
