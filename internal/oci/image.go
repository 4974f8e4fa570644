package oci

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Path is what PATH is in every image.
const Path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Plain layers are quick to write and to read; an image in a registry has compressed ones. The image's id, the digest of
// its configuration, is the same.
func Plain(layer []byte) (v1.Layer, error) {
	return static.NewLayer(layer, types.OCIUncompressedLayer), nil
}

// Compressed layers are for registries and archives that are sent.
func Compressed(layer []byte) (v1.Layer, error) {
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer)), nil },
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(6))
}

// Image returns an image of layers (Tree.Layer) for Linux on an architecture, as Go names it. Form is Plain or Compressed.
func Image(arch string, c v1.Config, form func([]byte) (v1.Layer, error), layers ...[]byte) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, b := range layers {
		layer, err := form(b)
		if err != nil {
			return nil, err
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			return nil, err
		}
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config.Architecture, config.OS, config.Created = arch, "linux", v1.Time{Time: time.Unix(0, 0).UTC()}
	c.WorkingDir, c.Env = "/", append([]string{"PATH=" + Path}, c.Env...)
	config.Config = c
	return mutate.ConfigFile(img, config)
}

// Index returns an index of images by architecture.
func Index(images ...v1.Image) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, img := range images {
		c, err := img.ConfigFile()
		if err != nil {
			return nil, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{Architecture: c.Architecture, OS: c.OS}}})
	}
	return index, nil
}

// Archive returns images as an OCI image layout in a tar file, under the names by which "ctr images import" and
// "docker load" know them. Each name is of the one image or index that what is given.
func Archive(what mutate.Appendable, platform *v1.Platform, names ...string) ([]byte, error) {
	top := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, name := range names {
		top = mutate.AppendManifests(top, mutate.IndexAddendum{Add: what, Descriptor: v1.Descriptor{
			Platform:    platform,
			Annotations: map[string]string{"io.containerd.image.name": name},
		}})
	}
	dir, err := os.MkdirTemp("", "oci-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if _, err := layout.Write(dir, top); err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	// In the order of names, without the times and modes that the files have here.
	if err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(b)), ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
		_, err = w.Write(b)
		return err
	}); err != nil {
		return nil, fmt.Errorf("pack the image layout: %w", err)
	}
	if err := w.Close(); err != nil { // writes the archive's end
		return nil, err
	}
	return buf.Bytes(), nil
}
