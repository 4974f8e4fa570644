package ipvlan

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -go-package ipvlan -target bpfel -type addr -type slave slaves ../../../bpf/ipvlan.c -- -O2 -g -Wall -Werror -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -go-package ipvlan -no-global-types -target bpfel policed ../../../bpf/policed_ipvlan.c -- -O2 -g -Wall -Werror -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
