package nodenetwork

import (
	"strconv"

	"terway.dev/terway/internal/datapath/claims"
)

// split divides the node's ENIs into shared and exclusive ones. The node's labels override the
// configuration.
func (w *work) split() {
	s := &w.nn.Spec
	secondary := max(0, s.Limits.ENIs-1)
	labels := w.node.Labels
	s.Mode, s.ExclusiveENIs = w.cfg.Divide(labels, secondary)
	if v := labels[claims.LabelMode]; v != "" && v != claims.ModeShared && v != claims.ModeExclusive {
		w.once("Mode", v, func(v string) {
			w.warnAll("LabelInvalid", "label %s is %q: want %s or %s; %s is used", claims.LabelMode, v, claims.ModeShared, claims.ModeExclusive, s.Mode)
		})
	}
	if v, set := labels[claims.LabelExclusiveENIs]; set {
		if n, err := strconv.Atoi(v); err != nil || n < 0 {
			w.once("ExclusiveENIs", v, func(v string) {
				w.warnAll("LabelInvalid", "label %s is %q: want a number of ENIs; %d is used", claims.LabelExclusiveENIs, v, w.cfg.ExclusiveENIs)
			})
		}
	}
	if s.Mode == claims.ModeExclusive {
		s.Pool.Min, s.Pool.Max = 0, 0
	}
	s.Limits.MaxPods = (secondary-s.ExclusiveENIs)*s.Limits.AddressesPerENI + s.ExclusiveENIs
	s.Pool.WarmENIs = min(w.cfg.WarmENIs, s.ExclusiveENIs)
}
