package nodenetwork

import (
	"strconv"

	"terway.dev/terway/internal/datapath/claims"
)

// split divides the node's ENIs into shared and exclusive ones. The node's labels override the
// configuration.
func (w *work) split() {
	s := &w.nn.Spec
	s.Mode, s.ExclusiveENIs = w.cfg.Mode, w.cfg.ExclusiveENIs
	labels := w.node.Labels
	switch {
	case labels[claims.LabelMode] == claims.ModeExclusive, labels[claims.LabelMode] == "" && labels[claims.LabelOtherMode] == claims.OtherModeExclusive:
		s.Mode = claims.ModeExclusive
	case labels[claims.LabelMode] == claims.ModeShared:
		s.Mode = claims.ModeShared
	case labels[claims.LabelMode] != "":
		w.once("Mode", labels[claims.LabelMode], func(v string) {
			w.warnAll("LabelInvalid", "label %s is %q: want %s or %s; %s is used", claims.LabelMode, v, claims.ModeShared, claims.ModeExclusive, s.Mode)
		})
	}
	if v, set := labels[claims.LabelExclusiveENIs]; set {
		n, err := strconv.Atoi(v)
		if err == nil && n >= 0 {
			s.ExclusiveENIs = n
		} else {
			w.once("ExclusiveENIs", v, func(v string) {
				w.warnAll("LabelInvalid", "label %s is %q: want a number of ENIs; %d is used", claims.LabelExclusiveENIs, v, s.ExclusiveENIs)
			})
		}
	}
	secondary := max(0, s.Limits.ENIs-1)
	s.ExclusiveENIs = min(s.ExclusiveENIs, secondary)
	if s.Mode == claims.ModeExclusive {
		s.ExclusiveENIs = secondary
		s.Pool.Min, s.Pool.Max = 0, 0
	}
	s.Limits.MaxPods = (secondary-s.ExclusiveENIs)*s.Limits.AddressesPerENI + s.ExclusiveENIs
	s.Pool.WarmENIs = min(w.cfg.WarmENIs, s.ExclusiveENIs)
}
