package checks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"terway.dev/terway/internal/agent"
	"terway.dev/terway/internal/kernel"
	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

var outboundNAT = verify.Check{
	Name:   "outbound-nat",
	About:  "a pod reaches an instance of the VPC outside the cluster, which sees the address of the pod's node",
	NotFor: map[string]string{lab.NetworkTerway: vpcAddresses},
	Beside: true,
	Run: run(func(ctx context.Context, e *env) (_ string, err error) {
		at, stop, err := e.echo()
		if err != nil {
			return "", err
		}
		defer func() { err = errors.Join(err, stop()) }()
		pods, err := e.PodOn(ctx, e.Lab.Machines...)
		if err != nil {
			return "", err
		}
		var lines []string
		for i, p := range pods {
			m := e.Lab.Machines[i]
			seen, err := e.Curl(ctx, p.Name, "http://"+at)
			if err != nil {
				return "", fmt.Errorf("pod on %s to %s: %w", m.Name, e.Lab.Master.Name, err)
			}
			if instruments.HostOf(seen) != m.Address.String() {
				return "", fmt.Errorf("%s saw the pod %s of %s as %s, want the node's address %s", e.Lab.Master.Name, p.Status.PodIP, m.Name, seen, m.Address)
			}
			lines = append(lines, fmt.Sprintf("%s of %s is seen as %s", p.Status.PodIP, m.Name, m.Address))
		}
		return fmt.Sprintf("from %s: %s", at, strings.Join(lines, "; ")), nil
	}),
}

// echo starts a server on the control plane's instance that answers with the client's address.
func (e *env) echo() (at string, stop func() error, err error) {
	var l net.Listener
	if err := kernel.InNSAt(e.Lab.Master.NetNS, func() (err error) {
		l, err = net.Listen("tcp4", net.JoinHostPort(e.Lab.Master.Address.String(), "0"))
		return err
	}); err != nil {
		return "", nil, fmt.Errorf("listen on %s: %w", e.Lab.Master.Name, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- agent.ServeHTTP(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.RemoteAddr) }))
	}()
	return l.Addr().String(), func() error {
		cancel()
		return <-done
	}, nil
}
