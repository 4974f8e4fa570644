package packet

import (
	"slices"
	"testing"
)

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		ratios []float64
		want   float64
	}{
		{[]float64{0.5}, 0},
		{[]float64{0.1, 0.75, 1, 1.25, 9}, 0.5}, // what lies outside the middle half does not count
		{[]float64{0.1, 0.5, 0.5, 0.5, 9}, 0},
		{[]float64{0.2, 0.4, 0.5, 0.6, 0.7}, 0.4},
	} {
		if got := spread(c.ratios); !slices.IsSorted(c.ratios) || got < c.want-1e-9 || got > c.want+1e-9 {
			t.Errorf("the spread of %v is %v, want %v", c.ratios, got, c.want)
		}
	}
}
