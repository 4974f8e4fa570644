package nodenetwork

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/answers"
	"terway.dev/terway/internal/cloud"
)

// How long answers are fresh. An instance can change its type while it is stopped, a VPC
// can get another range; neither is urgent. With a new configuration VPCs are looked at
// again: its vSwitches may be in a new range (forgetRanges).
const (
	instanceLife  = 30 * time.Minute
	vpcLife       = 10 * time.Minute
	typeLife      = 24 * time.Hour
	catalogueLife = 10 * time.Minute // ask the cloud again soon

	// askRetry is how long a failed ask is not repeated, whichever node wants it.
	askRetry = 10 * time.Second
	// askTimeout bounds an ask, its waits for the rate limit and its repetitions included.
	askTimeout = time.Minute
	// askBriefly is how long a node whose spec has an answer already waits for another.
	askBriefly = 2 * time.Second
	// instancesPerCall is how many ids one DescribeInstances call takes (ECS API).
	instancesPerCall = 100
)

// facts are what hardly changes in an instance's life.
type facts struct {
	instance cloud.Instance
	limits   typeLimits
	// old is why the instance is only what the spec has from before, without addresses and
	// security groups; nil: it is what the cloud said.
	old error
}

// typeLimits are what an instance type allows, and why they are the catalogue's;
// nil: they are the cloud's.
type typeLimits struct {
	v1alpha1.Limits
	unasked *cloud.Explanation
}

// The values of Limits.Source.
const (
	sourceCloud     = "DescribeInstanceTypes"
	sourceCatalogue = "catalogue"
)

// knowledge is what all nodes share of instances, types and VPCs.
type knowledge struct {
	catalogue func(string) (cloud.InstanceType, bool)
	instances *answers.Cache[string, cloud.Instance]
	// addresses are those of an instance's ENIs that serve no pods, by its id.
	addresses *answers.Cache[string, []netip.Addr]
	types     *answers.Cache[string, cloud.InstanceType]
	vpcs      *answers.Cache[string, []string]
}

func newKnowledge(o *Options) *knowledge {
	return &knowledge{
		catalogue: o.Catalogue,
		// A new leader asks for all nodes' instances: many for each call.
		instances: answers.New(answers.Options[string, cloud.Instance]{
			Ask: func(ctx context.Context, ids []string) (map[string]cloud.Instance, error) {
				list, err := o.Cloud.DescribeInstances(ctx, ids)
				if err != nil {
					o.Log.Warn("instances are not known, or old", "asked for", len(ids), "error", err)
					return nil, fmt.Errorf("describe instances: %w", err)
				}
				out := map[string]cloud.Instance{}
				for _, in := range list {
					out[in.ID] = in
				}
				return out, nil
			},
			Missing: func(id string) error {
				return &cloud.Error{Action: "DescribeInstances", Code: "InvalidInstanceId.NotFound", Class: cloud.NotFound,
					Message: "instance " + id + " is not among what the cloud lists"}
			},
			Divide: ofOneInstance,
			Life:   instanceLife, Retry: askRetry, Timeout: askTimeout, Join: o.Join, Batch: instancesPerCall, Now: o.Now, Go: o.Go,
		}),
		// Asked for by few: a kubelet mostly has the instance's primary address.
		addresses: answers.New(answers.Options[string, []netip.Addr]{
			Ask: func(ctx context.Context, ids []string) (map[string][]netip.Addr, error) {
				list, err := o.Cloud.DescribeENIs(ctx, cloud.ENIFilter{InstanceID: ids[0]})
				if err != nil {
					return nil, fmt.Errorf("describe the ENIs of instance %s: %w", ids[0], err)
				}
				var out []netip.Addr
				for _, e := range list {
					if e.Tags[TagCreator] != creator && e.Type != "Member" {
						out = append(out, e.Addresses...)
					}
				}
				return map[string][]netip.Addr{ids[0]: out}, nil
			},
			Life: instanceLife, Retry: askRetry, Timeout: askTimeout, Now: o.Now, Go: o.Go,
		}),
		types: answers.New(answers.Options[string, cloud.InstanceType]{
			Ask: func(ctx context.Context, names []string) (map[string]cloud.InstanceType, error) {
				t, err := o.Cloud.DescribeInstanceType(ctx, names[0])
				if err != nil {
					o.Log.Warn("limits are what they were or the catalogue's, the cloud did not answer", "type", names[0], "error", err)
					return nil, err
				}
				return map[string]cloud.InstanceType{names[0]: *t}, nil
			},
			Life: typeLife, Retry: catalogueLife, Timeout: askTimeout, Now: o.Now, Go: o.Go,
		}),
		vpcs: answers.New(answers.Options[string, []string]{
			Ask: func(ctx context.Context, ids []string) (map[string][]string, error) {
				vpc, err := o.Cloud.DescribeVPC(ctx, ids[0])
				if err != nil {
					return nil, fmt.Errorf("describe VPC %s: %w", ids[0], err)
				}
				var out []string
				for _, c := range vpc.CIDRs {
					out = append(out, c.String())
				}
				return map[string][]string{ids[0]: out}, nil
			},
			Life: vpcLife, Retry: askRetry, Timeout: askTimeout, Now: o.Now, Go: o.Go,
		}),
	}
}

