#!/bin/sh
# Runs the tests of the datapaths in virtual machines (see main.go), two at a time: each
# has one processor. The tag vm adds the tests that need such a machine's kernel.
# With arguments it runs those alone: run.sh 6.12 -run TestIPVS ./internal/datapath/netkit
set -eu
cd "$(dirname "$0")/../.."
export CGO_ENABLED=0 GOFLAGS=-trimpath
go build -o bin/vm ./test/vm

on() {
	kernel=$1
	shift
	echo "== Linux $kernel: $(bin/vm --kernel "$kernel" fetch)"
	go test -count=1 -timeout 30m -p 2 -tags vm -exec "$PWD/bin/vm --kernel $kernel" "$@"
}
if [ $# -gt 0 ]; then
	on "$@"
	exit
fi
d=./internal/datapath

# All that a datapath does where this machine's kernel cannot show it, and how packets go
# with the others.
packets='^TestSupported|^TestSuite$/^(pods of|node and pods|a spoofed|odd frames|masquerade outside|pod to Service|hairpin|NodePort|hostPort|ICMP errors|teardown)'
# Package exclusive has tests of its own for what it leaves out of the suite.
own='^(TestFeature|TestEveryoneReachesIt|TestServices|TestRepair|TestDelBrings.*)$'
# How a datapath gets on with others on the node, and through its own end.
others='^TestSuite$/^(FORWARD|a chain of|marks of|forged|each piece|restart)'
# Of the floods those that the rules of kube-proxy make harder: an emulated processor sends a
# million packets in minutes.
on 6.12 -skip '^TestSuite$/^a flood stalls nobody$/^(RST|no answer)$' $d/ipvlan $d/netkit
on 6.12 -run "$packets" $d/route $d/ebpf
on 6.12 -run "$packets|$own|^TestIPVS" $d/exclusive
# What Alibaba Cloud Linux 3 has. No tcx, no netkit, another verifier.
on 5.10 -run "$packets|$others|^TestIPVS|^TestUpgrade" $d/route $d/ebpf $d/nft
on 5.10 -run "$packets|$own|^TestKnownConnections|^TestUpgrade" $d/ipvlan $d/exclusive
on 5.10 $d/monitor $d/firewall $d/policymap
# Between the two: how packets go with each.
on 6.1 -run '^TestSupported|^TestSuite$/^(pods of|masquerade outside|NodePort|teardown)' $d/route $d/ebpf $d/ipvlan
# What ADD and DEL cost, as ratios: route's to the bare requests, ebpf's to route's.
on 5.10 -run '^$' -bench '^BenchmarkPod$' -benchtime 40x $d/node $d/ebpf
# What the filters of a pod cost, in units of its device: docs/benchmarks.md.
for kernel in 5.10 6.1; do
	on $kernel -run '^$' -bench '^BenchmarkAttach$' -benchtime 30x $d/ebpf
done
