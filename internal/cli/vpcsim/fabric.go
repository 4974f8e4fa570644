package vpcsim

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"terway.dev/terway/internal/cli/program"
	sim "terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/fabric"
)

const defaultPrefix = "vpcsim-"

// openFabric opens the data plane. Without a state directory no later process can know whose
// namespaces these are, so they are removed when the process ends.
func openFabric(f *serveFlags, log *slog.Logger) (sim.Fabric, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("namespaces and devices need root: run as root, or with --no-fabric to answer calls only")
	}
	made, err := fabric.New(fabric.Options{Prefix: f.netnsPrefix, Strict: f.strict, Logger: log})
	if err != nil {
		return nil, fmt.Errorf("--netns-prefix: %w", err)
	}
	if f.stateDir == "" {
		return passing{sim.Dataplane{Fabric: made}}, nil
	}
	return sim.Dataplane{Fabric: made}, nil
}

// passing is a data plane that is removed at the end of the process.
type passing struct{ sim.Dataplane }

// Close removes everything.
func (p passing) Close() error { return p.Destroy() }

// newCleanup returns `vpcsim cleanup`.
func newCleanup() *cobra.Command {
	var prefix string
	c := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove the namespaces and devices that a simulator left",
		Args:  program.Args(),
		RunE: func(*cobra.Command, []string) error {
			f, err := fabric.New(fabric.Options{Prefix: prefix})
			if err != nil {
				return fmt.Errorf("--netns-prefix: %w", err)
			}
			return f.Destroy()
		},
	}
	c.Flags().StringVar(&prefix, "netns-prefix", defaultPrefix, "prefix of the fabric's namespaces, as serve was given it")
	return c
}
