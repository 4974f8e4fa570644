package ebpf

import "terway.dev/terway/internal/datapath/fastpath"

const formerPods = "tw_pods_1"

// formerPod is a value of formerPods, the former version's map from a pod's address to what is now
// in mapEnds.
type formerPod struct {
	Ifindex, Mtu, Eni, EniMtu uint32
	Gateway                   fastpathAddr
	Macs                      [12]uint8
	_                         uint32
}

// upgrade copies the former version's entries of pods.
func upgrade(o *fastpath.Objects) error {
	return fastpath.CopyFormer(o, formerPods, table(o), func(key [4]uint32, was formerPod) fastpathPod {
		return fastpathPod{
			Addr: fastpathAddr{W: key}, Ifindex: was.Ifindex, Mtu: was.Mtu, Eni: was.Eni, EniMtu: was.EniMtu, Gateway: was.Gateway, Macs: was.Macs,
		}
	})
}
