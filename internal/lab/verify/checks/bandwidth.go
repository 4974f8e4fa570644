package checks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

// Checks of bandwidth limits (docs/bandwidth.md). The limits are far below what any path does without one, also on a
// busy machine. What a pod sends is judged by what its devices counted, and what it receives by what arrived, with wide bounds: how close they come to a limit is for
// "make bench-bandwidth".
const (
	// limitText and limitBits are the limit in most checks, as an annotation and in bit/s.
	limitText = "20M"
	limitBits = 20e6
	// limitBytesText is limitBytesBits with the unit of the older annotations: bytes/s.
	limitBytesText = "2M"
	limitBytesBits = 2 << 20 * 8
	// streaming is how long a stream is measured.
	streaming = time.Second
	// leastOfLimit and mostOfLimit are the bounds of rate ÷ limit. Packets of many segments are counted with one header, and
	// what arrives without any, which are 4 % less.
	leastOfLimit, mostOfLimit = 0.6, 1.5
	// withoutLimit is how much faster than limitBits a direction without a limit must be at least.
	withoutLimit = 3
)

var noLimitsOfFlannel = map[string]string{lab.NetworkFlannel: "Flannel does not limit pods' bandwidth"}

var bandwidthEgress = verify.Check{
	Name:   "bandwidth-egress",
	About:  "what a pod with kubernetes.io/egress-bandwidth sends to pods and nodes is limited, what it receives is not",
	NotFor: noLimitsOfFlannel,
	Run: run(func(ctx context.Context, e *env) (string, error) {
		return e.oneDirection(ctx, map[string]string{bandwidth.Egress: limitText}, true, limitBits)
	}),
}

var bandwidthIngress = verify.Check{
	Name:   "bandwidth-ingress",
	About:  "what a pod with k8s.aliyun.com/ingress-bandwidth, in bytes, receives from pods and nodes is limited, what it sends is not",
	NotFor: noLimitsOfFlannel,
	Run: run(func(ctx context.Context, e *env) (string, error) {
		return e.oneDirection(ctx, map[string]string{bandwidth.IngressBytes: limitBytesText}, false, limitBytesBits)
	}),
}

// oneDirection measures a pod that is limited in one direction.
func (e *env) oneDirection(ctx context.Context, annotations map[string]string, egress bool, limit float64) (string, error) {
	na, nb, err := e.TwoNodes()
	if err != nil {
		return "", err
	}
	ends, err := e.limitedEnds(ctx, annotations, na, nb)
	if err != nil {
		return "", err
	}
	own, far := ends[0], ends[1]
	paths := []path{
		{"pod of " + nb.Name, far, egress, limit}, {nb.Name, instruments.MachineEnd(nb), egress, limit}, {"its node", instruments.MachineEnd(na), egress, limit},
		{"pod of " + nb.Name, far, !egress, 0},
	}
	return e.measure(ctx, own, limit, paths)
}

var bandwidthSameNode = verify.Check{
	Name:   "bandwidth-same-node",
	About:  "limits hold between pods of one node too, and for a pod that reaches itself through its Service",
	NotFor: noLimitsOfFlannel,
	Run: run(func(ctx context.Context, e *env) (string, error) {
		m := e.Lab.Machines[0]
		ends, err := e.limitedEnds(ctx, map[string]string{bandwidth.Ingress: limitText, bandwidth.Egress: limitText}, m, m)
		if err != nil {
			return "", err
		}
		own, near := ends[0], ends[1]
		measured, err := e.measure(ctx, own, limitBits, []path{{"pod of its node", near, true, limitBits}, {"pod of its node", near, false, limitBits}})
		if err != nil {
			return measured, err
		}
		more, err := e.throughOwnService(ctx, own)
		return measured + "; " + more, err
	}),
}

