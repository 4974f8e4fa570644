#!/bin/sh
# Runs the tests of the datapaths in virtual machines (see main.go), VMS of them at a time, by default as
# many as there are processors: each machine has one. The tag vm adds the tests that need such a
# machine's kernel.
# With arguments it runs those alone: run.sh 6.12 -run TestIPVS ./internal/datapath/netkit
# With ARCH=arm64 the machines, and what runs in them, are for arm64.
set -eu
cd "$(dirname "$0")/../.."
export CGO_ENABLED=0 GOFLAGS=-trimpath ARCH="${ARCH:-amd64}"
go build -o bin/vm ./test/vm
[ "$ARCH" = "$(go env GOARCH)" ] || GOARCH=$ARCH go build -o "bin/vm-$ARCH" ./test/vm
if [ $# -gt 0 ]; then
	kernel=$1
	shift
	exec env GOARCH="$ARCH" go test -count=1 -timeout 30m -tags vm -exec "$PWD/bin/vm --arch $ARCH --kernel $kernel" "$@"
fi

# All that a datapath does where this machine's kernel cannot show it, and how packets go
# with the others.
packets='^TestSupported|^TestSuite$/^(pods of|node and pods|a spoofed|odd frames|masquerade outside|pod to Service|hairpin|NodePort|hostPort|ICMP errors|teardown)'
# The rest about paths, on the older kernel.
paths='^TestSuite$/^(sources are|the pod learns|a smaller|bulk|fragments|a vanished|node to Service|DNS)'
# Package exclusive has tests of its own for what it leaves out of the suite.
own='^(TestFeature|TestEveryoneReachesIt|TestServices|TestRepair|TestDelBrings.*|TestEveryProtocolTurnsAround|TestADirect.*)$'
# How a datapath gets on with others on the node, and through its own end.
others='^TestSuite$/^(FORWARD|a chain of|marks of|forged|each piece|restart)'
# Of the floods those that the rules of kube-proxy make harder: an emulated processor sends a
# million packets in minutes.
easy='^TestSuite$/^a flood stalls nobody$/^(RST|no answer)$'
# Network policies on pods of ipvlan and netkit, of which only such a machine has any: each scenario loads the
# programs of two nodes, which takes an emulated processor half a minute.
policies='^TestPolicy$/^(each path|a running|fragments|ICMP|turned off$)'
# Fewer for the older kernel, whose verifier is another one: packets of each way through the programs.
judged='^TestPolicy$/^(a pod reaches itself|the node.s probes|fragments|ICMP)'

# Network priority: what one pod keeps of 200 Mbit/s beside others is too fast for an emulated processor. Of the kinds that
# are tested outside, whose packets have which class, on the oldest kernel, which has fq_codel too.
fast='^TestPriorities$/^a guaranteed'
ranked='^TestPriorities$/^(every|the total)'

# Limits of bandwidth, with fq_codel, which only such a machine's kernel has. Of the kinds that are tested outside those that
# measure, and route on a kernel without HTB, then without TBF too.
measured='^TestLimits$/^(every path|no more|large)'

# Linux 6.12 has everything. 5.10 is what Alibaba Cloud Linux 3 has: no tcx, no netkit,
# another verifier. 6.1 is between the two: how packets go with each.
# BenchmarkPod: what ADD and DEL cost, as ratios: route's to the bare requests, ebpf's to
# route's. BenchmarkAttach: what the filters of a pod cost, in units of its device:
# docs/benchmarks.md.
# Of policymap's random cases a fifth: all are tried outside.
# The longest first, so that no processor waits for the last one.
list="
6.12 ipvlan '-test.run=$policies'
6.12 ipvlan '-test.skip=$easy|$fast|^Test(Policy|Limits)$'
6.12 netkit '-test.run=$policies'
6.12 netkit '-test.skip=$easy|$fast|^Test(Policy|Limits)$'
5.10 ebpf -test.run=^$ '-test.bench=^BenchmarkPod$' -test.benchtime=10x
5.10 nft '-test.run=$packets|$others|^TestIPVS|^TestUpgrade'
5.10 ebpf '-test.run=$packets|$paths|$others|$judged|^TestIPVS|^TestUpgrade|^TestWhatIsDirect$'
5.10 route '-test.run=$packets|$paths|$others|^TestIPVS|^TestUpgrade'
6.12 exclusive '-test.run=$packets|$own|^TestIPVS$'
5.10 exclusive '-test.run=$packets|$own|^TestIPVSPolicy|^TestKnownConnections|^TestUpgrade'
5.10 ipvlan '-test.run=$packets|$paths|$own|^TestKnownConnections|^TestUpgrade|^TestPoliced|^TestFrames|^TestPodRemoves|^TestNoneIsLeft'
6.12 ebpf '-test.run=$packets|^TestWhatIsDirect$'
6.12 ipvlan '-test.run=^TestLimits$'
6.12 netkit '-test.run=^TestLimits$'
6.12 route '-test.run=$measured|^TestFairQueue$|^TestLimitsOfLesserKernels$'
6.12 exclusive '-test.run=$measured'
6.12 ebpf '-test.run=$measured'
6.12 route '-test.run=$packets'
6.1 ipvlan '-test.run=^TestLimits$'
5.10 route '-test.run=$measured|$ranked'
5.10 ebpf '-test.run=$ranked'
5.10 policymap -test.short
5.10 monitor
5.10 firewall
6.1 ebpf '-test.run=^TestSupported|^TestSuite$/^(pods of|masquerade outside|NodePort|teardown)|^TestWhatIsDirect$'
6.1 ipvlan '-test.run=^TestSupported|^TestSuite$/^(pods of|masquerade outside|NodePort|teardown)|^TestKnownConnections|^TestPoliced|^TestFrames'
6.1 route '-test.run=^TestSupported|^TestSuite$/^(pods of|masquerade outside|NodePort|teardown)'
5.10 node -test.run=^$ '-test.bench=^BenchmarkPod$' -test.benchtime=40x
5.10 ebpf -test.run=^$ '-test.bench=^BenchmarkAttach$' -test.benchtime=30x
6.1 ebpf -test.run=^$ '-test.bench=^BenchmarkAttach$' -test.benchtime=30x
"
kernels='5.10 6.1 6.12'
# Another instruction set: its verifier, its compiler of eBPF, its order of memory.
if [ "$ARCH" = arm64 ]; then
	kernels=6.12
	list="
6.12 ebpf '-test.run=$packets|^TestWhatIsDirect$'
6.12 route '-test.run=$packets'
"
fi
for kernel in $kernels; do
	echo "== Linux $kernel for $ARCH: $(bin/vm --arch "$ARCH" --kernel "$kernel" fetch)"
done
rm -rf bin/vm-tests
mkdir bin/vm-tests
# Each is linked once, for all kernels.
d=./internal/datapath
GOARCH=$ARCH go test -c -tags vm -o bin/vm-tests/ $(printf '%s' "$list" | awk -v d=$d 'NF { print d "/" $2 }' | sort -u)
printf '%s' "$list" | xargs -P "${VMS:-$(nproc)}" -L 1 sh test/vm/job.sh
