package compare

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// urgent is the nice value during speed measurements.
const urgent = -19

// prioritise raises this program's scheduling priority: other processes distort the results
// more than they suffer from waiting. It returns a function that restores the priority. Without
// permission the measurement runs nevertheless.
func prioritise() (back func()) {
	was, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		return func() {}
	}
	renice(urgent)
	// The system call gives 20 minus the nice value (getpriority(2)).
	return func() { renice(20 - was) }
}

// renice sets the nice value of every thread: on Linux each thread has its own, which new
// threads inherit.
func renice(nice int) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, t := range tasks {
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			unix.Setpriority(unix.PRIO_PROCESS, tid, nice) // the thread has ended, or permission is missing
		}
	}
}
