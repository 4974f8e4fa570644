package vpcsim

import (
	"context"
	"errors"
	"log/slog"

	sim "terway.dev/terway/internal/vpcsim"
)

// openFabric makes the data plane.
func openFabric(context.Context, string, *slog.Logger) (sim.Fabric, error) {
	return nil, errors.New("this build has no fabric: use --no-fabric")
}
