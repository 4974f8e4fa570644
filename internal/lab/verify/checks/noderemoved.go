package checks

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

var nodeRemoved = verify.Check{
	Name:   "node-removed",
	About:  "a deleted node loses its route entry, and a foreign entry in the pod CIDR stays; after it is registered again the node has a block, an entry, and pods that others reach",
	NotFor: map[string]string{lab.NetworkTerway: vpcAddresses},
	Run: run(func(ctx context.Context, e *env) (_ string, err error) {
		na, nb, err := e.TwoNodes()
		if err != nil {
			return "", err
		}
		blocks, err := e.blocks(ctx)
		if err != nil {
			return "", err
		}
		old := blocks[nb.Name]
		// It has the same instance, so only its name distinguishes it from the node's own.
		foreign, err := e.addForeign(ctx, nb, blocks)
		if err != nil {
			return "", err
		}
		defer func() { err = errors.Join(err, e.removeForeign(ctx, foreign, nb)) }()
		back := false
		defer func() {
			if !back {
				// The lab keeps its nodes after any failure.
				_, again := instruments.Kill("kubelet", nb)
				err = errors.Join(err, again)
			}
		}()
		if err := e.deleteNode(ctx, nb); err != nil {
			return "", err
		}
		if err := e.Poll(ctx, fmt.Sprintf("the route entry for %s to be gone", old), func() (bool, error) {
			routes, err := e.podRoutes(ctx)
			_, there := routes[old]
			return err == nil && !there, err
		}); err != nil {
			return "", err
		}
		block, err := e.registerAgain(ctx, nb)
		if err != nil {
			return "", err
		}
		back = true
		// Immediately: as long as the node cannot run pods, its taints and conditions must
		// prevent them.
		answer, err := e.newPodAnswers(ctx, na, nb, block)
		if err != nil {
			return "", err
		}
		routes, err := e.podRoutes(ctx)
		if err != nil {
			return "", err
		}
		if r := routes[block]; r.Via != nb.InstanceID || r.Status != "Available" {
			return "", fmt.Errorf("pods run on %s, whose block %s has the entry %q to %q; want one to %s", nb.Name, block, r.Status, r.Via, nb.InstanceID)
		}
		if r, there := routes[foreign]; !there || r.Via != nb.InstanceID || r.Status != "Available" {
			return "", fmt.Errorf("the entry for %s, which is not the cluster's, was to %s before; now it is %q to %q", foreign, nb.InstanceID, r.Status, r.Via)
		}
		return fmt.Sprintf("%s deleted: the entry for %s went, the foreign entry for %s stayed; registered again: block %s, entry to %s, and its pod %s",
			nb.Name, old, foreign, block, nb.InstanceID, answer), nil
	}),
}

// foreignName is the name of an entry that does not belong to the cluster.
const foreignName = "somebody-elses"

// addForeign adds an entry in the pod CIDR that does not belong to the cluster, for the last
// addresses, which are in no node's block.
func (e *env) addForeign(ctx context.Context, to lab.Machine, blocks map[string]netip.Prefix) (netip.Prefix, error) {
	all := e.Lab.Options.Plan.PodCIDR
	last := all.Masked().Addr().As4()
	for i := all.Bits(); i < 32; i++ {
		last[i/8] |= 1 << (7 - i%8)
	}
	dest := netip.PrefixFrom(netip.AddrFrom4(last), 28).Masked()
	for node, b := range blocks {
		if b.Overlaps(dest) {
			return dest, fmt.Errorf("%s is of the block %s of %s: the check needs a pod CIDR with room", dest, b, node)
		}
	}
	routes, err := e.podRoutes(ctx)
	if err != nil {
		return dest, err
	}
	if r, there := routes[dest]; there && r.Name == foreignName { // left by a check that was killed
		if err := e.removeForeign(ctx, dest, lab.Machine{InstanceID: r.Via}); err != nil {
			return dest, err
		}
	}
	if err := e.Lab.Cloud.AddRoute(dest, to.InstanceID, foreignName); err != nil {
		return dest, err
	}
	return dest, e.Poll(ctx, "the entry for "+dest.String(), func() (bool, error) {
		routes, err := e.podRoutes(ctx)
		return err == nil && routes[dest].Status == "Available", err
	})
}

