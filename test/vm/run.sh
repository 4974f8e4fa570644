#!/bin/sh
# Runs the tests of the datapaths in virtual machines (see main.go), two at a time: each
# has one processor. The tag vm adds the tests that need such a machine's kernel.
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

# All that a datapath does where this machine's kernel cannot show it, and how packets go in
# the others. The older kernel has no tcx and no netkit.
packets='^TestSupported|^TestSuite$/^(pods of|node and pods|a spoofed|masquerade outside|pod to Service|hairpin|NodePort|hostPort|ICMP errors|teardown)'
# Package exclusive has tests of its own for what it leaves out of the suite.
own='^(TestEveryoneReachesIt|TestServices|TestRepair|TestDelBrings.*)$'
on 6.12 ./internal/datapath/ipvlan ./internal/datapath/netkit
on 6.12 -run "$packets|$own" ./internal/datapath/route ./internal/datapath/ebpf ./internal/datapath/exclusive
on 6.1 -run "$packets" ./internal/datapath/route ./internal/datapath/ebpf ./internal/datapath/ipvlan
