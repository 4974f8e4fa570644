package compare

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// urgent is the nice value while speeds are measured.
const urgent = -19

// prioritise raises this program's scheduling priority: other work on the machine spoils the
// figures more than it suffers from waiting. It returns what restores the priority. A program that
// may not do this measures all the same.
func prioritise() (back func()) {
	was, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		return func() {}
	}
	renice(urgent)
	// The system call gives 20 minus the nice value (getpriority(2)).
	return func() { renice(20 - was) }
}

// renice sets the nice value of every thread; Linux has one for each, and a new
// thread gets that of the thread that makes it.
func renice(nice int) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, t := range tasks {
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			unix.Setpriority(unix.PRIO_PROCESS, tid, nice) // a thread that has ended, or no right to
		}
	}
}
