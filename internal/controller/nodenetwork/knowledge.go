package nodenetwork

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud"
)

// How long answers are used. An instance can change its type while it is stopped,
// a VPC can get another range; neither is urgent. With a new configuration VPCs are
// looked at again: its vSwitches may be in a new range (forgetRanges).
const (
	instanceLife  = 30 * time.Minute
	vpcLife       = 10 * time.Minute
	typeLife      = 24 * time.Hour
	catalogueLife = 10 * time.Minute // ask the cloud again soon
)

// facts are what hardly changes in an instance's life.
type facts struct {
	instance cloud.Instance
	limits   typeLimits
	at       time.Time
}

// life is how long facts are used.
func (f *facts) life() time.Duration {
	if f.limits.unasked != nil {
		return catalogueLife
	}
	return instanceLife
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

// aged is an answer and until when it is used.
type aged[T any] struct {
	value T
	until time.Time
}

// knowledge is what all nodes share of types and VPCs.
type knowledge struct {
	api       cloud.API
	catalogue func(string) (cloud.InstanceType, bool)
	now       func() time.Time
	log       *slog.Logger

	mu    sync.Mutex
	types map[string]aged[typeLimits]
	vpcs  map[string]aged[[]string]
}

func newKnowledge(api cloud.API, catalogue func(string) (cloud.InstanceType, bool), now func() time.Time, log *slog.Logger) *knowledge {
	return &knowledge{api: api, catalogue: catalogue, now: now, log: log,
		types: map[string]aged[typeLimits]{}, vpcs: map[string]aged[[]string]{}}
}

// limits of an instance type: the cloud's, or the catalogue's when the cloud does not answer.
func (k *knowledge) limits(ctx context.Context, name string) (typeLimits, error) {
	k.mu.Lock()
	known, ok := k.types[name]
	k.mu.Unlock()
	if ok && k.now().Before(known.until) {
		return known.value, nil
	}
	var l typeLimits
	life := typeLife
	t, err := k.api.DescribeInstanceType(ctx, name)
	switch {
	case err == nil:
		l = limitsOf(t, sourceCloud)
	case ok && known.value.unasked == nil:
		l, life = known.value, catalogueLife // what the cloud said a day ago
	default:
		listed, there := k.catalogue(name)
		if !there {
			return typeLimits{}, fmt.Errorf("limits of instance type %s (the catalogue has none either): %w", name, err)
		}
		l, life = limitsOf(&listed, sourceCatalogue), catalogueLife
		why := cloud.Explain(err)
		l.unasked = &why
		k.log.Warn("limits are the catalogue's, the cloud did not answer", "type", name, "error", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.types[name] = aged[typeLimits]{l, k.now().Add(life)}
	return l, nil
}

func limitsOf(t *cloud.InstanceType, source string) typeLimits {
	return typeLimits{Limits: v1alpha1.Limits{ENIs: t.ENIs, AddressesPerENI: t.IPv4PerENI, MaxPods: max(0, t.ENIs-1) * t.IPv4PerENI, Source: source}}
}

// ranges of a VPC.
func (k *knowledge) ranges(ctx context.Context, id string) ([]string, error) {
	k.mu.Lock()
	known, ok := k.vpcs[id]
	k.mu.Unlock()
	if ok && k.now().Before(known.until) {
		return known.value, nil
	}
	vpc, err := k.api.DescribeVPC(ctx, id)
	if err != nil {
		if ok {
			return known.value, nil
		}
		return nil, fmt.Errorf("describe VPC %s: %w", id, err)
	}
	var out []string
	for _, c := range vpc.CIDRs {
		out = append(out, c.String())
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.vpcs[id] = aged[[]string]{out, k.now().Add(vpcLife)}
	return out, nil
}

// forgetRanges has every VPC asked for its ranges anew; until it answers they are
// what they were.
func (k *knowledge) forgetRanges() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, known := range k.vpcs {
		known.until = time.Time{}
		k.vpcs[id] = known
	}
}

// learn asks the cloud about the node's instance and its VPC, now and then. Old
// facts are better than none.
func (w *work) learn(ctx context.Context, id string) (err error) {
	if err := w.learnInstance(ctx, id); err != nil {
		return err
	}
	w.vpcCIDRs, err = w.knowledge.ranges(ctx, w.facts.instance.VPCID)
	return err
}

func (w *work) learnInstance(ctx context.Context, id string) error {
	f := w.mem.facts
	if f != nil && f.instance.ID == id && w.Now().Sub(f.at) < f.life() {
		w.facts = f
		return nil
	}
	fresh, err := w.ask(ctx, id)
	switch {
	case err == nil:
		w.mem.facts, w.facts = fresh, fresh
	case f != nil && f.instance.ID == id && cloud.ClassOf(err) != cloud.NotFound:
		w.facts = f
		w.Log.Warn("instance facts are old", "node", w.name, "error", err)
	default:
		return err
	}
	return nil
}

func (w *work) ask(ctx context.Context, id string) (*facts, error) {
	at := w.Now()
	in, err := w.Cloud.DescribeInstance(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("describe instance %s: %w", id, err)
	}
	limits, err := w.knowledge.limits(ctx, in.Type)
	if err != nil {
		return nil, err
	}
	return &facts{instance: *in, limits: limits, at: at}, nil
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