// throughOwnService measures what a pod sends to itself through its Service, which sends it back.
func (e *env) throughOwnService(ctx context.Context, own instruments.End) (string, error) {
	pods, err := e.Ready(ctx, "limited")
	if err != nil {
		return "", err
	}
	var echoes instruments.Echoes
	defer echoes.Close()
	if err := echoes.Serve(own.NetNS); err != nil {
		return "", err
	}
	service, err := e.trafficService(ctx, pods[0])
	if err != nil {
		return "", err
	}
	ip, err := netip.ParseAddr(service)
	if err != nil {
		return "", fmt.Errorf("address of Service traffic: %w", err)
	}
	at := netip.AddrPortFrom(ip, instruments.TrafficPort).String()
	if err := e.Poll(ctx, "the Service to answer its pod", func() (bool, error) {
		got, err := instruments.Reach(ctx, own.NetNS, "tcp", at)
		return got == instruments.Open, err
	}); err != nil {
		return "", err
	}
	rates, err := instruments.RatesDuring(own.NetNS, func() error { return instruments.EchoFor(ctx, own.NetNS, at, streaming) })
	if err != nil {
		return "", err
	}
	text, err := judged("from itself through its Service", rates.Sent, limitBits)
	if err != nil {
		return text, err
	}
	more, err := judged("to itself through its Service", rates.Received, limitBits)
	return text + ", " + more, err
}

var bandwidthLiveChange = verify.Check{
	Name:   "bandwidth-live-change",
	About:  "a pod's limits are changed, removed and set again by its annotations while connections send in both directions: each change has its effect, and the connections stay",
	NotFor: noLimitsOfFlannel,
	Run: run(func(ctx context.Context, e *env) (_ string, err error) {
		na, nb, err := e.TwoNodes()
		if err != nil {
			return "", err
		}
		ends, err := e.limitedEnds(ctx, map[string]string{bandwidth.Ingress: limitText, bandwidth.Egress: limitText}, na, nb)
		if err != nil {
			return "", err
		}
		own, far := ends[0], ends[1]
		var flows []*instruments.Flow
		defer func() {
			for _, f := range flows {
				_, stopped := f.Stop()
				err = errors.Join(err, stopped)
			}
		}()
		for _, p := range []instruments.Pair{{From: own, To: far}, {From: far, To: own}} {
			f, err := p.Start(ctx)
			if err != nil {
				return "", err
			}
			flows = append(flows, f)
		}
		var all []string
		for _, step := range []struct {
			name  string
			value any // of both annotations; nil removes them
			bits  float64
		}{{"at first", limitText, limitBits}, {"changed to 8M", "8M", 0.4 * limitBits}, {"removed", nil, 0}, {"set again", limitText, limitBits}} {
			began := time.Now()
			if err := e.annotate(ctx, "limited", map[string]any{bandwidth.Ingress: step.value, bandwidth.Egress: step.value}); err != nil {
				return "", err
			}
			said, err := e.settles(ctx, own, step.bits)
			all = append(all, fmt.Sprintf("%s: %s after %.1f s", step.name, said, time.Since(began).Seconds()))
			if err != nil {
				return strings.Join(all, "; "), err
			}
		}
		return strings.Join(all, "; ") + "; both connections stayed", nil
	}),
}

// settles waits until what a pod sends and what it receives are as its limits say, 0 for none.
func (e *env) settles(ctx context.Context, own instruments.End, limit float64) (said string, err error) {
	const window = 400 * time.Millisecond
	// Meanwhile the streams take what the machine has.
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("not within 30 s"))
	defer cancel()
	var wrong error
	err = e.Poll(ctx, "the rates to be those of the pod's annotations", func() (bool, error) {
		rates, err := instruments.RatesDuring(own.NetNS, func() error { time.Sleep(window); return nil })
		if err != nil {
			return false, err
		}
		sent, wrongSent := judged("sent", rates.Sent, limit)
		received, wrongReceived := judged("received", rates.Received, limit)
		said, wrong = sent+", "+received, errors.Join(wrongSent, wrongReceived)
		return wrong == nil, nil
	})
	if err != nil {
		return said, errors.Join(err, wrong)
	}
	return said, nil
}

