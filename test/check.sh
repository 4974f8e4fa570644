#!/bin/sh
# Checks the tree before any test runs: formatting, vet, linters, dead code, and whether
# generated files are current.
set -eu
cd "$(dirname "$0")/.."
# The same flags as in the Makefile, so that the tests reuse the compiled packages.
export CGO_ENABLED=0 GOFLAGS=-trimpath

echo "== gofmt"
unformatted=$(gofmt -l $(git ls-files '*.go' 2>/dev/null || find . -name '*.go'))
if [ -n "$unformatted" ]; then
	echo "not formatted:" >&2
	echo "$unformatted" >&2
	exit 1
fi

echo "== go vet"
go vet ./...
go vet -tags e2e ./test/e2e ./internal/release
go vet -tags vm ./internal/datapath/... ./test/osimage
go vet -tags bench ./test/bench/... ./internal/vpcsim/fabric
go vet -C test/oracle ./...
go vet -C internal/lab/modules/kube/sctp ./...

# The linters and their versions are in a separate module, not in the product's go.mod. They
# read all files, whatever their build tags.
tags=e2e,vm,bench
tool() { go tool -modfile=test/tools/go.mod "$@"; }

echo "== staticcheck"
tool staticcheck -tags $tags ./...

echo "== unparam: parameters and results that nobody needs"
GOFLAGS="$GOFLAGS -tags=$tags" tool unparam ./...

echo "== deadcode: functions that neither a program nor a test calls"
dead=$(tool deadcode -test -tags $tags ./...)
if [ -n "$dead" ]; then
	echo "$dead" >&2
	exit 1
fi

echo "== eBPF objects"
sh bpf/check.sh

echo "== generated Go and CRDs"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# In a copy, so that the check does not change the tree.
tar -c --exclude=./bin --exclude=./.git . | tar -x -C "$work"
(cd "$work" && go generate ./api/... ./internal/cloud/... ./internal/policy/... ./internal/loadbalancer/... ./test/metrics)
status=0
for file in $(cd "$work" && find api deploy docs internal/cloud internal/policy/wire -type f); do
	if ! cmp -s "$work/$file" "$file"; then
		echo "$file is not current: run make generate" >&2
		status=1
	fi
done
exit $status
