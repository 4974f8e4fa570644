package nodenetwork

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud"
)

func isCloud(err error) bool {
	var e *cloud.Error
	return errors.As(err, &e)
}

// adopt compares the spec with the ENIs that the cloud says are the node's. What
// the cloud has and the spec has not is taken over; what the cloud has no longer
// is dropped.
func (w *work) adopt(ctx context.Context) error {
	list, err := w.Cloud.DescribeENIs(ctx, cloud.ENIFilter{Tags: w.tags(w.nn.Name, "")})
	if err != nil {
		return fmt.Errorf("list ENIs of node %s: %w", w.nn.Name, err)
	}
	byToken := map[string]*cloud.ENI{}
	for i := range list {
		byToken[list[i].Tags[TagToken]] = &list[i]
	}
	s := &w.nn.Spec
	s.ENIs = slices.DeleteFunc(s.ENIs, func(e v1alpha1.ENI) bool {
		if _, there := byToken[e.Token]; there || e.ID == "" {
			return false // an intent without an ENI is repeated with its token
		}
		w.warn(w.node, "ENIGone", fmt.Sprintf("ENI %s is not in the cloud any more; its addresses are lost", e.ID))
		return true
	})
	for token, c := range byToken {
		i := slices.IndexFunc(s.ENIs, func(e v1alpha1.ENI) bool { return e.Token == token })
		if i < 0 {
			if token == "" || c.Status == cloud.ENIDeleting {
				continue
			}
			// An ENI whose record is lost: known again, and given back if idle.
			s.ENIs = append(s.ENIs, v1alpha1.ENI{Token: token, Phase: v1alpha1.ENIAttaching})
			i = len(s.ENIs) - 1
		}
		if err := w.fill(ctx, &s.ENIs[i], c); err != nil {
			return err
		}
	}
	slices.SortFunc(s.ENIs, func(a, b v1alpha1.ENI) int {
		if a.Token < b.Token {
			return -1
		}
		return 1
	})
	if err := w.save(ctx); err != nil {
		return err
	}
	w.setSync(w.nn.Name, false)
	return nil
}

// fill writes what the cloud says of an ENI into its record. The addresses are
// the cloud's; Releasing is ours.
func (w *work) fill(ctx context.Context, e *v1alpha1.ENI, c *cloud.ENI) error {
	cidrs, gateways, err := w.vswitches.ranges(ctx, c.VSwitchID)
	if err != nil {
		return err
	}
	e.ID, e.MAC, e.VSwitchID, e.CIDRs, e.Gateways = c.ID, c.MAC, c.VSwitchID, cidrs, gateways
	e.PrimaryAddress = c.Primary.String()
	releasing := map[string]bool{}
	for _, a := range e.Addresses {
		releasing[a.Address] = a.Releasing
	}
	e.Addresses = nil
	for _, a := range c.Addresses {
		e.Addresses = append(e.Addresses, v1alpha1.Address{Address: a.String(), Releasing: releasing[a.String()]})
	}
	if e.Phase == v1alpha1.ENICreating || e.Phase == v1alpha1.ENIReady && c.Status != cloud.ENIInUse {
		e.Phase = v1alpha1.ENIAttaching // also one that somebody detached behind our back
	}
	return nil
}

// advance brings every ENI that is on its way a step further.
func (w *work) advance(ctx context.Context) error {
	if err := w.create(ctx); err != nil {
		return err
	}
	var moving []string
	for _, e := range w.nn.Spec.ENIs {
		if e.Phase == v1alpha1.ENIAttaching || e.Phase == v1alpha1.ENIDetaching {
			moving = append(moving, e.ID)
		}
	}
	if len(moving) == 0 {
		return nil
	}
	w.again = w.Poll
	now, err := w.describe.get(ctx, moving)
	if err != nil {
		return fmt.Errorf("describe ENIs %v: %w", moving, err)
	}
	var errs []error
	var gone []string
	for i := range w.nn.Spec.ENIs {
		e := &w.nn.Spec.ENIs[i]
		c, there := now[e.ID]
		switch {
		case !slices.Contains(moving, e.ID):
		case !there:
			gone = append(gone, e.ID)
		case e.Phase == v1alpha1.ENIDetaching:
			if err := w.giveBack(ctx, &c); err != nil {
				errs = append(errs, fmt.Errorf("give back ENI %s: %w", e.ID, err))
			}
		default:
			errs = append(errs, w.attach(ctx, e, &c))
		}
	}
	w.nn.Spec.ENIs = slices.DeleteFunc(w.nn.Spec.ENIs, func(e v1alpha1.ENI) bool { return e.ID != "" && slices.Contains(gone, e.ID) })
	return errors.Join(append(errs, w.save(ctx))...)
}

