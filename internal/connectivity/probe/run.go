package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"terway.dev/terway/internal/connectivity"
)

// Pace is how long a probe is tried.
type Pace struct {
	// Attempt is how long one attempt may take: longer than the second after which TCP repeats a SYN.
	Attempt time.Duration
	// Pause is between attempts, and Total how long there are new ones.
	Pause, Total time.Duration
}

// Standard is the pace of a command. kube-proxy may need some seconds for a new Service.
var Standard = Pace{Attempt: 2 * time.Second, Pause: time.Second, Total: 8 * time.Second}

// marks are the datagrams that follow a failed exchange: more than one, as one may be lost by chance.
const marks = 3

// Run tries tasks, all at once, and writes an Outcome of each as a line of JSON. run is in the marks of
// datagrams.
func Run(ctx context.Context, run string, tasks []connectivity.Task, pace Pace, out io.Writer) error {
	outcomes := make([]connectivity.Outcome, len(tasks))
	var all sync.WaitGroup
	for i, task := range tasks {
		all.Go(func() { outcomes[i] = try(ctx, run, task, pace) })
	}
	all.Wait()
	e := json.NewEncoder(out)
	for _, o := range outcomes {
		if err := e.Encode(o); err != nil {
			return fmt.Errorf("write an outcome: %w", err)
		}
	}
	return ctx.Err()
}

// Mark is what a datagram of a task has in it.
func Mark(run string, id int) string { return run + " " + strconv.Itoa(id) }

// try tries a task until it is answered, or for as long as the pace says.
func try(ctx context.Context, run string, task connectivity.Task, pace Pace) connectivity.Outcome {
	o := connectivity.Outcome{ID: task.ID}
	began := time.Now()
	for {
		o.Attempts++
		limited, cancel := context.WithTimeout(ctx, pace.Attempt)
		result, err := attempt(limited, task)
		cancel()
		if o.Result = result; err != nil {
			o.Error = err.Error()
		}
		switch {
		case result == connectivity.Answered:
			o.Error = ""
			return o
		case ctx.Err() != nil:
			return o
		case time.Since(began)+pace.Pause >= pace.Total:
			if task.Do == connectivity.Exchange {
				sendMarks(task.To, Mark(run, task.ID))
			}
			return o
		}
		select {
		case <-time.After(pace.Pause):
		case <-ctx.Done():
		}
	}
}

// sendMarks sends datagrams whose arrival the other end notes. What comes back says no more than that
// exchange, so nothing is read.
func sendMarks(to, mark string) {
	conn, err := net.Dial("udp", to)
	if err != nil {
		return // there is no way at all, which the outcome says
	}
	defer conn.Close()
	for range marks {
		if _, err := conn.Write([]byte(mark)); err != nil {
			return // refused: the first has come to somebody
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// attempt tries a task once.
func attempt(ctx context.Context, task connectivity.Task) (connectivity.Result, error) {
	if task.Do == connectivity.Lookup {
		return lookup(ctx, task)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", task.To)
	if err != nil {
		return classify(err), err
	}
	defer conn.Close()
	if task.Do == connectivity.Connect {
		return connectivity.Answered, nil
	}
	return exchange(ctx, conn, task.To)
}

// exchange sends bytes, and expects them back.
func exchange(ctx context.Context, conn net.Conn, to string) (connectivity.Result, error) {
	sent := make([]byte, size)
	for i := range sent {
		sent[i] = byte(rand.Uint32())
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+to+"/exchange", bytes.NewReader(sent))
	if err != nil {
		return connectivity.NotTried, err
	}
	answer, err := direct(conn).Do(r)
	var back []byte
	if err == nil {
		defer answer.Body.Close()
		back, err = io.ReadAll(io.LimitReader(answer.Body, 2*size))
	}
	switch {
	case err != nil && classify(err) == connectivity.Silent:
		return connectivity.Cut, err // the connection has opened
	case err != nil:
		return classify(err), err
	case answer.StatusCode != http.StatusOK || !bytes.Equal(back, sent):
		return connectivity.Wrong, fmt.Errorf("%s answers %s with %d bytes, not the %d that it was sent", to, answer.Status, len(back), size)
	}
	return connectivity.Answered, nil
}

// lookup asks for a name. Go's own resolver does it by the pod's resolv.conf.
func lookup(ctx context.Context, task connectivity.Task) (connectivity.Result, error) {
	r := net.Resolver{PreferGo: true}
	addresses, err := r.LookupHost(ctx, task.To)
	var of *net.DNSError
	switch {
	case err == nil && task.Want != "" && !slices.Contains(addresses, task.Want):
		return connectivity.Wrong, fmt.Errorf("DNS says that %s is %s, not %s", task.To, strings.Join(addresses, ", "), task.Want)
	case err == nil:
		return connectivity.Answered, nil
	case errors.As(err, &of) && of.IsNotFound:
		return connectivity.Wrong, err
	}
	return classify(err), err
}

func classify(err error) connectivity.Result {
	var timeout net.Error
	var of *net.DNSError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return connectivity.Refused
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return connectivity.Unreachable
	case errors.As(err, &of) && of.IsNotFound:
		return connectivity.Wrong
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return connectivity.Silent
	}
	return connectivity.Unreachable
}

// ReadOutcomes reads what Run has written.
func ReadOutcomes(r io.Reader) (map[int]connectivity.Outcome, error) {
	all := map[int]connectivity.Outcome{}
	d := json.NewDecoder(r)
	for {
		var o connectivity.Outcome
		switch err := d.Decode(&o); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return all, fmt.Errorf("read the outcomes of probes: %w", err)
		}
		all[o.ID] = o
	}
}
