package ipvlan

import "terway.dev/terway/internal/datapath/fastpath"

const formerSlaves = "tw_slaves_1"

// formerSlave is a value of formerSlaves, the former version's map from a pod's address to what is
// now in mapSlaves.
type formerSlave struct {
	Host, Inner, Eni, Receiver, Mtu uint32
	Gateway                         slavesAddr
	NextHop, EniMac                 [6]uint8
}

// upgrade copies the former version's entries of pods.
func upgrade(o *fastpath.Objects) error {
	return fastpath.CopyFormer(o, formerSlaves, table(o), func(key [4]uint32, was formerSlave) slavesSlave {
		return slavesSlave{
			Addr: slavesAddr{W: key}, Host: was.Host, Inner: was.Inner, Eni: was.Eni, Receiver: was.Receiver, Mtu: was.Mtu,
			Gateway: was.Gateway, NextHop: was.NextHop, EniMac: was.EniMac,
		}
	})
}
