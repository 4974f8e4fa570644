package compile

import (
	"encoding/binary"
	"testing"
)

// The kernel's programs use the same row sizes.
func TestSizesOfRows(t *testing.T) {
	for what, row := range map[string]struct {
		row  any
		size int
	}{
		"endpoint": {EndpointRow{}, 56},
		"address":  {AddressRow{}, 12},
		"range":    {RangeRow{}, 24},
		"peer":     {PeerKey{}, 8},
		"span":     {SpanRow{}, 8},
		"verdict":  {VerdictRow{}, 16},
	} {
		if got := binary.Size(row.row); got != row.size {
			t.Errorf("%s: %d bytes, want %d", what, got, row.size)
		}
	}
}
