package nodenetwork

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"terway.dev/terway/api/v1alpha1"
	"terway.dev/terway/internal/cloud"
	"terway.dev/terway/internal/datapath/claims"
)

// stuckAfter is how long an ENI may take to attach: then other ENIs are used, and the node's
// condition says so. An attachment takes seconds.
const stuckAfter = 2 * time.Minute

// foreignLife is after what time the ENIs of others are counted again, if there are any.
const foreignLife = 5 * time.Minute

// createOperation is the key for new ENIs among what the cloud refused.
const createOperation = "create an ENI"

// move advances every ENI that is being attached or removed.
func (w *work) move(ctx context.Context) error {
	errs := []error{w.create(ctx)}
	var stop *specError
	if errors.As(errs[0], &stop) {
		return errs[0]
	}
	var moving []string
	for _, e := range w.nn.Spec.ENIs {
		if e.Phase == v1alpha1.ENIAttaching || e.Phase == v1alpha1.ENIDetaching {
			moving = append(moving, e.ID)
		}
	}
	if len(moving) == 0 {
		return errs[0]
	}
	if w.paused("look") {
		return errs[0]
	}
	v, err := w.list.ids(ctx, moving)
	w.tried("look", err)
	if err != nil {
		return errors.Join(errs[0], fmt.Errorf("describe ENIs %v: %w", moving, err))
	}
	var gone []string
	for i := range w.nn.Spec.ENIs {
		e := &w.nn.Spec.ENIs[i]
		if !slices.Contains(moving, e.ID) {
			continue
		}
		c, there := v.enis[e.ID]
		switch {
		case !there && e.Phase == v1alpha1.ENIDetaching:
			gone = append(gone, e.ID)
		case !there:
			w.again(w.Poll)
			w.mem.needsCompare.Store(true) // just created and not listed yet, or gone: compare decides
		case e.Phase == v1alpha1.ENIDetaching:
			errs = append(errs, w.giveBack(ctx, &c))
		default:
			errs = append(errs, w.attach(ctx, e, &c))
		}
	}
	for _, id := range gone {
		w.takeAway(id, nil)
		delete(w.mem.leaving, id)
	}
	w.nn.Spec.ENIs = slices.DeleteFunc(w.nn.Spec.ENIs, func(e v1alpha1.ENI) bool {
		if e.Phase != v1alpha1.ENIDetaching || !slices.Contains(gone, e.ID) {
			return false
		}
		w.vswitches.giveBack(e.VSwitchID, len(e.Addresses))
		w.tell("ENIReleased", "ENI %s is given back, with %d addresses of vSwitch %s", e.ID, len(e.Addresses), e.VSwitchID)
		return true
	})
	return errors.Join(append(errs, w.save(ctx))...)
}

// create carries out recorded intents, if all parameters of an ENI are known.
func (w *work) create(ctx context.Context) error {
	if w.facts.old != nil {
		return nil
	}
	var errs []error
	for _, intent := range slices.Clone(w.nn.Spec.ENIs) {
		operation := "create " + intent.Token
		if intent.Phase != v1alpha1.ENICreating || w.paused(operation) {
			continue
		}
		tags := w.tags(w.name, intent.Token)
		for k, v := range w.cfg.ENITags {
			tags[k] = v
		}
		if intent.Exclusive {
			tags[claims.TagExclusive] = "true"
		}
		groups := w.cfg.SecurityGroups
		if len(groups) == 0 {
			groups = w.facts.instance.SecurityGroups
		}
		if w.mem.making[intent.Token] == nil {
			w.mem.making[intent.Token] = &making{created: w.Now()}
		}
		c, err := w.Cloud.CreateENI(w.wanted(ctx), cloud.CreateENIRequest{
			Token: intent.Token, VSwitchID: intent.VSwitchID, SecurityGroups: groups, SecondaryCount: intent.RequestedAddresses - 1,
			Name: fit("terway-"+w.name, maxName), Description: fit("pods of node "+w.name, maxDescription), Tags: tags,
		})
		w.did("create", err)
		w.tried(operation, err)
		if err != nil {
			w.notCreated(&intent, err)
			errs = append(errs, fmt.Errorf("create an ENI in vSwitch %s: %w", intent.VSwitchID, err))
		} else {
			w.vswitches.take(intent.VSwitchID, len(c.Addresses))
			cidrs, gateways, err := w.vswitches.ranges(ctx, w.facts.instance.VPCID, c.VSwitchID)
			if err != nil {
				errs = append(errs, err)
				continue // the intent stays and is repeated
			}
			e := w.spec(intent.Token)
			fill(&w.nn.Spec, e, c, segment{cidrs, gateways})
			e.Phase = v1alpha1.ENIAttaching
			w.mem.made(w.Now(), c.ID)
			for _, a := range c.Addresses {
				w.mem.made(w.Now(), a.String())
			}
		}
		if err := w.save(ctx); err != nil {
			return err
		}
	}
	return errors.Join(errs...)
}

// notCreated decides what happens to an intent that failed. If the cloud answered that nothing was
// created, the intent is removed, so that the next plan may choose another vSwitch. If that is
// unknown, the intent stays with its token. If an ENI was created after all, it is found by its
// tags.
func (w *work) notCreated(intent *v1alpha1.ENI, err error) {
	switch cloud.ClassOf(err) {
	case cloud.VSwitchFull:
		w.vswitches.full(intent.VSwitchID)
	case cloud.Quota, cloud.Auth, cloud.Invalid, cloud.NotFound:
		w.rememberRefusal(createOperation, err)
	default:
		return
	}
	w.nn.Spec.ENIs = slices.DeleteFunc(w.nn.Spec.ENIs, func(e v1alpha1.ENI) bool { return e.Token == intent.Token })
}

