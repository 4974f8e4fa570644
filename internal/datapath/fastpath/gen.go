package fastpath

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -go-package fastpath -target bpfel -type addr -type state tables ../../../bpf/tables.c -- -O2 -g -Wall -Werror -Wno-unused-function -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