// create carries out recorded intents.
func (w *work) create(ctx context.Context) error {
	for i := 0; i < len(w.nn.Spec.ENIs); i++ {
		e := &w.nn.Spec.ENIs[i]
		if e.Phase != v1alpha1.ENICreating {
			continue
		}
		tags := w.tags(w.nn.Name, e.Token)
		for k, v := range w.Config.ENITags {
			tags[k] = v
		}
		groups := w.Config.SecurityGroups
		if len(groups) == 0 {
			w.mu.Lock()
			groups = w.facts[w.nn.Name].instance.SecurityGroups
			w.mu.Unlock()
		}
		c, err := w.Cloud.CreateENI(ctx, cloud.CreateENIRequest{
			Token: e.Token, VSwitchID: e.VSwitchID, SecurityGroups: groups, SecondaryCount: e.RequestedAddresses - 1,
			Name: "terway-" + w.nn.Name, Description: "pods of node " + w.nn.Name, Tags: tags,
		})
		if err != nil {
			return w.notCreated(ctx, i, err)
		}
		w.vswitches.take(e.VSwitchID, len(c.Addresses))
		if err := w.fill(ctx, e, c); err != nil {
			return err
		}
		if err := w.save(ctx); err != nil {
			return err
		}
	}
	return nil
}

// notCreated decides what becomes of an intent that failed. Where the cloud said
// plainly that there is nothing, the intent goes, so that the next plan may
// choose another vSwitch; where that is open it stays, with its token.
func (w *work) notCreated(ctx context.Context, i int, err error) error {
	e := w.nn.Spec.ENIs[i]
	switch cloud.ClassOf(err) {
	case cloud.VSwitchFull:
		w.vswitches.full(e.VSwitchID)
	case cloud.Quota, cloud.Auth, cloud.Invalid, cloud.NotFound:
	default:
		return fmt.Errorf("create an ENI in vSwitch %s: %w", e.VSwitchID, err)
	}
	w.nn.Spec.ENIs = slices.Delete(w.nn.Spec.ENIs, i, i+1)
	return errors.Join(fmt.Errorf("create an ENI in vSwitch %s: %w", e.VSwitchID, err), w.save(ctx))
}

// attach brings a new ENI a step nearer to service.
func (w *work) attach(ctx context.Context, e *v1alpha1.ENI, c *cloud.ENI) error {
	switch c.Status {
	case cloud.ENIAvailable:
		if err := w.Cloud.AttachENI(ctx, e.ID, w.nn.Spec.InstanceID); err != nil {
			return fmt.Errorf("attach ENI %s to %s: %w", e.ID, w.nn.Spec.InstanceID, err)
		}
	case cloud.ENIInUse:
		if c.InstanceID != w.nn.Spec.InstanceID {
			return fmt.Errorf("ENI %s is attached to %s, want %s", e.ID, c.InstanceID, w.nn.Spec.InstanceID)
		}
		if err := w.fill(ctx, e, c); err != nil {
			return err
		}
		e.Phase = v1alpha1.ENIReady
	}
	return nil
}

func parse(a string) netip.Addr {
	addr, err := netip.ParseAddr(a)
	if err != nil {
		return netip.Addr{} // the API server's schema lets none through; an invalid one matches nothing
	}
	return addr
}
