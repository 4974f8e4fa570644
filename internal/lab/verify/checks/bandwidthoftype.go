package checks

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/catalog"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
	"terway.dev/terway/internal/vpcsim/faults"
)

const (
	// besideText and besideBits are the limit of a pod on a node whose bandwidth another pod uses up.
	besideText = "100M"
	besideBits = 100e6
	// mostOfType is the bound of a node's rate ÷ the bandwidth of its type, of which the simulator lets 50 ms pass at once.
	mostOfType = 1.1
	// enoughOfType is how much of it the pod without a limit must send at least, so that something is held back.
	enoughOfType = 1.25
	// tooMuch is a bandwidth of a type that not every machine can exceed, in bit/s.
	tooMuch = 5e9
	// blasting is how long they send.
	blasting = 1500 * time.Millisecond
)

var bandwidthOfType = verify.Check{
	Name: "bandwidth-of-type",
	About: "while the simulated cloud holds instances to their type's bandwidth, a pod without a limit that sends more than that and one with a limit on the same node: " +
		"both together get no more than the type's, and the other one no more than its limit",
	NotFor: noLimitsOfFlannel,
	Once:   true,
	Run: run(func(ctx context.Context, e *env) (_ string, err error) {
		na, nb, err := e.TwoNodes()
		if err != nil {
			return "", err
		}
		types, err := catalog.Open(e.Lab.Options.Catalogue)
		if err != nil {
			return "", err
		}
		kind, ok := types.Lookup(na.Type)
		if !ok || kind.BandwidthBase == 0 {
			return "", fmt.Errorf("the table of instance types has no bandwidth for %s, the type of %s", na.Type, na.Name)
		}
		most := kind.BandwidthBase * 1e9
		if most > tooMuch {
			return "", instruments.NothingToTest(fmt.Sprintf("%s, the type of %s, has %s, and this machine may not send as much: choose an --instance-type with %s or less",
				na.Type, na.Name, bandwidth.Rate(uint64(most)), bandwidth.Rate(tooMuch)))
		}
		if err := e.CreateAnnotated(ctx, "limited", map[string]string{bandwidth.Egress: besideText}, e.PodSpec(na.Name), metav1.CreateOptions{}); err != nil {
			return "", err
		}
		for name, node := range map[string]string{"free": na.Name, "limited-to": nb.Name, "free-to": nb.Name} {
			if err := e.CreatePod(ctx, name, e.PodSpec(node)); err != nil {
				return "", err
			}
		}
		ends, err := e.ends(ctx, "limited", "limited-to", "free", "free-to")
		if err != nil {
			return "", err
		}
		limited, free := instruments.Pair{From: ends[0], To: ends[1]}, instruments.Pair{From: ends[2], To: ends[3]}
		if err := e.Lab.Cloud.AddFault(ctx, faults.Rule{Name: faultName, TypeBandwidth: true}); err != nil {
			return "", err
		}
		defer func() { err = errors.Join(err, e.Lab.Cloud.RemoveFault(context.WithoutCancel(ctx), faultName)) }()
		// When the cloud has answered, the fabric is as it says.
		if _, err := e.Lab.Cloud.ENIs(ctx, na.InstanceID); err != nil {
			return "", err
		}
		var rates [4]instruments.Rates // limited, limited-to, free, free-to
		measure := func() error { return blastBoth(ctx, limited, free) }
		for i := range ends {
			inner := measure
			measure = func() (err error) {
				rates[i], err = instruments.RatesDuring(ends[i].NetNS, inner)
				return err
			}
		}
		if err := measure(); err != nil {
			return "", err
		}
		together := rates[1].Received + rates[3].Received
		said, wrong := judged("the limited pod sent", rates[0].Sent, besideBits)
		measured := fmt.Sprintf("%s (%s) has %s; a pod without a limit sent %s; %s; the pods of %s received %s of both (%.2f of the type's), of the limited one %s",
			na.Name, na.Type, bandwidth.Rate(uint64(most)), bandwidth.Rate(uint64(rates[2].Sent)), said, nb.Name,
			bandwidth.Rate(uint64(together)), together/most, bandwidth.Rate(uint64(rates[1].Received)))
		switch {
		case rates[2].Sent < enoughOfType*most:
			wrong = errors.Join(wrong, fmt.Errorf("the pod without a limit sent less than %.2f of the type's bandwidth: nothing was held back", enoughOfType))
		case together > mostOfType*most:
			wrong = errors.Join(wrong, fmt.Errorf("both pods together have %.2f of the type's bandwidth, want at most %.2f", together/most, mostOfType))
		case together < leastOfLimit*most:
			wrong = errors.Join(wrong, fmt.Errorf("both pods together have %.2f of the type's bandwidth, want at least %.2f", together/most, leastOfLimit))
		}
		return measured, wrong
	}),
}

// blastBoth sends datagrams by two pairs at once.
func blastBoth(ctx context.Context, a, b instruments.Pair) error {
	done := make(chan error, 1)
	go func() { done <- a.Blast(ctx, blasting) }()
	return errors.Join(b.Blast(ctx, blasting), <-done)
}
