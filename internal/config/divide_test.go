package config

import (
	"testing"

	"terway.dev/terway/internal/datapath/claims"
)

func TestDivide(t *testing.T) {
	const shared, exclusive = claims.ModeShared, claims.ModeExclusive
	for name, c := range map[string]struct {
		config Config
		labels map[string]string
		mode   string
		enis   int
	}{
		"shared":              {Config{Mode: shared}, nil, shared, 0},
		"some":                {Config{Mode: shared, ExclusiveENIs: 2}, nil, shared, 2},
		"more than there are": {Config{Mode: shared, ExclusiveENIs: 9}, nil, shared, 3},
		"exclusive":           {Config{Mode: exclusive}, nil, exclusive, 3},
		"label":               {Config{Mode: shared}, map[string]string{claims.LabelMode: exclusive}, exclusive, 3},
		"label, shared":       {Config{Mode: exclusive, ExclusiveENIs: 1}, map[string]string{claims.LabelMode: shared}, shared, 1},
		"other label":         {Config{Mode: shared}, map[string]string{claims.LabelOtherMode: claims.OtherModeExclusive}, exclusive, 3},
		"both labels":         {Config{Mode: shared}, map[string]string{claims.LabelMode: shared, claims.LabelOtherMode: claims.OtherModeExclusive}, shared, 0},
		"number":              {Config{Mode: shared, ExclusiveENIs: 2}, map[string]string{claims.LabelExclusiveENIs: "1"}, shared, 1},
		"wrong":               {Config{Mode: shared, ExclusiveENIs: 2}, map[string]string{claims.LabelMode: "x", claims.LabelExclusiveENIs: "-1"}, shared, 2},
	} {
		if mode, enis := c.config.Divide(c.labels, 3); mode != c.mode || enis != c.enis {
			t.Errorf("%s: %s, %d ENIs, want %s, %d", name, mode, enis, c.mode, c.enis)
		}
	}
}
