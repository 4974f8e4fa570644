// Package cnicall asks the node's agent: one gRPC call over its unix socket.
//
// The plugin is a program that is executed for each ADD and DEL of each pod, so what it
// takes to start is part of what a pod waits for. With the gRPC library and its message
// types that was more than all of the agent's work ("make bench-cni"). One call needs
// little of it: the frames are golang.org/x/net/http2's, the fields protowire's, and the
// rest is here. The agent's side is the gRPC library's.
//
// It must never import google.golang.org/grpc, nor the generated messages.
package cnicall

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"os"
	"strconv"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"
)

// service is the service of api/cni/v1/cni.proto.
const service = "/terway.cni.v1.CNI/"

// largest is the size that an answer may have.
const largest = 1 << 20

// BrokenError says that the connection to the agent could not be made or ended before
// the answer: the agent is not there, or is being restarted.
type BrokenError struct{ err error }

func (e *BrokenError) Error() string { return e.err.Error() }
func (e *BrokenError) Unwrap() error { return e.err }

// StatusError is a call that the agent did not take.
type StatusError struct {
	// Code is gRPC's status.
	Code    int
	Message string
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("gRPC status %d: %s", e.Code, e.Message)
}

// Do calls a method of the service. It does not try again.
func Do(ctx context.Context, socket, method string, in Request) (Reply, error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return Reply{}, errors.New("a call of the agent needs a deadline")
	}
	patience := max(time.Until(deadline), time.Millisecond)
	conn, err := connect(socket, patience)
	if err != nil {
		return Reply{}, broken("connect to "+socket, err)
	}
	defer conn.Close()
	message, err := newCall(conn).do(method, in.encode(), patience)
	if err != nil {
		return Reply{}, err
	}
	return decode(message)
}

// connect opens a blocking socket: the one thread that waits for the answer is woken by
// it, without Go's network poller and its threads in between.
func connect(path string, patience time.Duration) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	err = errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit))
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// call is a connection with its one call, which is stream 1.
type call struct {
	out *bufio.Writer
	f   *http2.Framer
	// toConnection, toStream are how many bytes may be sent; initial is what a stream
	// begins with.
	toConnection, toStream, initial int64
	answer                          []byte
	// ended: the answer is complete; status and text are its trailers.
	ended        bool
	status, text string
}

const stream = 1

func newCall(conn io.ReadWriter) *call {
	c := &call{out: bufio.NewWriter(conn), toConnection: 65535, toStream: 65535, initial: 65535} // RFC 9113, 6.9.2
	c.f = http2.NewFramer(c.out, bufio.NewReader(conn))
	c.f.ReadMetaHeaders = hpack.NewDecoder(4096, nil) // RFC 9113, 6.5.2
	return c
}

func (c *call) do(method string, message []byte, patience time.Duration) ([]byte, error) {
	if err := c.ask(method, message, patience); err != nil {
		return nil, broken("ask", err)
	}
	for !c.ended {
		if err := c.next(); err != nil {
			return nil, broken("read the answer", err)
		}
	}
	if c.status != "0" {
		code, err := strconv.Atoi(c.status)
		if err != nil {
			return nil, fmt.Errorf("the agent's answer has the gRPC status %q", c.status)
		}
		text, err := url.PathUnescape(c.text)
		if err != nil {
			text = c.text
		}
		return nil, &StatusError{code, text}
	}
	// gRPC over HTTP/2: one byte, 0 as nothing is compressed, and the length.
	if len(c.answer) < 5 || c.answer[0] != 0 || int(binary.BigEndian.Uint32(c.answer[1:])) != len(c.answer)-5 {
		return nil, fmt.Errorf("the agent's answer of %d bytes is not one gRPC message", len(c.answer))
	}
	return c.answer[5:], nil
}

func broken(what string, err error) error {
	return &BrokenError{fmt.Errorf("%s: %w", what, err)}
}

// ask sends the request; all of it in one write if the agent's window allows, as it
// does unless a GC lists very many pods.
func (c *call) ask(method string, message []byte, patience time.Duration) error {
	var fields bytes.Buffer
	enc := hpack.NewEncoder(&fields)
	for _, h := range []hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: service + method},
		{Name: ":authority", Value: "terwayd"}, {Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
		{Name: "grpc-timeout", Value: fmt.Sprintf("%dm", max(patience.Milliseconds(), 1))},
	} {
		if err := enc.WriteField(h); err != nil {
			return err
		}
	}
	_, err := c.out.WriteString(http2.ClientPreface)
	err = errors.Join(err,
		c.f.WriteSettings(http2.Setting{ID: http2.SettingEnablePush, Val: 0}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 2 * largest}),
		c.f.WriteWindowUpdate(0, 2*largest),
		c.f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: fields.Bytes(), EndHeaders: true}))
	if err != nil {
		return err
	}
	body := make([]byte, 5, 5+len(message))
	if len(message) > math.MaxInt32 {
		return fmt.Errorf("a request of %d bytes", len(message))
	}
	binary.BigEndian.PutUint32(body[1:], uint32(len(message)))
	body = append(body, message...)
	const frame = 16384 // RFC 9113, 6.5.2: what every peer takes
	for len(body) > 0 && !c.ended {
		n := min(int64(len(body)), frame, c.toConnection, c.toStream)
		if n <= 0 {
			if err := errors.Join(c.out.Flush(), c.next()); err != nil {
				return err
			}
			continue
		}
		if err := c.f.WriteData(stream, n == int64(len(body)), body[:n]); err != nil {
			return err
		}
		body = body[n:]
		c.toConnection, c.toStream = c.toConnection-n, c.toStream-n
	}
	return c.out.Flush()
}

// next reads a frame and does what it asks for.
func (c *call) next() error {
	frame, err := c.f.ReadFrame()
	if err != nil {
		return err
	}
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		if f.IsAck() {
			return nil
		}
		if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
			c.toStream += int64(v) - c.initial
			c.initial = int64(v)
		}
		return errors.Join(c.f.WriteSettingsAck(), c.out.Flush())
	case *http2.PingFrame:
		if f.IsAck() {
			return nil
		}
		return errors.Join(c.f.WritePing(true, f.Data), c.out.Flush())
	case *http2.WindowUpdateFrame:
		if f.StreamID == 0 {
			c.toConnection += int64(f.Increment)
		} else {
			c.toStream += int64(f.Increment)
		}
	case *http2.GoAwayFrame:
		if f.LastStreamID < stream {
			return errors.New("the agent is stopping")
		}
	case *http2.RSTStreamFrame:
		return fmt.Errorf("the agent has given the call up: %v", f.ErrCode)
	case *http2.DataFrame:
		if len(c.answer)+len(f.Data()) > largest {
			return fmt.Errorf("the answer has more than %d bytes", largest)
		}
		c.answer = append(c.answer, f.Data()...)
		c.ended = f.StreamEnded()
	case *http2.MetaHeadersFrame:
		for _, h := range f.Fields {
			switch h.Name {
			case "grpc-status":
				c.status = h.Value
			case "grpc-message":
				c.text = h.Value
			}
		}
		c.ended = f.StreamEnded()
	}
	return nil
}
