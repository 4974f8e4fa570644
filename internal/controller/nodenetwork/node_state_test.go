package nodenetwork

import (
	"maps"
	"slices"
	"testing"
	"time"

	"terway.dev/terway/api/v1alpha1"
)

// What is remembered of ENIs is forgotten with them, because a node may live long.
func TestMemoryOfENIsThatAreGone(t *testing.T) {
	m := newMemory(time.Now())
	for _, token := range []string{"there", "gone"} {
		m.assigns[token], m.attaching[token] = assignCall{}, &attaching{}
		m.refused[token], m.pauses["assign "+token] = refusal{}, &pause{}
	}
	m.refused[createOperation], m.pauses["list"] = refusal{}, &pause{}
	m.forgetGone([]v1alpha1.ENI{{Token: "there"}})
	for what, c := range map[string]struct{ got, want []string }{
		"assigns":   {slices.Sorted(maps.Keys(m.assigns)), []string{"there"}},
		"attaching": {slices.Sorted(maps.Keys(m.attaching)), []string{"there"}},
		"refused":   {slices.Sorted(maps.Keys(m.refused)), []string{createOperation, "there"}},
		"pauses":    {slices.Sorted(maps.Keys(m.pauses)), []string{"assign there", "list"}},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("%s: %v, want %v", what, c.got, c.want)
		}
	}
}
