package fastpath

// MapOwn is a map of the programs that enforce policies.
const MapOwn = "tw_own_1"

// Own is struct own_key of bpf/judge.h, the key of MapOwn: an address of the node (Words), or the index of a device
// whose programs see what comes in.
type Own struct {
	Addr   [4]uint32
	Device uint32
}
