package lab

import (
	"fmt"
	"slices"
	"strings"

	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/config"
	"terway.dev/terway/internal/datapath/claims"
)

const (
	// DefaultInstanceType has 4 ENIs with 10 addresses each.
	DefaultInstanceType = "ecs.g6.2xlarge"
	// ExclusiveInstanceType has 6 ENIs: with an ENI for each pod, a node of the default type
	// would be full with the cluster's DNS and two pods.
	ExclusiveInstanceType = "ecs.g6.3xlarge"

	// datapathAuto is the default of the configuration.
	datapathAuto = claims.Auto
	// leastENIs is how many ENIs for pods a node in mode exclusive needs: the cluster's DNS
	// uses one, and the checks start two pods on a node.
	leastENIs = 3
	// hostPods is the maximum number of host-network pods of Terway on a node: the agent and a
	// controller.
	hostPods = 2
)

// checkDatapath sets defaults of datapath and mode and validates them. The agent tests whether
// a node's kernel supports the datapath.
func (o *Options) checkDatapath() error {
	given := o.Datapath != "" && o.Datapath != datapathAuto
	if o.Datapath == "" {
		o.Datapath = datapathAuto
	}
	if o.Network != NetworkTerway {
		switch {
		case given:
			return fmt.Errorf("--datapath %s: only with --network %s; leave it out", o.Datapath, NetworkTerway)
		case o.Mode == claims.ModeExclusive:
			return fmt.Errorf("--mode %s: only with --network %s; leave it out", o.Mode, NetworkTerway)
		}
	}
	if o.Mode == "" {
		o.Mode = claims.ModeShared
	}
	for _, f := range []struct{ key, value string }{{"datapath", o.Datapath}, {"mode", o.Mode}} {
		if there := config.Choices(f.key); !slices.Contains(there, f.value) {
			return fmt.Errorf("--%s %q: must be one of %s", f.key, f.value, strings.Join(there, ", "))
		}
	}
	if given && o.Mode == claims.ModeExclusive {
		return fmt.Errorf("--datapath %s with --mode %s: the ENI itself is moved into the pod and is not shared; must be %s, or --mode %s",
			o.Datapath, o.Mode, datapathAuto, claims.ModeShared)
	}
	return nil
}

// maxPods returns maxPods for the kubelets of an instance type with Terway. The kubelet also
// counts pods of the host network, which need no address.
//
// In mode shared it is the number of addresses of the type's secondary ENIs, without an
// allowance for host-network pods: otherwise a pod without an address could be placed on the
// node and wait for ever, instead of going to a node with room. In mode exclusive pods request
// their ENI (resource aliyun/eni), which the scheduler counts, so host-network pods use none of
// the few slots.
func maxPods(types *catalog.Catalog, instanceType, mode string) (int, error) {
	kind, ok := types.Lookup(instanceType)
	if !ok {
		return 0, fmt.Errorf("--instance-type %q: the catalogue has no such ECS instance type; \"terwayctl instance-types\" lists them, and --catalogue names another catalogue", instanceType)
	}
	if mode == claims.ModeExclusive {
		n, ok := kind.MaxPodsExclusive()
		if !ok || n < leastENIs {
			return 0, fmt.Errorf("--instance-type %s: in mode %s a node of the lab must hold %d pods, this type holds %d or it is not known; must be one with %d network interfaces or more, such as %s",
				instanceType, mode, leastENIs, n, leastENIs+1, ExclusiveInstanceType)
		}
		return n + hostPods, nil
	}
	n, ok := kind.MaxPodsShared()
	if !ok || n < 1 {
		return 0, fmt.Errorf("--instance-type %s: it has no secondary network interface for pods, or none is known", instanceType)
	}
	return n, nil
}
