package probe

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"terway.dev/terway/internal/connectivity"
)

var quick = Pace{Attempt: 500 * time.Millisecond, Pause: 20 * time.Millisecond, Total: 100 * time.Millisecond}

// listen starts a server on loopback.
func listen(t *testing.T) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	packets, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- (&server{seen: map[string]bool{}}).serve(ctx, l, packets) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func runOne(t *testing.T, task connectivity.Task) connectivity.Outcome {
	t.Helper()
	task.ID = 7
	var out bytes.Buffer
	if err := Run(t.Context(), "run", []connectivity.Task{task}, quick, &out); err != nil {
		t.Fatal(err)
	}
	got, err := ReadOutcomes(&out)
	if err != nil || len(got) != 1 {
		t.Fatalf("outcomes %v: %v", got, err)
	}
	return got[7]
}

func TestOutcomes(t *testing.T) {
	served := listen(t)
	nobody := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}()
	// hears accepts connections and answers with text, or never.
	hears := func(text string) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				t.Cleanup(func() { c.Close() })
				if text != "" {
					c.Write([]byte(text)) // the sender sees it
				}
			}
		}()
		return l.Addr().String()
	}
	for name, c := range map[string]struct {
		task connectivity.Task
		want connectivity.Result
		says string
	}{
		"exchange":             {connectivity.Task{Do: connectivity.Exchange, To: served}, connectivity.Answered, ""},
		"connect":              {connectivity.Task{Do: connectivity.Connect, To: served}, connectivity.Answered, ""},
		"refused":              {connectivity.Task{Do: connectivity.Connect, To: nobody}, connectivity.Refused, "refused"},
		"only small packets":   {connectivity.Task{Do: connectivity.Exchange, To: hears("")}, connectivity.Cut, "deadline"},
		"another server":       {connectivity.Task{Do: connectivity.Exchange, To: hears("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")}, connectivity.Wrong, "404"},
		"a name, as it is":     {connectivity.Task{Do: connectivity.Lookup, To: "127.0.0.1", Want: "127.0.0.1"}, connectivity.Answered, ""},
		"a name, not as it is": {connectivity.Task{Do: connectivity.Lookup, To: "127.0.0.1", Want: "127.0.0.2"}, connectivity.Wrong, "127.0.0.1, not 127.0.0.2"},
	} {
		o := runOne(t, c.task)
		if o.Result != c.want || !strings.Contains(o.Error, c.says) || (o.Error == "") != (c.says == "") {
			t.Errorf("%s: %+v, want %s and an error with %q", name, o, c.want, c.says)
		}
	}
}

// What is answered only later is tried again, and says so.
func TestTriedAgain(t *testing.T) {
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked++; asked == 1 {
			http.Error(w, "not yet", http.StatusServiceUnavailable)
			return
		}
		_, _ = io.Copy(w, r.Body) // the sender sees it
	}))
	defer s.Close()
	patient := Pace{Attempt: time.Minute, Pause: time.Millisecond, Total: time.Minute}
	if o := try(t.Context(), "run", connectivity.Task{ID: 7, Do: connectivity.Exchange, To: s.Listener.Addr().String()}, patient); o != (connectivity.Outcome{ID: 7, Result: connectivity.Answered, Attempts: 2}) {
		t.Errorf("%+v, want an answer to the second attempt", o)
	}
}

// A datagram of an exchange that failed is noted where it has arrived, and only there.
func TestMarks(t *testing.T) {
	served := listen(t)
	sendMarks(served, Mark("run", 3))
	seen := func() []string {
		var out bytes.Buffer
		if err := Seen(t.Context(), served, &out); err != nil {
			t.Fatal(err)
		}
		return strings.FieldsFunc(out.String(), func(r rune) bool { return strings.ContainsRune("[],\"\n", r) })
	}
	for deadline := time.Now().Add(10 * time.Second); len(seen()) == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no datagram has arrived")
		}
	}
	if got := seen(); !slices.Equal(got, []string{"run 3"}) {
		t.Errorf("seen %q", got)
	}
	// An exchange that is answered sends none.
	if o := runOne(t, connectivity.Task{Do: connectivity.Exchange, To: served}); o.Result != connectivity.Answered {
		t.Fatalf("%+v", o)
	}
	if got := seen(); len(got) != 1 {
		t.Errorf("after an answered exchange: seen %q", got)
	}
}

// An interrupt ends a run at once.
func TestInterrupt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out bytes.Buffer
	err := Run(ctx, "run", []connectivity.Task{{ID: 1, Do: connectivity.Connect, To: "127.0.0.1:1"}}, Pace{Attempt: time.Hour, Pause: time.Hour, Total: 3 * time.Hour}, &out)
	if err == nil {
		t.Error("an interrupted run ended well")
	}
}
