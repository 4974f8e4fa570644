// Package load sends HTTP requests at a constant rate and records each one that fails: when,
// why, and which pod had answered on that connection before.
//
// Its client is simpler than those of programs. It repeats no request, and does not look
// whether the server has closed a connection before it uses it again. So each request that a
// server, or what is between, loses is seen.
package load

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Options is what to send.
type Options struct {
	// Dial opens a connection to the server. Its context ends with the request's time.
	Dial func(context.Context) (net.Conn, error)
	// URL is what is requested. Its host is only written in requests: Dial decides where they go.
	URL string
	// Rate is how many requests are sent in a second.
	Rate int
	// Connections is over how many connections they are sent; 0: each over one of its own.
	Connections int
	// Timeout limits a request, with the connection that it opens.
	Timeout time.Duration
}

func (o *Options) check() error {
	switch {
	case o.Rate < 1:
		return fmt.Errorf("rate %d: want at least 1 request a second", o.Rate)
	case o.Connections < 0:
		return fmt.Errorf("connections %d: want 0, for a connection for each request, or more", o.Connections)
	case o.Timeout <= 0:
		return fmt.Errorf("timeout %s: want more than 0", o.Timeout)
	}
	return nil
}

// Load is requests that are sent until Stop.
type Load struct {
	options Options
	request []byte
	head    *http.Request
	done    chan struct{}
	senders sync.WaitGroup
	// Stop sends no more, waits for the last answers, and returns what was recorded; a second time
	// the same.
	Stop func() *Report

	mu     sync.Mutex
	report Report
	took   []time.Duration
}

// Start begins to send.
func Start(o Options) (*Load, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	head, err := http.NewRequest(http.MethodGet, o.URL, nil)
	if err != nil {
		return nil, fmt.Errorf("request %q: %w", o.URL, err)
	}
	head.Close = o.Connections == 0
	var b bytes.Buffer
	if err := head.Write(&b); err != nil {
		return nil, fmt.Errorf("request %q: %w", o.URL, err)
	}
	l := &Load{options: o, request: b.Bytes(), head: head, done: make(chan struct{})}
	l.Stop = sync.OnceValue(l.stop)
	l.report.Begin, l.report.Pods = time.Now(), map[string]*Pod{}
	apart := time.Second / time.Duration(o.Rate)
	if o.Connections == 0 {
		l.senders.Go(func() {
			l.pace(0, apart, func() {
				l.senders.Go(func() {
					var c connection
					defer c.close()
					l.send(&c)
				})
			})
		})
		return l, nil
	}
	for i := range o.Connections {
		l.senders.Go(func() {
			var c connection
			defer c.close()
			l.pace(time.Duration(i)*apart, time.Duration(o.Connections)*apart, func() { l.send(&c) })
		})
	}
	return l, nil
}

// pace calls f regularly until the load is stopped. Calls that were due while f ran are left out.
func (l *Load) pace(first, apart time.Duration, f func()) {
	due := l.report.Begin.Add(first)
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	for {
		select {
		case <-l.done:
			return
		case <-timer.C:
		}
		f()
		if due = due.Add(apart); due.Before(time.Now()) {
			due = time.Now()
		}
		timer.Reset(time.Until(due))
	}
}

func (l *Load) stop() *Report {
	close(l.done)
	l.senders.Wait()
	r := &l.report
	r.End = time.Now()
	slices.SortFunc(r.Failures, func(a, b Failure) int { return a.At.Compare(b.At) })
	slices.Sort(l.took)
	if n := len(l.took); n > 0 {
		r.P50, r.P99, r.Longest = l.took[n/2], l.took[n*99/100], l.took[n-1]
	}
	return r
}

// connection is a connection with what was received on it.
type connection struct {
	conn   net.Conn
	reader *bufio.Reader
	// read are the bytes that were received since the last request was sent.
	read int64
	// requests is how many were answered, the last by pod.
	requests int
	pod      string
}

func (c *connection) Read(b []byte) (int, error) {
	n, err := c.conn.Read(b)
	c.read += int64(n)
	return n, err
}

// close ends the connection; the next request opens another.
func (c *connection) close() {
	if c.conn != nil {
		c.conn.Close()
	}
	*c = connection{}
}

// send sends a request and records what becomes of it.
func (l *Load) send(c *connection) {
	at := time.Now()
	answer, err := l.exchange(c, at.Add(l.options.Timeout))
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.report.Sent++
	if err == nil && answer.StatusCode == http.StatusOK {
		p := l.report.Pods[c.pod]
		if p == nil {
			p = &Pod{}
			l.report.Pods[c.pod] = p
		}
		p.Answers++
		if c.requests == 0 {
			p.Connections++
			p.Last = at
		}
		c.requests++
		l.took = append(l.took, now.Sub(at))
		if answer.Close {
			c.close()
		}
		return
	}
	f := Failure{At: at, After: now.Sub(at), Pod: c.pod, Answered: c.requests}
	if err == nil {
		f.Cause, f.Status = Status, answer.StatusCode
	} else {
		f.Cause, f.Error = cause(err), err.Error()
		if f.Cause == EOF {
			f.Bytes = c.read
		}
	}
	if c.conn != nil {
		f.Local = c.conn.LocalAddr().String()
	}
	l.report.Failures = append(l.report.Failures, f)
	c.close()
}

// exchange sends a request and reads all of its answer.
func (l *Load) exchange(c *connection, deadline time.Time) (*http.Response, error) {
	c.read = 0
	if c.conn == nil {
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		defer cancel()
		conn, err := l.options.Dial(ctx)
		if err != nil {
			return nil, err
		}
		c.conn = conn
		c.reader = bufio.NewReader(c)
		l.mu.Lock()
		l.report.Connections++
		l.mu.Unlock()
	}
	if err := c.conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	if _, err := c.conn.Write(l.request); err != nil {
		return nil, err
	}
	answer, err := http.ReadResponse(c.reader, l.head)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	// The first line is known even if the rest never comes.
	body, err := io.ReadAll(answer.Body)
	if pod, _, _ := bytes.Cut(body, []byte("\n")); len(pod) > 0 && answer.StatusCode == http.StatusOK {
		c.pod = string(bytes.TrimSpace(pod))
	}
	return answer, err
}

// cause returns the cause of a failure that is no answer.
func cause(err error) Cause {
	timeout := net.Error(nil)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refused
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return Reset
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT),
		errors.As(err, &timeout) && timeout.Timeout():
		return TimeOut
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return EOF
	}
	return Other
}
