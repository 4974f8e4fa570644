#!/bin/sh
# Says whether the committed eBPF objects and their Go sides are what the C sources
# compile to. Needs the clang that made them (Debian 12: clang 14) and libbpf's headers.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$root"

status=0
# Each go:generate line that runs bpf2go, in a copy of its package at the same depth.
for file in $(grep -rl --include='*.go' '^//go:generate .*bpf2go' internal); do
	dir=$(dirname "$file")
	mkdir -p "$work/$dir"
	cp "$file" "$work/$dir/"
done
cp -R bpf go.mod go.sum "$work/"
for file in $(cd "$work" && find internal -name '*.go'); do
	dir=$(dirname "$file")
	(cd "$work/$dir" && go generate "./$(basename "$file")")
	for made in "$work/$dir"/*_bpfel.go "$work/$dir"/*_bpfel.o; do
		if ! cmp -s "$made" "$dir/$(basename "$made")"; then
			echo "$dir/$(basename "$made") is not current: run go generate ./$dir" >&2
			status=1
		fi
	done
done
exit $status
