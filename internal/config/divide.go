package config

import (
	"strconv"

	"terway.dev/terway/internal/datapath/claims"
)

// Divide returns the mode of a node with these labels, which override the configuration, and how many of its secondary ENIs are
// exclusive. A label with a wrong value has no effect.
func (c *Config) Divide(labels map[string]string, secondary int) (mode string, exclusive int) {
	mode, exclusive = c.Mode, c.ExclusiveENIs
	switch v := labels[claims.LabelMode]; {
	case v == claims.ModeExclusive, v == claims.ModeShared:
		mode = v
	case v == "" && labels[claims.LabelOtherMode] == claims.OtherModeExclusive:
		mode = claims.ModeExclusive
	}
	if n, err := strconv.Atoi(labels[claims.LabelExclusiveENIs]); err == nil && n >= 0 {
		exclusive = n
	}
	if mode == claims.ModeExclusive {
		return mode, secondary
	}
	return mode, min(exclusive, secondary)
}
