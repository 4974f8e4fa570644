package traffic

import (
	"fmt"
	"os"
	"strconv"
	"testing"
)

// Prefer gives the session's process group priority over other sessions until the test ends. If
// the scheduler uses such groups (Linux sched_autogroup_enabled), a nice value only has an
// effect within a group.
func Prefer(t testing.TB) {
	const file = "/proc/self/autogroup"
	group, err := os.ReadFile(file)
	if err != nil {
		return // the scheduler does not use groups
	}
	var name, word, was string
	if _, err := fmt.Sscan(string(group), &name, &word, &was); err != nil {
		t.Fatalf("%s %q: %v", file, group, err)
	}
	set := func(nice string) {
		if err := os.WriteFile(file, []byte(nice), 0); err != nil {
			t.Logf("set the session's nice value: %v", err)
		}
	}
	t.Cleanup(func() { set(was) })
	set(strconv.Itoa(priority))
}
