# The two commands: "make lab" and "make test". Both run as root on a Debian machine
# with Go; they install what else they need.

# One set of flags for everything, so that programs, tests and the lab share what
# Go has compiled already.
export CGO_ENABLED = 0
export GOFLAGS = -trimpath
# The version that programs report: a tag of git, or VERSION=v1.2.3.
VERSION ?= $(shell git describe --tags --dirty 2>/dev/null || echo dev)
COMMIT ?= $(shell git describe --always --abbrev=40 --exclude='*' --dirty 2>/dev/null)
IN_VERSION = terway.dev/terway/internal/version
GOBUILD = go build -buildvcs=false -ldflags="-s -w -X $(IN_VERSION).version=$(VERSION) -X $(IN_VERSION).commit=$(COMMIT)"

GOBENCH = go test -count=1 -v -timeout 30m -tags bench

# Options of "terway-lab up", for example LAB="--nodes 3 --instance-type ecs.g6.large".
LAB ?=

# Options of "terway-lab compare", for example COMPARE="--networks terway --rounds 51".
COMPARE ?=

# Options of "terway-lab conformance", for example CONFORMANCE="--datapath route,ebpf --suites netpol".
CONFORMANCE ?=

.PHONY: all build images release image-packages lab lab-down verify compare test test-in-turn test-beside test-release test-conformance unit oracle api e2e scale test-vm test-vm-arm64 test-vm-os check bench-datapath bench-packet bench-cni bench-controller bench-fabric bench-policy bench-bandwidth bench-loadbalancer fuzz-policy generate deps clean

all: build

build:
	@mkdir -p bin
	$(GOBUILD) -o bin/ ./cmd/...

# The image for all architectures: dist/terway-image-VERSION.tar. REGISTRY=registry.example.com/namespace pushes it;
# MIRROR=http://mirror.example.com has Debian's packages. docs/release.md describes both targets.
RELEASE = go run -buildvcs=false ./internal/release $(1) --version="$(VERSION)" --commit="$(COMMIT)" \
	$(if $(REGISTRY),--registry="$(REGISTRY)") $(if $(MIRROR),--mirror="$(MIRROR)")

images:
	$(call RELEASE,images)

# All that a release consists of, in dist: image, programs, chart, list of contents, checksums.
release:
	$(call RELEASE,release)

# Pins the versions of Debian's packages that the mirror has now: to be reviewed and committed.
image-packages:
	$(call RELEASE,pin)

lab: build
	bin/terway-lab up --verify $(LAB)

lab-down: build
	bin/terway-lab down

verify: build
	bin/terway-lab verify

# Measures the user guide's comparison of Terway and Flannel, prints it and writes
# docs/comparison.md. OUT=FILE writes all measurements as JSON.
compare: build
	bin/terway-lab compare --out docs/comparison.md $(COMPARE) $(if $(OUT),-o json >$(OUT).part && mv $(OUT).part $(OUT))

# Other projects' suites on a lab for each kind of pods: Kubernetes' specs of NetworkPolicy, of
# sig-network conformance and of load balancers, network-policy-api's conformance suite. DOC=1 writes
# docs/conformance.md and test/conformance. An hour and a quarter for each kind.
test-conformance: build
	bin/terway-lab conformance $(if $(DOC),--keep) $(CONFORMANCE)

# Everything: generated files and linters, unit and privileged tests, policies compared with
# other implementations, their CRDs and the controller with 200 nodes on a real API server, the lab end
# to end. Beside them, with half of the processors, the datapaths in virtual machines and a release: all that has
# only to compute, while the lab mostly waits. What fails does not stop the other side.
test: deps check
	@$(MAKE) --no-print-directory -j2 test-in-turn test-beside VMS=$$(( ($$(nproc) + 1) / 2 ))

# A suite that fails does not hide the others.
test-in-turn:
	@failed=; for t in unit oracle api scale e2e; do $(MAKE) --no-print-directory $$t || failed=1; done; test -z "$$failed"

test-beside:
	@failed=; $(MAKE) --no-print-directory test-vm || failed=1; nice $(MAKE) --no-print-directory test-release && test -z "$$failed"

unit:
	go test -count=1 -timeout 30m ./...
	go test -C internal/lab/modules/kube/sctp -count=1 .

# Comparisons with other implementations: selectors with Calico's parser, NetworkPolicies with
# cyclonus. In a separate module: half a minute the first time, ten seconds later.
oracle:
	go test -C test/oracle -count=1 . -rapid.checks=10000

e2e:
	go test -count=1 -v -timeout 90m -tags e2e ./test/e2e

# A whole release, twice, into a registry on this machine. It compiles everything for arm64, too.
test-release:
	go test -count=1 -v -timeout 30m -tags e2e -run '^TestRelease$$' ./internal/release