// ofOneInstance: one id that is malformed or forbidden must not spoil the others' answers.
func ofOneInstance(err error) bool {
	class := cloud.ClassOf(err)
	return class == cloud.Invalid || class == cloud.NotFound
}

// ask gets an answer. Who has one written down from before does not wait for an ask that is under way
// or failed, and only briefly for a new one: a worker that is held holds other nodes.
func ask[V any](ctx context.Context, c *answers.Cache[string, V], action, key string, written bool) (V, error) {
	if !written {
		return c.Get(ctx, key)
	}
	asking, err := c.Asking(key)
	if asking || unanswered(err) {
		v, known := c.Peek(key)
		switch {
		case known:
			return v, nil
		case err == nil:
			err = unspoken(action, key)
		}
		return v, err
	}
	short, cancel := context.WithTimeoutCause(ctx, askBriefly, unspoken(action, key))
	defer cancel()
	return c.Get(short, key)
}

// unspoken is that the cloud has not said yet what it was asked.
func unspoken(action, key string) error {
	return &cloud.Error{Action: action, Class: cloud.Transient, Message: "no answer yet to what was asked about " + key}
}

// limits of an instance type: the cloud's, or the catalogue's when the cloud does not answer.
// written says that the node's spec has the cloud's from before.
func (k *knowledge) limits(ctx context.Context, name string, written bool) (typeLimits, error) {
	t, err := ask(ctx, k.types, "DescribeInstanceTypes", name, written)
	if err == nil {
		return limitsOf(&t, sourceCloud), nil
	}
	listed, there := k.catalogue(name)
	if !there {
		return typeLimits{}, fmt.Errorf("limits of instance type %s (the catalogue has none either): %w", name, err)
	}
	l := limitsOf(&listed, sourceCatalogue)
	why := cloud.Explain(err)
	l.unasked = &why
	return l, nil
}

func limitsOf(t *cloud.InstanceType, source string) typeLimits {
	return typeLimits{Limits: v1alpha1.Limits{ENIs: t.ENIs, AddressesPerENI: t.IPv4PerENI, MaxPods: max(0, t.ENIs-1) * t.IPv4PerENI, Source: source}}
}

// forgetRanges has every VPC asked for its ranges anew; until it answers they are
// what they were.
func (k *knowledge) forgetRanges() { k.vpcs.ExpireAll() }

