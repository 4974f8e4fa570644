package fastpath

import "fmt"

// MapOwn is a map of the programs that enforce policies.
const MapOwn = "tw_own_1"

// Own is struct own_key of bpf/judge.h, the key of MapOwn: an address of the node (Words), or the index of a device
// whose programs see what comes in.
type Own struct {
	Addr   [4]uint32
	Device uint32
}

// silence is the key of MapOwn for when policies forget a connection (SILENCE).
var silence = Own{Device: ^uint32(0)}

// Own lists the addresses and devices that programs know as the node's.
func (o *Objects) Own() (list []Own, err error) {
	var key Own
	var value uint32
	it := o.Maps[MapOwn].Iterate()
	for it.Next(&key, &value) {
		if key != silence {
			list = append(list, key)
		}
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("list map %s: %w", MapOwn, err)
	}
	return list, nil
}
