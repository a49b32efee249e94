package export

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/strake-build/strake/builder/copier"
	"github.com/strake-build/strake/builder/source"
	"github.com/strake-build/strake/layer"
	"github.com/strake-build/strake/layer/image"
	"github.com/strake-build/strake/layer/rootfs"
	"github.com/strake-build/strake/layer/snapshot"
)

// Tar writes the files of img as a tar. epoch is their modification time, as in Artifact.Epochs.
func (e *Exporter) Tar(ctx context.Context, w io.Writer, img *image.Image, epoch *int64) error {
	root, err := e.view(ctx, img)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := layer.Write(ctx, w, root, layer.Options{Form: layer.Plain, UserXattr: e.UserXattr, Attributes: true, Epoch: epoch}); err != nil {
		return fmt.Errorf("writing the image's files: %w", err)
	}
	return nil
}

// Files writes the files of img into the folder dir, over what is there. They belong to the user of strake, whoever owns them
// in the image: a folder is for people, an image for machines. epoch is their modification time, as in Artifact.Epochs, and now the clock.
func (e *Exporter) Files(ctx context.Context, dir string, img *image.Image, epoch *int64, now func() time.Time) error {
	root, err := e.view(ctx, img)
	if err != nil {
		return err
	}
	tree := source.FromRoot(root, source.Options{Unwritten: true, Now: now})
	defer tree.Close()
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // an output folder, for others to read
		return fmt.Errorf("writing the image's files: %w", err)
	}
	dst, err := rootfs.Open(dir)
	if err != nil {
		return err
	}
	defer dst.Close()
	items, err := tree.Select(ctx, source.Selection{Patterns: []string{"/"}})
	if err != nil {
		return err
	}
	owner := &layer.Owner{UID: os.Getuid(), GID: os.Getgid()}
	opt := copier.Options{Dest: "/", Owner: owner, UserXattr: e.UserXattr, Epoch: epoch}
	if err := copier.Copy(ctx, dst, tree, items, nil, opt); err != nil {
		return fmt.Errorf("writing the image's files to %s: %w", dir, err)
	}
	return nil
}

// view opens the files of img to read, after it unpacked the layers that are not.
func (e *Exporter) view(ctx context.Context, img *image.Image) (*rootfs.Root, error) {
	ids := make([]snapshot.ID, len(img.Layers))
	for i, l := range img.Layers {
		var err error
		if ids[i], err = e.Layers.Unpacked(ctx, l, nil); err != nil {
			return nil, err
		}
	}
	return e.Snapshots.OpenView(ctx, ids)
}