// learn finds out about the node's instance and its VPC. Old facts are better than none:
// what a new process cannot ask for is what its predecessor wrote into the spec.
func (w *work) learn(ctx context.Context, id string) error {
	in, old, err := w.instance(ctx, id)
	if err != nil {
		return fmt.Errorf("instance %s: %w", id, err)
	}
	s := &w.nn.Spec
	written := s.InstanceType == in.Type && s.Limits.Source == sourceCloud
	limits, err := w.knowledge.limits(ctx, in.Type, written)
	if (err != nil || limits.unasked != nil) && written {
		limits, err = limitsOf(&cloud.InstanceType{ENIs: s.Limits.ENIs, IPv4PerENI: s.Limits.AddressesPerENI}, sourceCloud), nil
		w.again(catalogueLife)
	}
	if err != nil {
		return err
	}
	w.facts = &facts{instance: in, limits: limits, old: old}
	written = s.VPCID == in.VPCID && len(s.VPCCIDRs) > 0
	w.vpcCIDRs, err = ask(ctx, w.knowledge.vpcs, "DescribeVpcAttribute", in.VPCID, written)
	if unanswered(err) && written {
		w.vpcCIDRs, err = s.VPCCIDRs, nil
		w.again(w.Park)
	}
	return err
}

// instance is the node's, as the cloud said last. If a new process gets no answer it is as the
// spec has it, and why.
func (w *work) instance(ctx context.Context, id string) (in cloud.Instance, old, err error) {
	s := &w.nn.Spec
	written := s.InstanceID == id && s.InstanceType != "" && s.Zone != "" && s.VPCID != ""
	if in, err = ask(ctx, w.knowledge.instances, "DescribeInstances", id, written); !written || !unanswered(err) {
		return in, nil, err
	}
	// An answer that is on its way is soon there.
	if asking, _ := w.knowledge.instances.Asking(id); asking {
		w.again(w.Retry)
	}
	w.again(w.Park)
	return cloud.Instance{ID: id, Type: s.InstanceType, Zone: s.Zone, VPCID: s.VPCID}, err, nil
}

// unanswered reports whether an error is that the cloud does not answer, or not to us: it says
// nothing of what was asked for.
func unanswered(err error) bool {
	switch cloud.ClassOf(err) {
	case cloud.Transient, cloud.Throttled, cloud.Auth:
		return isCloud(err)
	}
	return false
}

// settings writes the part of the spec that follows from instance and configuration.
func (w *work) settings() {
	s, f := &w.nn.Spec, w.facts
	s.InstanceID, s.InstanceType, s.Zone, s.VPCID = f.instance.ID, f.instance.Type, f.instance.Zone, f.instance.VPCID
	s.ClusterID = w.cluster
	s.Limits, s.VPCCIDRs = f.limits.Limits, w.vpcCIDRs
	w.sourceOfLimits()
	s.ServiceCIDRs = nil
	for _, c := range w.cfg.ServiceCIDRs() {
		s.ServiceCIDRs = append(s.ServiceCIDRs, c.String())
	}
	s.Datapath, s.MasqueradeOutside = w.cfg.Datapath, w.cfg.MasqueradeOutside
	s.Pool = v1alpha1.Pool{Min: w.cfg.MinPoolSize, Max: w.cfg.MaxPoolSize, CoolingSeconds: w.cfg.CoolingSeconds}
	s.HostStackCIDRs = w.cfg.HostStackCIDRs
	w.split()
}

// sourceOfLimits tells the user where the node's limits are from: with the
// catalogue's a node may hold fewer pods than the cloud allows, or ask for more.
func (w *work) sourceOfLimits() {
	c := metav1.Condition{Type: v1alpha1.ConditionLimitsFromCloud, Status: metav1.ConditionTrue, Reason: sourceCloud,
		Message: "ENIs and addresses per ENI are what the cloud says of the instance type"}
	if why := w.facts.limits.unasked; why != nil {
		c.Status, c.Reason = metav1.ConditionFalse, why.Reason
		c.Message = fmt.Sprintf("limits of %s are the catalogue's because the cloud did not give them: %s (asked again every %s)",
			w.facts.instance.Type, why, catalogueLife)
		w.again(catalogueLife)
	}
	if w.condition(c) {
		w.warn(w.node, "LimitsFromCatalogue", c.Message)
		w.warn(w.nn, "LimitsFromCatalogue", c.Message)
	}
}