// attach advances the attachment of a new ENI.
func (w *work) attach(ctx context.Context, e *v1alpha1.ENI, c *cloud.ENI) error {
	now, soon := w.Now(), w.Poll
	if w.inUse(e) { // somebody detached it: its pods have no network now
		soon /= 4
	}
	at := w.mem.attaching[e.Token]
	if at == nil {
		at = &attaching{since: now}
		w.mem.attaching[e.Token] = at
	}
	made := w.mem.making[e.Token]
	if made == nil {
		made = &making{available: true} // by an earlier process
	}
	if !made.available && c.Status != cloud.ENICreating {
		made.available = true
		w.metrics.creation.Observe(now.Sub(made.created).Seconds())
	}
	switch c.Status {
	case cloud.ENIInUse:
		if c.InstanceID != w.nn.Spec.InstanceID {
			w.once("ENIElsewhere", fmt.Sprintf("ENI %s of this node is attached to instance %s", e.ID, c.InstanceID), func(m string) {
				w.warnAll("ENIElsewhere", "%s; detach it there", m)
			})
			w.again(w.Park)
			return nil
		}
		delete(w.mem.attaching, e.Token)
		if delete(w.mem.making, e.Token); !made.attached.IsZero() {
			w.metrics.attachment.Observe(now.Sub(made.attached).Seconds())
		}
		e.Phase = v1alpha1.ENIReady
		w.tell("ENIAttached", "ENI %s is attached, with %d addresses of vSwitch %s", e.ID, len(e.Addresses), e.VSwitchID)
		if len(c.Addresses) != len(e.Addresses) {
			w.mem.needsCompare.Store(true)
		}
	case cloud.ENIAvailable:
		if now.Before(at.next) {
			w.again(max(at.next.Sub(now), w.Poll))
			return nil
		}
		at.attempts++
		// A failed attachment ends in Available again: retry with growing pauses.
		at.next = now.Add(min(w.Poll<<min(at.attempts, 10), w.Park))
		err := w.Cloud.AttachENI(w.wanted(ctx), e.ID, w.nn.Spec.InstanceID)
		if w.did("attach", err) {
			at.attempts, at.next = at.attempts-1, time.Time{}
			return err
		}
		if err == nil {
			if made.attached.IsZero() {
				made.attached = now
			}
			w.again(soon)
			w.mem.made(w.Now(), e.ID)
			return nil
		}
		w.again(max(at.next.Sub(now), w.Poll))
		if cloud.ClassOf(err) == cloud.Quota && !w.inUse(e) {
			// ENIs of others use the instance's slots. This one has no slot.
			w.rememberRefusal(createOperation, err)
			e.Phase = v1alpha1.ENIDetaching
			return errors.Join(fmt.Errorf("attach ENI %s to %s: %w", e.ID, w.nn.Spec.InstanceID, err), w.countForeign(ctx))
		}
		return fmt.Errorf("attach ENI %s to %s: %w", e.ID, w.nn.Spec.InstanceID, err)
	default:
		w.again(soon)
	}
	return nil
}

// inUse reports whether a pod has an address of the ENI.
func (w *work) inUse(e *v1alpha1.ENI) bool {
	return slices.ContainsFunc(w.nn.Status.Used, func(u v1alpha1.UsedAddress) bool { return has(e, parse(u.Address)) })
}

// stuck reports whether an ENI takes too long to attach.
func (w *work) stuck(e *v1alpha1.ENI) bool {
	at := w.mem.attaching[e.Token]
	return e.Phase == v1alpha1.ENIAttaching && at != nil && w.Now().Sub(at.since) > stuckAfter
}

// giveBack advances the removal of an ENI. A call without a visible effect is repeated with growing
// pauses: the list may be old.
func (w *work) giveBack(ctx context.Context, c *cloud.ENI) error {
	l := w.mem.leaving[c.ID]
	if l == nil || l.status != c.Status {
		l = &leaving{status: c.Status}
		w.mem.leaving[c.ID] = l
	}
	if c.Status != cloud.ENIInUse && c.Status != cloud.ENIAvailable {
		w.again(w.Poll)
		return nil // in progress; the next reconcile decides
	}
	if wait := l.next.Sub(w.Now()); wait > 0 {
		w.again(max(wait, w.Poll))
		return nil
	}
	l.attempts++
	l.next = w.Now().Add(min(w.Poll<<min(l.attempts, 10), w.Park))
	switch c.Status {
	case cloud.ENIInUse:
		err := w.Cloud.DetachENI(unwanted(ctx), c.ID, c.InstanceID)
		if w.did("detach", err) {
			l.attempts, l.next = l.attempts-1, time.Time{}
			return err
		}
		if err != nil {
			w.again(max(l.next.Sub(w.Now()), w.Poll))
			return fmt.Errorf("detach ENI %s from %s: %w", c.ID, c.InstanceID, err)
		}
	case cloud.ENIAvailable:
		err := w.Cloud.DeleteENI(unwanted(ctx), c.ID)
		if w.did("delete", err) {
			l.attempts, l.next = l.attempts-1, time.Time{}
			return err
		}
		if err != nil {
			w.again(max(l.next.Sub(w.Now()), w.Poll))
			return fmt.Errorf("delete ENI %s: %w", c.ID, err)
		}
	}
	w.again(w.Poll)
	return nil
}