// annotate changes annotations of a pod as a user does; nil removes one.
func (e *env) annotate(ctx context.Context, pod string, annotations map[string]any) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": annotations}})
	if err != nil {
		return fmt.Errorf("encode annotations: %w", err)
	}
	if _, err := e.Client.CoreV1().Pods(e.Namespace).Patch(ctx, pod, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("annotate pod %s: %w", pod, err)
	}
	return nil
}

// path is a way to the other end of a limited pod's stream.
type path struct {
	to     string
	end    instruments.End
	egress bool    // the pod sends; else it receives
	limit  float64 // bit/s; 0: the direction has none
}

// measure streams by each path, one after the other, and judges the rates at the pod.
func (e *env) measure(ctx context.Context, own instruments.End, limit float64, paths []path) (string, error) {
	all := []string{fmt.Sprintf("limit %s", bandwidth.Rate(uint64(limit)))}
	for _, p := range paths {
		rate, err := rateDuring(own, p.egress, func() (float64, error) { return direct(own, p.end, p.egress).Stream(ctx, streaming) })
		if err != nil {
			return strings.Join(all, "; "), err
		}
		text, err := judged(directionOf(p.egress)+" "+p.to, rate, p.limit)
		if all = append(all, text); err != nil {
			return strings.Join(all, "; "), err
		}
	}
	return strings.Join(all, "; "), nil
}

// judged says a rate, and compares it with a limit; 0 is none.
func judged(what string, bits, limit float64) (string, error) {
	if limit == 0 {
		text := fmt.Sprintf("%s %s without a limit", what, bandwidth.Rate(uint64(bits)))
		if bits < withoutLimit*limitBits {
			return text, fmt.Errorf("%s: less than %d × the checks' limits", text, withoutLimit)
		}
		return text, nil
	}
	text := fmt.Sprintf("%s %s (%.2f of the limit)", what, bandwidth.Rate(uint64(bits)), bits/limit)
	if ratio := bits / limit; ratio < leastOfLimit || ratio > mostOfLimit {
		return text, fmt.Errorf("%s: want %.2f to %.2f of %s", text, leastOfLimit, mostOfLimit, bandwidth.Rate(uint64(limit)))
	}
	return text, nil
}

func directionOf(egress bool) string {
	if egress {
		return "to"
	}
	return "from"
}

// rateDuring returns the rate of one direction while f streams: what the pod's devices send, or else what f says that has
// arrived, because the devices also count what an ifb in the pod drops.
func rateDuring(own instruments.End, egress bool, f func() (float64, error)) (float64, error) {
	var arrived float64
	rates, err := instruments.RatesDuring(own.NetNS, func() (err error) {
		arrived, err = f()
		return err
	})
	if egress {
		return rates.Sent, err
	}
	return arrived, err
}

// direct returns the pair of a stream to, or from, the other end.
func direct(own, other instruments.End, egress bool) instruments.Pair {
	if egress {
		return instruments.Pair{From: own, To: other}
	}
	return instruments.Pair{From: other, To: own}
}

// limitedEnds creates pod limited, with annotations, on the first node and pod free, without, on the second.
func (e *env) limitedEnds(ctx context.Context, annotations map[string]string, a, b lab.Machine) ([]instruments.End, error) {
	if err := e.CreateAnnotated(ctx, "limited", annotations, e.PodSpec(a.Name), metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	if err := e.CreatePod(ctx, "free", e.PodSpec(b.Name)); err != nil {
		return nil, err
	}
	return e.ends(ctx, "limited", "free")
}

// ends waits for pods, and returns them as ends of connections.
func (e *env) ends(ctx context.Context, names ...string) ([]instruments.End, error) {
	pods, err := e.Ready(ctx, names...)
	if err != nil {
		return nil, err
	}
	ends := make([]instruments.End, len(pods))
	for i, p := range pods {
		if ends[i], err = instruments.PodEnd(p); err != nil {
			return nil, err
		}
	}
	return ends, nil
}
