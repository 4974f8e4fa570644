package shaping

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -go-package shaping -target bpfel -type rank priority ../../../bpf/priority.c -- -O2 -g -Wall -Werror -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
