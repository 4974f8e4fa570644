package loadbalancer

import (
	"maps"
	"slices"

	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/datapath/claims"
	lb "terway.dev/terway/internal/loadbalancer"
)

// Settings are what the cluster's configuration says about load balancers. An NLB's zones are those of
// the Pod vSwitches, of each the first one.
func Settings(cfg *config.Config) lb.Settings {
	s := lb.Settings{Classes: map[string]lb.Product{}, PodBackends: cfg.Network != claims.NetworkFlannel}
	for class, product := range cfg.LoadBalancerClasses {
		s.Classes[class] = lb.Product(product)
	}
	for _, zone := range slices.Sorted(maps.Keys(cfg.VSwitches)) {
		s.Zones = append(s.Zones, lb.Zone{ID: zone, VSwitch: cfg.VSwitches[zone][0]})
	}
	return s
}
