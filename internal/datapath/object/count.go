package object

// Counts are what has passed a queue, and what was dropped because it was full.
type Counts struct {
	// FromPod: of packets from the pod, else to it.
	FromPod bool
	Bytes   uint64
	// Drops are packets.
	Drops uint64
}

// Counting is an Object that counts packets of its pod.
type Counting interface {
	Object
	// Counts returns what was counted; ok is false if the object does not exist.
	Counts(*Site) (c Counts, ok bool, err error)
}
