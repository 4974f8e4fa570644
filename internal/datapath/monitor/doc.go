// Package monitor listens to what the kernel says of changes in the node's network
// namespace and asks for a repair as soon as somebody took away or changed what the
// datapath made, long before the periodic look.
//
// It watches links, IPv4 addresses, routes, rules and the configuration of devices
// (rp_filter, forwarding), and nftables. It only reads: what is wrong, and how to put it
// right, is Sync's to find out. So an event that means nothing costs one Sync, and an
// event that was missed costs the time until the periodic look, which stays.
//
// What counts (see links.go, routes.go, ruleset.go):
//   - a rule of ours that is gone; an ENI's route that is gone or was replaced;
//   - a link, route, map element of a pod that is wired and stays (Options.Pod);
//   - an ENI's device (Options.ENI) that comes, goes or changes, its address, its rp_filter
//     and forwarding, and those of all devices;
//   - anything but additions to maps in the tables inet terway, ip and ip6 terway-nat;
//   - what decides whether forwarded packets pass: a base chain at hook forward that drops by
//     policy, and our own rules in iptables' chain.
//
// Everything else is passed over, whoever does it: kube-proxy rewrites its tables all the
// time, and the datapath itself makes and removes a pod's pieces with each ADD and DEL.
// What we remove ourselves is told from what somebody removes by asking whether the pod
// stays, not by who sent the request. Where that cannot be told (the whole table is
// rewritten by a Sync), the echo costs one Sync that finds nothing, and that is the end of it.
//
// Not watched: what is inside pods' namespaces, neighbours, tc filters and eBPF programs,
// sysctls of pods' devices. The periodic look finds those.
//
// Events within Options.Coalesce are one repair. Somebody who changes our pieces again and
// again does not keep the node busy: after a few repairs in a row each waits twice as long
// as the one before, up to Options.Slowest, and Contended says so.
package monitor
