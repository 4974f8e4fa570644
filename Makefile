# make lab    a Kubernetes cluster on a simulated VPC, and the proof that it works
# make test   every test; as root, as CI runs it

SHELL := /bin/bash -o pipefail
export CGO_ENABLED ?= 0
GOFLAGS_BUILD := -trimpath -ldflags "-s -w"
PROGRAMS := terway terwayd terway-controller terwayctl

.PHONY: build lab lab-down verify test test-unit test-lab check generate

build: ## the programs, in bin/
	@mkdir -p bin
	go build $(GOFLAGS_BUILD) -o bin/ $(addprefix ./cmd/,$(PROGRAMS))

lab: build ## start the lab and show that it works
	bin/terwayctl lab up

lab-down: build ## remove every trace of the lab
	bin/terwayctl lab down

verify: build ## the named checks on the running lab
	bin/terwayctl lab verify

generate: ## everything that is generated and committed
	go generate ./...
	go run sigs.k8s.io/controller-tools/cmd/controller-gen object crd paths=./api/v1alpha1/... output:crd:dir=deploy/chart/crds

check: ## formatting, vet, and generated files that are out of date
	@test -z "$$(git ls-files '*.go' | xargs gofmt -l)" || { echo "gofmt -l:"; git ls-files '*.go' | xargs gofmt -l; exit 1; }
	go vet ./...
	bpf/check.sh

test-unit: ## all Go tests; those that need root make their own namespaces
	go test -count=1 -p 2 -timeout 20m ./...

test-lab: build ## the lab's checks, from nothing to nothing
	bin/terwayctl lab up
	bin/terwayctl lab verify; s=$$?; bin/terwayctl lab down && exit $$s

test: check test-unit test-lab
