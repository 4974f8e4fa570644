// Command release makes what is given to users: the image, and a release with programs, chart, list of contents and
// checksums. It runs in the source tree: "make images", "make release".
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/product"
	"terway.dev/terway/internal/version"
)

// options are the flags that commands share.
type options struct {
	debian  product.Debian
	out     string
	version version.Info
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	o := &options{version: version.Get()}
	root := &cobra.Command{Use: "release", Short: "Make Terway's image and releases", SilenceUsage: true, SilenceErrors: true}
	f := root.PersistentFlags()
	f.StringVar(&o.debian.Mirror, "mirror", product.DefaultMirror, "mirror of Debian's packages")
	f.StringVar(&o.debian.Cache, "cache", product.DefaultCache(), "folder for downloaded packages")
	f.StringVar(&o.out, "out", "dist", "folder for the results")
	f.StringVar(&o.version.Version, "version", o.version.Version, "the version that programs report")
	f.StringVar(&o.version.Commit, "commit", o.version.Commit, "the source's commit that programs report")
	root.AddCommand(imagesCommand(o), releaseCommand(o), rootfsCommand(o), pinCommand(o))
	return root
}

func pinCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "pin",
		Short: "Pin the versions of Debian's packages that the mirror has now, and list their files",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return o.debian.Pin(cmd.Context(), "internal/product") },
	}
}
