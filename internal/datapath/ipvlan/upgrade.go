package ipvlan

import (
	"fmt"

	"terway.dev/terway/internal/datapath/fastpath"
)

// formerSlaves is the former version's map from a pod's address to what is now in mapSlaves.
const formerSlaves = "tw_slaves_1"

// upgrade copies the former version's entries of pods.
func upgrade(o *fastpath.Objects) error {
	slaves := o.Former(formerSlaves)
	if slaves == nil {
		return nil
	}
	var key slavesAddr
	var was struct {
		Host, Inner, Eni, Receiver, Mtu uint32
		Gateway                         slavesAddr
		NextHop, EniMac                 [6]uint8
	}
	it := slaves.Iterate()
	for it.Next(&key, &was) {
		now := slavesSlave{
			Addr: key, Host: was.Host, Inner: was.Inner, Eni: was.Eni, Receiver: was.Receiver, Mtu: was.Mtu,
			Gateway: was.Gateway, NextHop: was.NextHop, EniMac: was.EniMac,
		}
		if err := table(o).Put(fastpath.Addr(key.W), now); err != nil {
			return err
		}
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("list map %s: %w", formerSlaves, err)
	}
	return nil
}
