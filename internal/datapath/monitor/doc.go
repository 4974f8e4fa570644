// Package monitor listens to the kernel's notifications of changes in the node's network namespace
// and requests a repair as soon as somebody removed or changed what Terway made, long before the
// periodic repair.
//
// It watches links, IPv4 addresses, routes, rules, the configuration of devices (rp_filter,
// forwarding), and nftables. It only reads: Sync determines what is wrong, and repairs it. So an
// event without effect costs one Sync, and a missed event costs the time until the periodic repair.
//
// What counts (see links.go, routes.go, ruleset.go):
//
//   - a rule of ours that is gone; an ENI's route that is gone or was replaced;
//   - a link, route or map element of a pod that is wired and stays (Options.Pod);
//   - an ENI's device (Options.ENI) that appears, disappears or changes, its address, its rp_filter
//     and forwarding, and those of all devices;
//   - anything but additions to maps in the tables inet terway, ip and ip6 terway-nat;
//   - what decides whether forwarded packets are accepted: a base chain at hook forward that drops by
//     policy, and our own rules in iptables' chain.
//
// Everything else is ignored: kube-proxy rewrites its tables continuously, and each ADD and DEL
// creates or removes a pod's objects. What we remove ourselves is distinguished from what others
// remove by whether the pod stays, not by the sender. Where that is impossible (a Sync rewrites the
// whole table), our own change costs one more Sync, which finds nothing.
//
// Not watched: pods' namespaces, neighbours, tc filters, eBPF programs, and sysctls of pods'
// devices. The periodic repair covers those.
//
// Events within Options.Coalesce cause one repair. A program that changes our objects repeatedly
// does not keep the node busy: after a few repairs in a row each waits twice as long as the one
// before, up to Options.Slowest, and Contended reports it.
package monitor
