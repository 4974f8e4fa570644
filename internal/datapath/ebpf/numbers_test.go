package ebpf

import (
	"testing"

	"terway.dev/terway/internal/datapath/claims"
)

// The programs tell nftables what a pod may not send to its node by the number that its rule has.
func TestPriorityDenied(t *testing.T) {
	spec, err := loadPoliced()
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range spec.Programs {
		for _, i := range program.Instructions {
			if i.Constant == claims.PriorityDenied {
				return
			}
		}
	}
	t.Errorf("no program of bpf/policed.c has the number %#x: PRIORITY_DENIED in bpf/judge.h must be claims.PriorityDenied", claims.PriorityDenied)
}
