package monitor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// A socket that cannot be opened is tried again with growing pauses, and the log has each cause
// once; one that the kernel has overrun is opened again at once.
func TestASocketThatBreaks(t *testing.T) {
	refused, short := errors.New("operation not permitted"), errors.New("too many open files")
	overrun := fmt.Errorf("read netlink messages: %w", unix.ENOBUFS)
	for name, c := range map[string]struct {
		watch       func(n int) error // the nth attempt, from 1
		least, most int               // attempts in a day
		lines       int               // warnings
	}{
		"cannot be opened":     {watch: func(int) error { return refused }, least: 24 * 60, most: 24*60 + 20, lines: 1},
		"for another cause":    {watch: func(n int) error { return []error{refused, short}[min(n/1000, 1)] }, least: 24 * 60, most: 24*60 + 20, lines: 2},
		"is overrun each hour": {watch: func(int) error { time.Sleep(time.Hour - again); return overrun }, least: 24, most: 25, lines: 0},
		"breaks each hour":     {watch: func(int) error { time.Sleep(time.Hour - again); return refused }, least: 24, most: 25, lines: 24},
		"is overrun each 10 s": {watch: func(int) error { time.Sleep(10*time.Second - again); return overrun }, least: 8640, most: 8641, lines: 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				m := New(Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
				ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
				defer cancel()
				tries := 0
				m.listen(ctx, "route", func(context.Context) error { tries++; return c.watch(tries) })
				if lines := strings.Count(log.String(), "\n"); tries < c.least || tries > c.most || lines != c.lines {
					t.Errorf("%d tries and %d lines in a day, want %d to %d, and %d:\n%.2000s", tries, lines, c.least, c.most, c.lines, &log)
				}
			})
		})
	}
}
