package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/product"
)

func releaseCommand(o *options) *cobra.Command {
	var registry string
	cmd := &cobra.Command{
		Use:   "release",
		Short: "Make all that a release consists of, and push its image",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.release(cmd.Context(), cmd.OutOrStdout(), registry)
		},
	}
	registryFlag(cmd, &registry)
	return cmd
}

// semver is a version of a release, with v before it.
var semver = regexp.MustCompile(`^v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?$`)

// release makes the image, an archive of programs for each architecture, the chart, the list of what is in all of them
// and their checksums.
func (o *options) release(ctx context.Context, out io.Writer, registry string) error {
	if !semver.MatchString(o.version.Version) {
		return fmt.Errorf("--version %q: want a release such as v1.2.3 or v1.3.0-rc.1: a tag of the commit, or VERSION=v1.2.3", o.version.Version)
	}
	if o.version.Commit == "" || strings.HasSuffix(o.version.Commit, "-dirty") {
		return fmt.Errorf("--commit %q: a release is made of a commit: commit or remove the changes of the tree", o.version.Commit)
	}
	img, err := o.images(ctx, out, registry)
	if err != nil {
		return err
	}
	files := []string{img.archive}
	made := func(name string, b []byte, err error) error {
		if err == nil {
			err = os.WriteFile(filepath.Join(o.out, name), b, 0o644)
		}
		if err != nil {
			return fmt.Errorf("make %s: %w", name, err)
		}
		files = append(files, name)
		return nil
	}
	version := strings.TrimPrefix(o.version.Version, "v")
	chart, err := stampedChart(chartDir, version, o.version.Version, img)
	if err != nil {
		return err
	}
	for _, arch := range product.Architectures {
		if err := o.terwayctl(ctx, arch, chart); err != nil {
			return err
		}
		name := "terway-" + o.version.Version + "-linux-" + arch
		b, err := o.programs(arch, name)
		if err := made(name+".tar.gz", b, err); err != nil {
			return err
		}
	}
	b, err := chart.pack()
	if err := made("terway-"+version+".tgz", b, err); err != nil {
		return err
	}
	b, err = o.bom(img)
	if err := made("terway-"+o.version.Version+".cdx.json", b, err); err != nil {
		return err
	}
	b, err = o.checksums(files)
	if err := made("SHA256SUMS", b, err); err != nil {
		return err
	}
	for _, f := range files {
		fmt.Fprintln(out, filepath.Join(o.out, f))
	}
	return nil
}

// programs packs the programs for an architecture, with the license if the tree has one.
func (o *options) programs(arch, dir string) ([]byte, error) {
	files := tarball{}
	for _, name := range append([]string{"terwayctl"}, product.Programs...) {
		b, err := os.ReadFile(o.program(arch, name))
		if err != nil {
			return nil, err
		}
		files[dir+"/"+name] = member{0o755, b}
	}
	switch b, err := os.ReadFile("LICENSE"); {
	case err == nil:
		files[dir+"/LICENSE"] = member{0o644, b}
	case !errors.Is(err, os.ErrNotExist):
		return nil, err
	}
	return files.gz()
}

// checksums returns what "sha256sum --check" reads.
func (o *options) checksums(files []string) ([]byte, error) {
	var b strings.Builder
	for _, name := range slices.Sorted(slices.Values(files)) {
		sum, err := digest(filepath.Join(o.out, name))
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%s  %s\n", sum, name)
	}
	return []byte(b.String()), nil
}

// digest returns the SHA-256 of a file.
func digest(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}