// removeForeign removes it, also after a failure or an interrupt, and waits until it is gone.
func (e *env) removeForeign(ctx context.Context, dest netip.Prefix, to lab.Machine) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), time.Minute, errors.New("not gone within a minute"))
	defer cancel()
	var refused error
	err := e.Poll(ctx, "the entry for "+dest.String()+" to be gone", func() (bool, error) {
		routes, err := e.podRoutes(ctx)
		if err != nil {
			return false, err
		}
		r, there := routes[dest]
		if there && r.Status == "Available" { // refused while the VPC is busy
			refused = e.Lab.Cloud.RemoveRoute(dest, to.InstanceID)
		}
		return !there, nil
	})
	if err != nil {
		return errors.Join(err, refused)
	}
	return nil
}

// deleteNode deletes a node and its pods. Kubernetes' garbage collection would delete the pods with the same request, but waits
// for a minute before, in case the node is registered again.
func (e *env) deleteNode(ctx context.Context, m lab.Machine) error {
	onNode := metav1.ListOptions{FieldSelector: "spec.nodeName=" + m.Name}
	there, err := e.Client.CoreV1().Pods("").List(ctx, onNode)
	if err != nil {
		return fmt.Errorf("list the pods of %s: %w", m.Name, err)
	}
	if err := e.Client.CoreV1().Nodes().Delete(ctx, m.Name, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("delete node %s: %w", m.Name, err)
	}
	for _, p := range there.Items {
		at := metav1.DeleteOptions{GracePeriodSeconds: new(int64), Preconditions: metav1.NewUIDPreconditions(string(p.UID))}
		err := e.Client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, at)
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("delete pod %s/%s: %w", p.Namespace, p.Name, err)
		}
	}
	if err := e.Poll(ctx, "the pods of "+m.Name+" to be forgotten", func() (bool, error) {
		for _, p := range there.Items {
			now, err := e.Client.CoreV1().Pods(p.Namespace).Get(ctx, p.Name, metav1.GetOptions{})
			if err == nil && now.UID == p.UID {
				return false, nil
			}
			if err != nil && !apierrors.IsNotFound(err) {
				return false, err
			}
		}
		return true, nil
	}); err != nil {
		return err
	}
	// On the node, the kubelet ends them later. Those of a registered node would find their ports
	// in use.
	return e.Poll(ctx, "the processes of the pods of "+m.Name+" to end", func() (bool, error) {
		for _, name := range []string{"flanneld", "terwayd", "terway-controller"} {
			ps, err := lab.ProcessesIn(m.NetNS, name)
			if err != nil || len(ps) > 0 {
				return false, err
			}
		}
		return true, nil
	})
}

// newPodAnswers creates pods on two nodes, of which the second has just been registered again,
// and returns the answer between them.
func (e *env) newPodAnswers(ctx context.Context, na, nb lab.Machine, block netip.Prefix) (string, error) {
	pods, err := e.PodOn(ctx, na, nb)
	if err != nil {
		return "", err
	}
	got := pods[1].Status.PodIP
	if addr, err := netip.ParseAddr(got); err != nil || !block.Contains(addr) {
		return "", fmt.Errorf("a new pod of %s, which was registered again, has %q, which is not of its block %s", nb.Name, got, block)
	}
	seen, err := e.Curl(ctx, pods[0].Name, instruments.URL(got, instruments.HTTPPort, "clientip"))
	if err != nil {
		return "", fmt.Errorf("pod on %s to the pod on %s, which was registered again: %w", na.Name, nb.Name, err)
	}
	return got + " answered " + instruments.HostOf(seen), nil
}

// registerAgain restarts a kubelet, which registers its node, and waits until the node has a
// block.
func (e *env) registerAgain(ctx context.Context, m lab.Machine) (block netip.Prefix, err error) {
	if _, err := instruments.Kill("kubelet", m); err != nil {
		return block, err
	}
	err = e.Poll(ctx, m.Name+" to be registered again with a block", func() (bool, error) {
		n, err := e.Client.CoreV1().Nodes().Get(ctx, m.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && n.Spec.PodCIDR == "" {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		block, err = e.blockOf(n)
		return err == nil, err
	})
	return block, err
}
