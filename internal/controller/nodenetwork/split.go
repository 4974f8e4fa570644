package nodenetwork

import (
	"strconv"

	"terway.dev/terway/internal/config"
)

// split says how the node's ENIs are divided between pods that share one and pods
// that have one to themselves. Its labels come before the configuration.
func (w *work) split() {
	s := &w.nn.Spec
	s.Mode, s.ExclusiveENIs = w.cfg.Mode, w.cfg.ExclusiveENIs
	labels := w.node.Labels
	switch {
	case labels[LabelMode] == config.ModeExclusive, labels[LabelMode] == "" && labels[labelOldMode] == "eniOnly":
		s.Mode = config.ModeExclusive
	case labels[LabelMode] == config.ModeShared:
		s.Mode = config.ModeShared
	case labels[LabelMode] != "":
		w.once("Mode", labels[LabelMode], func(v string) {
			w.warnAll("LabelInvalid", "label %s is %q: want %s or %s; %s is used", LabelMode, v, config.ModeShared, config.ModeExclusive, s.Mode)
		})
	}
	if v, set := labels[LabelExclusiveENIs]; set {
		n, err := strconv.Atoi(v)
		if err == nil && n >= 0 {
			s.ExclusiveENIs = n
		} else {
			w.once("ExclusiveENIs", v, func(v string) {
				w.warnAll("LabelInvalid", "label %s is %q: want a number of ENIs; %d is used", LabelExclusiveENIs, v, s.ExclusiveENIs)
			})
		}
	}
	secondary := max(0, s.Limits.ENIs-1)
	s.ExclusiveENIs = min(s.ExclusiveENIs, secondary)
	if s.Mode == config.ModeExclusive {
		s.ExclusiveENIs = secondary
		s.Pool.Min, s.Pool.Max = 0, 0
	}
	s.Limits.MaxPods = (secondary-s.ExclusiveENIs)*s.Limits.AddressesPerENI + s.ExclusiveENIs
	s.Pool.WarmENIs = min(w.cfg.WarmENIs, s.ExclusiveENIs)
}

const (
	// LabelMode on a Node is its mode, shared or exclusive.
	LabelMode = "network.terway.dev/mode"
	// LabelExclusiveENIs on a Node is exclusive_enis for this node.
	LabelExclusiveENIs = "network.terway.dev/exclusive-enis"
	// labelOldMode with the value eniOnly is what other versions of Terway call mode exclusive.
	labelOldMode = "k8s.aliyun.com/exclusive-mode-eni-type"
)
