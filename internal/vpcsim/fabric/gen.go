package fabric

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -go-package fabric -target bpfel -type port -type addr_key -type route_key -type route -type rule_key -type rule -type bucket_key -type bucket -type counters -type listener_key -type listener -type slot_key -type slot -type backend program ../../../bpf/vpcsim_fabric.c -- -O2 -g -Wall -Werror -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
