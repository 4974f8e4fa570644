package shaping

import (
	"math"
	"time"
)

// shape are the numbers of a limit, as the kernel's queueing disciplines need them.
type shape struct {
	// rate in bytes per second.
	rate uint64
	// burst is how long a device that was idle may send without waiting, so that rate × burst is a
	// number of bytes.
	burst time.Duration
	// queue is the size of the queue in bytes, where packets have no queue of their own flow.
	queue uint32
	// largest is the size in bytes up to which packets of several segments (GSO) stay whole.
	largest uint32
}

const (
	// Above fast, in bits per second, timers are too slow for the short burst.
	fast       = 2e9
	shortBurst = 2 * time.Millisecond
	longBurst  = 12 * time.Millisecond
	// leastBurst in bytes, or two packets.
	leastBurst = 8 << 10
	// queueing is how long a full queue takes to send.
	queueing = 25 * time.Millisecond
	// leastQueue in full packets: TCP begins with ten at once (initcwnd).
	leastQueue = 10
	// segmented is the size of the largest packets of several segments, with a header for each.
	segmented = 68 << 10
	// frame is the Ethernet header, which counts.
	frame = 14
	// usualMTU is used if the device's is not known.
	usualMTU = 1500
)

// shapeOf returns the shape of a limit in bits per second.
func shapeOf(bits uint64, mtu int) shape {
	if mtu <= 0 {
		mtu = usualMTU
	}
	s := shape{rate: max(bits/8, 1), burst: shortBurst}
	if bits > fast {
		s.burst = longBurst
	}
	packet := float64(mtu + frame)
	s.burst = max(s.burst, time.Duration(max(leastBurst, 2*packet)/float64(s.rate)*float64(time.Second)))
	s.queue = uint32(min(max(float64(s.rate)*queueing.Seconds(), leastQueue*packet), math.MaxInt32))
	// One that does not fit into the queue would be dropped whenever it is sent, and in a queue of a
	// few of them TCP has no room. Where flows have queues of their own, it would leave at once, far beyond the
	// burst, and the others wait for it. To take them apart costs little at such rates.
	s.largest = uint32(2 * packet)
	if s.queue >= 4*segmented {
		s.largest = segmented
	}
	return s
}

// ticks returns a time as the kernel's packet schedulers count it, in 64 ns (PSCHED_SHIFT).
func ticks(d time.Duration) uint32 { return uint32(min(d.Nanoseconds()>>6, math.MaxUint32)) }
