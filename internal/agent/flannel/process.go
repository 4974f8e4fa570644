package flannel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// End asks the processes of a name to end, among those that proc (/proc) shows: the
// containers of one pod, if they share their process namespace.
func End(proc, name string) error {
	files, err := filepath.Glob(filepath.Join(proc, "[0-9]*", "comm"))
	if err != nil {
		return err
	}
	var errs []error
	found := false
	for _, file := range files {
		// One that has ended meanwhile is nobody's.
		comm, err := os.ReadFile(file)
		if err != nil || strings.TrimSpace(string(comm)) != name {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			continue
		}
		found = true
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, fmt.Errorf("end %s (process %d): %w", name, pid, err))
		}
	}
	if !found {
		errs = append(errs, fmt.Errorf("end %s: no such process is seen; do the pod's containers share their process namespace?", name))
	}
	return errors.Join(errs...)
}
