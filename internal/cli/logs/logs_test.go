package logs

import (
	"bufio"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
)

// lines starts a log and returns its lines.
func lines(t *testing.T, f Flags) (*slog.Logger, *bufio.Scanner) {
	t.Helper()
	r, w := io.Pipe()
	log, err := f.Start(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() }) // a write that waits ends
	return log, bufio.NewScanner(r)
}

func next(t *testing.T, s *bufio.Scanner) string {
	t.Helper()
	if !s.Scan() {
		t.Fatalf("no line: %v", s.Err())
	}
	return s.Text()
}

func TestFormats(t *testing.T) {
	log, out := lines(t, Flags{Format: FormatJSON, Verbose: true})
	go log.Debug("a call", "node", "n1")
	var line struct{ Level, Msg, Node string }
	if err := json.Unmarshal([]byte(next(t, out)), &line); err != nil || line.Level != "DEBUG" || line.Msg != "a call" || line.Node != "n1" {
		t.Errorf("%+v, %v", line, err)
	}
	log, out = lines(t, Flags{})
	go func() {
		log.Debug("not logged")
		log.Info("a thing", "node", "n1")
	}()
	if got := next(t, out); !strings.Contains(got, `level=INFO msg="a thing" node=n1`) {
		t.Errorf("%s", got)
	}
	if _, err := (Flags{Format: "xml"}).Start(t.Context(), io.Discard); err == nil || err.Error() != `--log-format "xml": want text or json` {
		t.Errorf("format xml: %v", err)
	}
}

// The command log-level changes the level of a running program, and only of that program.
func TestLevel(t *testing.T) {
	log, out := lines(t, Flags{})
	set := func(level string) {
		t.Helper()
		if err := setLevel(os.Getpid(), level); err != nil {
			t.Fatal(err)
		}
		want := "to=" + strings.ToUpper(level)
		if got := next(t, out); !strings.Contains(got, want) {
			t.Fatalf("got %s, want %s", got, want)
		}
	}
	set("debug")
	go log.Debug("a call")
	if got := next(t, out); !strings.Contains(got, "a call") {
		t.Errorf("at level debug: %s", got)
	}
	set("info")
	go func() {
		log.Debug("not logged")
		log.Info("a thing")
	}()
	if got := next(t, out); !strings.Contains(got, "a thing") {
		t.Errorf("at level info: %s", got)
	}

	if err := setLevel(os.Getppid(), "debug"); err == nil || !strings.Contains(err.Error(), "the process runs") {
		t.Errorf("another program: %v", err)
	}
	if err := setLevel(os.Getpid(), "loud"); err == nil || err.Error() != `"loud": want debug or info` {
		t.Errorf("level loud: %v", err)
	}
}
