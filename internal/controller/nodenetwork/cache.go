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
	"terway.dev/terway/internal/datapath/claims"
)

// How long answers are fresh. An instance can change its type while it is stopped, a VPC can get
// another range; neither is urgent. After a change of the configuration VPCs are read again: its
// vSwitches may be in a new range (forgetRanges).
const (
	instanceLife  = 30 * time.Minute
	vpcLife       = 10 * time.Minute
	typeLife      = 24 * time.Hour
	catalogueLife = 10 * time.Minute // ask the cloud again soon

	// askRetry is the pause after a failed query, whichever node needs it.
	askRetry = 10 * time.Second
	// askTimeout bounds a query, including its waits for the rate limit and its retries.
	askTimeout = time.Minute
	// askBriefly is how long a node waits for a query if its spec has an earlier answer.
	askBriefly = 2 * time.Second
	// instancesPerCall is how many ids one DescribeInstances call takes (ECS API).
	instancesPerCall = 100
)

// facts are what hardly changes in an instance's life.
type facts struct {
	instance cloud.Instance
	limits   typeLimits
	// old is why the instance has only what the spec has stored, without addresses and security
	// groups; nil if the cloud has answered.
	old error
}

// typeLimits are what an instance type allows, and why they are the catalogue's; nil if they are
// the cloud's.
type typeLimits struct {
	v1alpha1.Limits
	unasked *cloud.Explanation
}

// The values of Limits.Source.
const (
	sourceCloud     = "DescribeInstanceTypes"
	sourceCatalogue = "catalogue"
)

// knowledge caches what all nodes share about instances, types and VPCs.
type knowledge struct {
	catalogue func(string) (cloud.InstanceType, bool)
	instances *answers.Cache[string, cloud.Instance]
	// addresses are those of an instance's ENIs that serve no pods, by instance id.
	addresses *answers.Cache[string, []netip.Addr]
	types     *answers.Cache[string, cloud.InstanceType]
	vpcs      *answers.Cache[string, []string]
}

func newKnowledge(o *Options) *knowledge {
	return &knowledge{
		catalogue: o.Catalogue,
		// A new leader needs all nodes' instances: many ids in each call.
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
		// Few nodes need this: a kubelet mostly uses the instance's primary address.
		addresses: answers.New(answers.Options[string, []netip.Addr]{
			Ask: func(ctx context.Context, ids []string) (map[string][]netip.Addr, error) {
				list, err := o.Cloud.DescribeENIs(ctx, cloud.ENIFilter{InstanceID: ids[0]})
				if err != nil {
					return nil, fmt.Errorf("describe the ENIs of instance %s: %w", ids[0], err)
				}
				var out []netip.Addr
				for _, e := range list {
					if e.Tags[claims.TagCreator] != claims.Creator && e.Type != "Member" {
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
					o.Log.Warn("using old limits or the catalogue's, the cloud did not answer", "type", names[0], "error", err)
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

// ofOneInstance reports whether an error concerns one id, malformed or forbidden, which must not
// fail the query for the others.
func ofOneInstance(err error) bool {
	class := cloud.ClassOf(err)
	return class == cloud.Invalid || class == cloud.NotFound
}

// ask returns a cached answer or queries the cloud. With written set, the spec has an earlier
// answer: then ask does not wait for a query that is running or has failed, and only briefly for a
// new one, because a waiting worker delays other nodes.
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
			err = noAnswer(action, key)
		}
		return v, err
	}
	short, cancel := context.WithTimeoutCause(ctx, askBriefly, noAnswer(action, key))
	defer cancel()
	return c.Get(short, key)
}

// noAnswer is the error while the cloud has not answered a query.
func noAnswer(action, key string) error {
	return &cloud.Error{Action: action, Class: cloud.Transient, Message: "no answer yet about " + key}
}

// limits returns the limits of an instance type: the cloud's, or the catalogue's when the cloud
// does not answer. written: the node's spec has an earlier answer of the cloud.
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

// forgetRanges makes every VPC's ranges be read again; until then the old ones are used.
func (k *knowledge) forgetRanges() { k.vpcs.ExpireAll() }

// learn finds out about the node's instance and its VPC. Old facts are better than none: what a new
// process cannot query, it reads from the spec.
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

// instance returns the node's instance, as the cloud last described it. If a new process gets no
// answer, it returns the instance as stored in the spec, and the reason as old.
func (w *work) instance(ctx context.Context, id string) (in cloud.Instance, old, err error) {
	s := &w.nn.Spec
	written := s.InstanceID == id && s.InstanceType != "" && s.Zone != "" && s.VPCID != ""
	if in, err = ask(ctx, w.knowledge.instances, "DescribeInstances", id, written); !written || !unanswered(err) {
		return in, nil, err
	}
	// A running query is about to end.
	if asking, _ := w.knowledge.instances.Asking(id); asking {
		w.again(w.Retry)
	}
	w.again(w.Park)
	return cloud.Instance{ID: id, Type: s.InstanceType, Zone: s.Zone, VPCID: s.VPCID}, err, nil
}

// unanswered reports whether an error means that the cloud did not answer, or refused us: it says
// nothing about the object.
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
	s.ENIMbit = w.cfg.NetworkPriority.ENIMbit
	w.split()
}

// sourceOfLimits reports the source of the node's limits: with the catalogue's a node may hold
// fewer pods than the cloud allows, or try to have more.
func (w *work) sourceOfLimits() {
	c := metav1.Condition{Type: v1alpha1.ConditionLimitsFromCloud, Status: metav1.ConditionTrue, Reason: sourceCloud,
		Message: "ENIs and addresses per ENI are what the cloud reports for the instance type"}
	if why := w.facts.limits.unasked; why != nil {
		c.Status, c.Reason = metav1.ConditionFalse, why.Reason
		c.Message = fmt.Sprintf("limits of %s are the catalogue's because the cloud did not give them: %s (asked again every %s)",
			w.facts.instance.Type, why, catalogueLife)
		w.again(catalogueLife)
	}
	if w.setCondition(c) {
		w.warn(w.node, "LimitsFromCatalogue", c.Message)
		w.warn(w.nn, "LimitsFromCatalogue", c.Message)
	}
}
