package policyask

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -go-package policyask -no-global-types -target bpfel programs ../../../bpf/policy_ask.c -- -O2 -g -Wall -Werror -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
