package ebpf

import (
	"fmt"

	"terway.dev/terway/internal/datapath/fastpath"
)

// formerPods is the former version's map from a pod's address to what is now in mapEnds.
const formerPods = "tw_pods_1"

// upgrade copies the former version's entries of pods.
func upgrade(o *fastpath.Objects) error {
	pods := o.Former(formerPods)
	if pods == nil {
		return nil
	}
	var key shortcutAddr
	var was struct {
		Ifindex, Mtu, Eni, EniMtu uint32
		Gateway                   shortcutAddr
		Macs                      [12]uint8
		_                         uint32
	}
	it := pods.Iterate()
	for it.Next(&key, &was) {
		now := shortcutPod{
			Addr: key, Ifindex: was.Ifindex, Mtu: was.Mtu, Eni: was.Eni, EniMtu: was.EniMtu, Gateway: was.Gateway, Macs: was.Macs,
		}
		if err := table(o).Put(fastpath.Addr(key.W), now); err != nil {
			return err
		}
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("list map %s: %w", formerPods, err)
	}
	return nil
}
