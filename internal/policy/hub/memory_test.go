package hub_test

import (
	"math"
	"runtime/debug"
	"testing"

	"terway.dev/terway/internal/policy/hub"
)

// The collector's limit follows the container's, unless the environment says one.
func TestSaveMemory(t *testing.T) {
	percent, limit := debug.SetGCPercent(100), debug.SetMemoryLimit(math.MaxInt64)
	defer func() {
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(limit)
	}()
	has := func() int64 { return debug.SetMemoryLimit(-1) }
	hub.SaveMemory(0)
	if percent := debug.SetGCPercent(100); percent != 30 || has() != math.MaxInt64 {
		t.Errorf("without a limit: GOGC %d, limit %d", percent, has())
	}
	t.Setenv("GOGC", "100")
	hub.SaveMemory(800 << 20)
	if percent := debug.SetGCPercent(100); percent != 100 || has() != 700<<20 {
		t.Errorf("with one of 800 MiB: GOGC %d, limit %d", percent, has())
	}
	t.Setenv("GOMEMLIMIT", "off")
	hub.SaveMemory(400 << 20)
	if has() != 700<<20 {
		t.Errorf("with GOMEMLIMIT the limit is %d", has())
	}
}
