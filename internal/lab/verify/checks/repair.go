package checks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"terway.dev/terway/internal/lab"
	"terway.dev/terway/internal/lab/instruments"
	"terway.dev/terway/internal/lab/verify"
)

var repair = verify.Check{
	Name: "repair",
	About: "deleted rules, routes, tables and links of a node are restored because of the kernel's events (the periodic check is an hour away); " +
		"the gap that each of three probes of 100/s sees is measured",
	NotFor:  map[string]string{lab.NetworkFlannel: "nothing of Terway's is in a node's kernel"},
	Trouble: true, Shared: true,
	Run: run(func(ctx context.Context, e *env) (_ string, err error) {
		na, nb, err := e.TwoNodes()
		if err != nil {
			return "", err
		}
		defer func() { err = errors.Join(err, e.putAgentsBackSurely(ctx)) }()
		if err := e.changeAgents(ctx, lookRarely); err != nil {
			return "", err
		}
		pods, err := e.PodOn(ctx, na, nb)
		if err != nil {
			return "", err
		}
		by, err := e.Carrier(ctx, na, pods[0])
		if err != nil {
			return "", err
		}
		near, err := instruments.PodNetNS(pods[0])
		if err != nil {
			return "", err
		}
		far, err := instruments.PodNetNS(pods[1])
		if err != nil {
			return "", err
		}
		// The pods answer probes, and each probe opens a new connection: an established one
		// would notice little if packets bypass the host stack.
		var there instruments.Echoes
		defer there.Close()
		for _, ns := range []string{near, far} {
			if err := there.Serve(ns); err != nil {
				return "", err
			}
		}
		probes := []*instruments.Probe{
			{Name: "pod → pod of the other node", NetNS: near, To: pods[1].Status.PodIP},
			{Name: "pod of the other node → pod", NetNS: far, To: pods[0].Status.PodIP},
			{Name: "node → its pod", NetNS: na.NetNS, To: pods[0].Status.PodIP},
		}
		var lines []string
		for _, c := range []struct {
			name     string
			commands []string
		}{
			{"rules flushed", []string{"ip rule flush protocol 84", "ip -6 rule flush protocol 84"}},
			{"routes flushed", []string{"ip route flush table all proto 84", "ip -6 route flush table all proto 84"}},
			{"nftables tables deleted", []string{"nft delete table inet terway", "nft delete table ip terway-nat"}},
			{"link of " + by.ENI.ID + " down and up", []string{"ip link set " + by.Dev.Name + " down", "ip link set " + by.Dev.Name + " up"}},
		} {
			gaps, err := e.cut(ctx, na.Name, probes, c.commands)
			if err != nil {
				return strings.Join(lines, "; "), fmt.Errorf("%s on %s: %w", c.name, na.Name, err)
			}
			lines = append(lines, c.name+": "+gaps)
		}
		return "longest gaps, " + strings.Join(lines, "; "), nil
	}),
}

// repairPatience is how long a repair that a kernel event triggers may take; the next periodic
// check is lookPeriod away.
const (
	repairPatience = 30 * time.Second
	lookPeriod     = time.Hour
)

// cut runs commands on a node while the probes run, waits until Terway's kernel state is as it
// was and the probes are answered, and returns their gaps.
func (e *env) cut(ctx context.Context, node string, probes []*instruments.Probe, commands []string) (string, error) {
	run := func(args ...string) (string, error) { return e.onNode(node, args...) }
	before, err := programmed(run)
	if err != nil {
		return "", err
	}
	for _, p := range probes {
		p.Start()
	}
	stop := sync.OnceFunc(func() {
		for _, p := range probes {
			p.Stop()
		}
	})
	defer stop()
	if err := e.within(ctx, repairPatience, "the probes to be answered at first", instruments.Answered(probes)); err != nil {
		return "", err
	}
	for _, c := range commands {
		if _, err := e.onNode(node, strings.Fields(c)...); err != nil {
			return "", err
		}
	}
	var now string
	if err := e.within(ctx, repairPatience, "the kernel of "+node+" to have again what it had", func(context.Context) (_ bool, err error) {
		now, err = programmed(run)
		return now == before, err
	}); err != nil {
		return "", fmt.Errorf("%w; it had\n%s\nand has\n%s", err, before, now)
	}
	for _, p := range probes {
		p.Mark()
	}
	if err := e.within(ctx, repairPatience, "the probes to be answered again", instruments.Answered(probes)); err != nil {
		return "", err
	}
	stop()
	var gaps []string
	for _, p := range probes {
		gaps = append(gaps, fmt.Sprintf("%s %d ms", p.Name, p.Gap().Milliseconds()))
	}
	return strings.Join(gaps, ", "), nil
}

// programmed lists Terway's rules, routes and tables on a node, including its rules in other
// chains. They are sorted: a table that is written again may have another order. Map elements
// of pods are left out; the probes test them. run runs a program on the node.
func programmed(run func(args ...string) (string, error)) (string, error) {
	var all []string
	for _, c := range []struct{ command, only string }{
		{"ip rule show", ""}, {"ip -6 rule show", ""},
		{"ip route show table all proto 84", ""}, {"ip -6 route show table all proto 84", ""},
		{"nft -s -t list table inet terway", ""}, {"nft -s -t list table ip terway-nat", ""}, {"nft -s -t list table ip6 terway-nat", ""},
		{"nft -s -t list chain ip filter FORWARD", `"terway: `}, {"nft -s -t list chain ip6 filter FORWARD", `"terway: `},
	} {
		out, err := run(strings.Fields(c.command)...)
		if err != nil && strings.HasPrefix(c.command, "nft") {
			out, err = c.command+": not there", nil
		}
		if err != nil {
			return "", err
		}
		lines := slices.DeleteFunc(strings.Split(out, "\n"), func(l string) bool {
			return strings.TrimSpace(l) == "" || !strings.Contains(l, c.only)
		})
		slices.Sort(lines)
		all = append(all, lines...)
	}
	return strings.Join(all, "\n"), nil
}

// onNode runs a program in a node's namespaces.
func (e *env) onNode(node string, args ...string) (string, error) {
	cmd, err := e.Lab.Shell(node, args)
	if err != nil {
		return "", err
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("on %s: %s: %w: %s", node, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return string(out), nil
}