# The CRDs of policies on a real API server.
api:
	go test -count=1 -v -timeout 30m -tags e2e ./test/api

# The controller, a real API server, the simulated cloud and 200 nodes' agents.
scale:
	go test -count=1 -v -timeout 30m -tags bench -run '^(TestTwoHundredNodes|TestLeast|TestOwners)$$' ./test/bench/scale

# The datapaths on other kernels in virtual machines: all of them on a new kernel, and on older
# kernels those that they support.
test-vm: deps
	sh test/vm/run.sh

# How packets go on arm64, with route and ebpf on the new kernel. It is not part of "make test".
test-vm-arm64:
	sh test/deps.sh qemu-system-arm
	ARCH=arm64 sh test/vm/run.sh

# Terway beside the programs that configure network devices on a node: systemd-networkd, NetworkManager and
# cloud-init, Debian's own, each in a virtual machine with a Debian system, which the first run makes.
test-vm-os:
	sh test/deps.sh mmdebstrap
	@failed=; for t in Networkd NetworkManager CloudInitNetplan CloudInitNetworkd CloudInitNetworkManager CloudInitIfupdown; do \
		sh test/vm/run.sh "6.12 --debian" -v -run "^Test$$t\$$" ./test/osimage || failed=1; \
	done; test -z "$$failed"

check:
	sh test/check.sh

# How close each datapath comes to the host, and how long a pod takes to get its network;
# docs/benchmarks.md explains the results. OUT=FILE writes JSON, DOC=1 that document;
# DATAPATHS=route,… and ROUNDS=N make it shorter.
bench-datapath:
	$(GOBENCH) -run '^TestDatapath$$' ./test/bench

# The cost of the eBPF programs for a packet. BEFORE=DIR compares with the programs in object
# files of another version, and with GATE=1 a goal that is missed is an error.
bench-packet:
	$(GOBENCH) -p 1 -run '^TestPacket$$' ./internal/datapath/ebpf ./internal/datapath/ipvlan

bench-cni:
	$(GOBENCH) -run '^TestCNI$$' ./test/bench

# The controller in clusters of 1,000 and 5,000 nodes.
bench-controller:
	go test -count=1 -v -timeout 180m -tags bench -run '^TestController$$' ./test/bench/scale

# The cost of the simulated VPC compared with a veth pair, in one run.
bench-fabric:
	$(GOBENCH) -run Throughput ./internal/vpcsim/fabric

# Network policies: what they cost traffic and the start of pods, the hub with 1,000 nodes, a
# decision in the kernel, and compiling. GATE=1 makes a missed goal an error; NODES, PODS,
# POLICIES, CHURN and ROUNDS make it shorter. The hub has a process of its own, whose memory counts.
bench-policy:
	@failed=; for run in 'Policy(Traffic|Pods) ./test/bench' 'PolicyHub ./test/bench/policy' 'Policy(Decisions|TenThousandRules|OneChange) ./test/bench/policy'; do \
		$(GOBENCH) -run "^Test$${run% *}\$$" $${run#* } || failed=1; \
	done; test -z "$$failed"

# Bandwidth limits: how close rates come to them, what they cost the pods without one, a limited pod's start, and what
# network priority costs. GATE=1 makes a missed goal an error; DATAPATHS, ROUNDS and PARTS make it shorter.
PARTS ?= Traffic|Pods|Priority
bench-bandwidth:
	$(GOBENCH) -run '^TestBandwidth($(PARTS))$$' ./test/bench

# Load balancers: requests that fail while pods are upgraded, in labs of its own, with Terway and Flannel; the way to pods
# compared with that through NodePorts; the controller with 50 Services. GATE=1 makes a missed goal an error; ROUNDS
# and CASES (upgrade,leader,throttled,bare,flannel,latency) make it shorter. OUT=FILE writes every failed request as JSON.
bench-loadbalancer: build
	@failed=; for run in 'TestLoadBalancer ./test/bench' 'TestLoadBalancers ./test/bench/scale'; do \
		go test -count=1 -v -timeout 60m -tags bench -run "^$${run% *}\$$" $${run#* } || failed=1; \
	done; test -z "$$failed"

# Compares compiled policies with an evaluator of the model by fuzzing.
FUZZTIME ?= 1h
fuzz-policy:
	go test -run '^$$' -fuzz '^FuzzTablesSayWhatTheModelSays$$' -fuzztime $(FUZZTIME) -fuzzminimizetime 20x ./internal/policy/compile

# Writes all generated files: deep copies, CRDs, protobuf, eBPF objects.
generate:
	go generate ./...

# Debian's packages that generators and tests use.
deps:
	sh test/deps.sh

clean:
	rm -rf bin dist
