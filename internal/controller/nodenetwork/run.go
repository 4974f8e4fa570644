package nodenetwork

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud"
)

// facts are what does not change in an instance's life.
type facts struct {
	instance cloud.Instance
	limits   v1alpha1.Limits
	vpcCIDRs []string
}

// run brings the node a step further and says when to look again.
func (w *work) run(ctx context.Context, instance string) (ctrl.Result, error) {
	err := w.steps(ctx, instance)
	if err != nil && !isCloud(err) {
		return ctrl.Result{}, err
	}
	if err != nil {
		x := cloud.Explain(err)
		w.trouble = &x
		w.setSync(w.nn.Name, true)
		w.Log.Warn("the cloud refused", "node", w.nn.Name, "error", err)
	}
	w.report()
	if err := w.save(ctx); err != nil {
		return ctrl.Result{}, err
	}
	if err := w.mark(ctx); err != nil {
		return ctrl.Result{}, err
	}
	res := ctrl.Result{RequeueAfter: w.again}
	if w.trouble != nil && (res.RequeueAfter == 0 || res.RequeueAfter > w.Retry) {
		res.RequeueAfter = w.Retry
	}
	return res, nil
}

func (w *work) steps(ctx context.Context, instance string) error {
	f, err := w.learn(ctx, instance)
	if err != nil {
		return err
	}
	w.settings(f)
	if err := w.save(ctx); err != nil {
		return err
	}
	if w.needsSync(w.nn.Name) {
		if err := w.adopt(ctx); err != nil {
			return err
		}
	}
	if err := w.advance(ctx); err != nil {
		return err
	}
	return w.plan(ctx, f)
}

// learn asks the cloud about the instance, once.
func (w *work) learn(ctx context.Context, id string) (*facts, error) {
	w.mu.Lock()
	f := w.facts[w.nn.Name]
	w.mu.Unlock()
	if f != nil && f.instance.ID == id {
		return f, nil
	}
	in, err := w.Cloud.DescribeInstance(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("describe instance %s: %w", id, err)
	}
	f = &facts{instance: *in}
	source := "DescribeInstanceTypes"
	it, err := w.Cloud.DescribeInstanceType(ctx, in.Type)
	if err != nil {
		c, ok := w.Catalogue(in.Type)
		if !ok {
			return nil, fmt.Errorf("limits of instance type %s (the catalogue has none either): %w", in.Type, err)
		}
		it, source = &c, "catalogue"
		w.Log.Warn("limits are the catalogue's, the cloud did not answer", "node", w.nn.Name, "type", in.Type, "error", err)
	}
	f.limits = v1alpha1.Limits{ENIs: it.ENIs, AddressesPerENI: it.IPv4PerENI, MaxPods: max(0, it.ENIs-1) * it.IPv4PerENI, Source: source}
	vpc, err := w.Cloud.DescribeVPC(ctx, in.VPCID)
	if err != nil {
		return nil, fmt.Errorf("describe VPC %s: %w", in.VPCID, err)
	}
	for _, c := range vpc.CIDRs {
		f.vpcCIDRs = append(f.vpcCIDRs, c.String())
	}
	w.mu.Lock()
	w.facts[w.nn.Name] = f
	w.mu.Unlock()
	return f, nil
}

// settings writes the part of the spec that follows from instance and configuration.
func (w *work) settings(f *facts) {
	s := &w.nn.Spec
	s.InstanceID, s.InstanceType, s.Zone, s.VPCID = f.instance.ID, f.instance.Type, f.instance.Zone, f.instance.VPCID
	s.Limits, s.VPCCIDRs = f.limits, f.vpcCIDRs
	s.ServiceCIDRs = nil
	for _, c := range w.Config.ServiceCIDRs() {
		s.ServiceCIDRs = append(s.ServiceCIDRs, c.String())
	}
	s.Datapath, s.MasqueradeOutside = w.Config.Datapath, w.Config.MasqueradeOutside
	s.Pool = v1alpha1.Pool{Min: w.Config.MinPoolSize, Max: w.Config.MaxPoolSize, CoolingSeconds: w.Config.CoolingSeconds}
}

// report writes the condition AddressesAvailable, and an event when it turns False.
func (w *work) report() {
	c := metav1.Condition{Type: v1alpha1.ConditionAddressesAvailable, Status: metav1.ConditionTrue, Reason: "Sufficient",
		Message: "the node gets the addresses it asks for"}
	if w.trouble != nil {
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, w.trouble.Reason, w.trouble.String()
	}
	// Not Now: a condition's time is when its status changed, which the clock says once.
	c.LastTransitionTime = metav1.NewTime(w.Now().Truncate(time.Second))
	if meta.SetStatusCondition(&w.nn.Spec.Conditions, c) && c.Status == metav1.ConditionFalse {
		w.warn(w.node, c.Reason, c.Message)
		w.warn(w.nn, c.Reason, c.Message)
	}
}
