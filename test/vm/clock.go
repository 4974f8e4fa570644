package main

import (
	"fmt"
	"time"
)

// The guest counts time by its processor's time stamp counter, which QEMU takes from this
// machine's. By itself the guest's kernel would measure how fast it counts, for some
// milliseconds at boot against an emulated timer; on a busy machine that goes wrong, and
// with it every clock and timer of the guest: timeouts of half an hour ended after two
// minutes. So it is measured here and given to the kernel.

// ticks is the counter at a moment.
type ticks struct {
	count uint64
	at    time.Time
}

// look reads counter and clock together: of many readings the one that took the least
// time, during which nothing else ran.
func look() (best ticks) {
	least := time.Duration(-1)
	for range 64 {
		from := time.Now()
		count := counter()
		if took := time.Since(from); least < 0 || took < least {
			least, best = took, ticks{count, from}
		}
	}
	return best
}

// counterKHz measures how fast this machine's counter counts, in thousands a second; 0 if
// it has none that guests use.
func counterKHz() int {
	from := look()
	time.Sleep(20 * time.Millisecond)
	to := look()
	return int(float64(to.count-from.count) / to.at.Sub(from.at).Seconds() / 1000)
}

// clockError says that the guest's clock counted another time than passed. Less than a
// fifth is for the ways of what the guest says, on a busy machine.
func clockError(guest, here time.Duration) error {
	if (guest - here).Abs() <= here/5+2*time.Second {
		return nil
	}
	return fmt.Errorf("the guest's clock counted %s while %s passed: neither a result nor a timeout of the program means anything",
		guest.Round(time.Millisecond), here.Round(time.Millisecond))
}
