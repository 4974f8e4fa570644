package traffic

import (
	"fmt"
	"os"
	"time"
)

// userHz is the unit of /proc/stat (linux/Documentation/filesystems/proc.rst: USER_HZ).
const userHz = 100

// machineTime returns the CPU time of all processors for all programs: user, nice, system,
// interrupts. It does not include time stolen by a hypervisor.
func machineTime() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("read the machine's processor time: %w", err)
	}
	var label string
	var user, nice, system, idle, iowait, irq, softirq int64
	if _, err := fmt.Sscan(string(b), &label, &user, &nice, &system, &idle, &iowait, &irq, &softirq); err != nil {
		return 0, fmt.Errorf("read the machine's processor time: %w", err)
	}
	return time.Duration(user+nice+system+irq+softirq) * time.Second / userHz, nil
}
