package exclusive

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -go-package exclusive -target bpfel -type addr -type own_eni programs ../../../bpf/exclusive.c -- -O2 -g -Wall -Werror -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
