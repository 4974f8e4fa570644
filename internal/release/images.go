package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/spf13/cobra"

	"terway.dev/terway/internal/oci"
	"terway.dev/terway/internal/product"
)

// repository is the image's name without a registry.
const repository = "terway"

func imagesCommand(o *options) *cobra.Command {
	var registry string
	cmd := &cobra.Command{
		Use:   "images",
		Short: "Write the image for all architectures as an OCI archive, and push it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := o.images(cmd.Context(), cmd.OutOrStdout(), registry)
			return err
		},
	}
	registryFlag(cmd, &registry)
	return cmd
}

func registryFlag(cmd *cobra.Command, registry *string) {
	cmd.Flags().StringVar(registry, "registry", "", "push to this registry and namespace too, for example registry.cn-hangzhou.aliyuncs.com/NAMESPACE, with the credentials of docker login")
}

// image is the result of images.
type image struct {
	// repository is the name with the registry, if it was pushed.
	repository string
	digest     v1.Hash
	archive    string
}

// images makes programs, image and archive, and pushes the image if a registry is named.
func (o *options) images(ctx context.Context, out io.Writer, registry string) (image, error) {
	made := image{repository: repository}
	if registry != "" {
		made.repository = strings.TrimSuffix(registry, "/") + "/" + repository
	}
	// A wrong name is known before minutes of building.
	tag, err := name.NewTag(made.repository+":"+o.version.Version, name.WithDefaultRegistry("docker.io"))
	if err != nil {
		return image{}, fmt.Errorf("--registry %q and --version %q: %w", registry, o.version.Version, err)
	}
	var all []v1.Image
	for _, arch := range product.Architectures {
		base, err := o.debian.Base(ctx, arch)
		if err != nil {
			return image{}, err
		}
		if err := o.build(ctx, arch); err != nil {
			return image{}, err
		}
		img, err := product.Image(arch, o.version, base, func(name string) string { return o.program(arch, name) }, oci.Compressed)
		if err != nil {
			return image{}, err
		}
		all = append(all, img)
	}
	index, err := oci.Index(all...)
	if err != nil {
		return image{}, err
	}
	if made.digest, err = index.Digest(); err != nil {
		return image{}, err
	}
	b, err := oci.Archive(index, nil, made.repository+":"+o.version.Version)
	if err != nil {
		return image{}, err
	}
	made.archive = "terway-image-" + o.version.Version + ".tar"
	if err := os.WriteFile(filepath.Join(o.out, made.archive), b, 0o644); err != nil {
		return image{}, err
	}
	fmt.Fprintf(out, "%s  %s:%s@%s\n", filepath.Join(o.out, made.archive), made.repository, o.version.Version, made.digest)
	if registry == "" {
		return made, nil
	}
	if err := remote.WriteIndex(tag, index, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
		return image{}, fmt.Errorf("push %s: %w", tag, err)
	}
	fmt.Fprintf(out, "pushed %s@%s\n", tag, made.digest)
	return made, nil
}

// program is where build puts a program for an architecture.
func (o *options) program(arch, name string) string {
	return filepath.Join(o.out, "linux-"+arch, name)
}

// build compiles the image's programs, the product's and upstream's plugins, for an architecture. It runs in the source tree.
func (o *options) build(ctx context.Context, arch string) error {
	var packages []string
	for _, p := range product.Programs {
		packages = append(packages, "./cmd/"+p)
	}
	var plugins []string
	for _, p := range product.PluginPackages {
		plugins = append(plugins, product.PluginPath+p)
	}
	return errors.Join(o.compile(ctx, arch, ".", packages, product.Stamped(o.version)), o.compile(ctx, arch, product.PluginModule, plugins, product.Strip))
}

// compile compiles packages of the module in dir for an architecture.
func (o *options) compile(ctx context.Context, arch, dir string, packages []string, flags ...string) error {
	to, err := filepath.Abs(filepath.Dir(o.program(arch, "any")))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", slices.Concat([]string{"build"}, product.Flags, flags, []string{"-o", to + "/"}, packages)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+arch, "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build for %s: %w\n%s", arch, err, out)
	}
	return nil
}

// rootfsCommand is for the Dockerfile, so that an engine makes the same image.
func rootfsCommand(o *options) *cobra.Command {
	var arch string
	cmd := &cobra.Command{
		Use:   "rootfs DIR",
		Short: "Write the image's files into a folder",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			base, err := o.debian.Base(cmd.Context(), arch)
			if err != nil {
				return err
			}
			if err := o.build(cmd.Context(), arch); err != nil {
				return err
			}
			img, err := product.Image(arch, o.version, base, func(name string) string { return o.program(arch, name) }, oci.Plain)
			if err != nil {
				return err
			}
			layers, err := img.Layers()
			if err != nil {
				return err
			}
			for _, l := range layers {
				r, err := l.Uncompressed()
				if err != nil {
					return err
				}
				b, err := io.ReadAll(r)
				if err := errors.Join(err, r.Close()); err != nil {
					return err
				}
				if err := extract(b, args[0]); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&arch, "arch", "amd64", strings.Join(product.Architectures, " or "))
	return cmd
}

// extract writes the files of a layer below a folder, which must be empty.
func extract(layer []byte, dir string) error {
	for r := tar.NewReader(bytes.NewReader(layer)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		to := filepath.Join(dir, h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			err = errors.Join(os.MkdirAll(to, 0o755), os.Chmod(to, os.FileMode(h.Mode&0o777)|sticky(h.Mode)))
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, to)
		default:
			var b []byte
			if b, err = io.ReadAll(r); err == nil {
				err = errors.Join(os.WriteFile(to, b, 0o644), os.Chmod(to, os.FileMode(h.Mode)))
			}
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", to, err)
		}
	}
}

func sticky(mode int64) os.FileMode {
	if mode&0o1000 != 0 {
		return os.ModeSticky
	}
	return 0
}
