package ebpf

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -go-package ebpf -target bpfel -type addr -type pod -type pod_flag -type sender fastpath ../../../bpf/fastpath.c -- -O2 -g -Wall -Werror -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -go-package ebpf -no-global-types -target bpfel policed ../../../bpf/policed.c -- -O2 -g -Wall -Werror -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -go-package ebpf -no-global-types -target bpfel slowpath ../../../bpf/slowpath.c -- -O2 -g -Wall -Werror -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
