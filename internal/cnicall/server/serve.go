// Package server is the agent's side of package cnicall. It is a separate package so that the
// plugin, which starts for each pod, does not link Go's network package.
package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/cnicall"
)

// patience is how long a peer may take to send a request or to read an answer. Both are small
// and local.
const patience = 10 * time.Second

// Serve answers calls until ctx is done. Then it accepts no new ones. Running calls have the
// time finish; after it their contexts end. Serve returns when all have ended.
func Serve(ctx context.Context, l net.Listener, finish time.Duration, answer func(context.Context, cnicall.Request) cnicall.Reply) error {
	calls, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var wg sync.WaitGroup
	for {
		conn, err := l.Accept()
		if err == nil {
			wg.Go(func() { serve(calls, conn, answer) })
			continue
		}
		if ctx.Err() == nil && (errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ECONNABORTED)) {
			time.Sleep(10 * time.Millisecond) // other calls are using up the descriptors or memory
			continue
		}
		defer time.AfterFunc(finish, cancel).Stop()
		wg.Wait()
		if ctx.Err() != nil {
			return nil
		}
		return errors.Join(fmt.Errorf("accept a call: %w", err), l.Close())
	}
}

// serve answers the call of a connection. It returns no error: the plugin is gone, or notices
// that the answer is incomplete.
func serve(ctx context.Context, conn net.Conn, answer func(context.Context, cnicall.Request) cnicall.Reply) {
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var in cnicall.Request
	out := cnicall.Reply{Error: &cnicall.Error{Code: cnicall.CodeDecodingFailure, Msg: "the agent does not understand the plugin"}}
	conn.SetReadDeadline(time.Now().Add(patience))
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	err := json.NewDecoder(io.LimitReader(conn, cnicall.Largest)).Decode(&in)
	switch {
	case stop() && err == nil:
		conn.SetReadDeadline(time.Time{})
		go func() {
			// The plugin sends nothing more: the read ends when either side closes.
			conn.Read(make([]byte, 1))
			cancel()
		}()
		out = answer(ctx, in)
	case errors.Is(err, io.EOF) || ctx.Err() != nil:
		return
	default:
		out.Error.Details = err.Error()
	}
	raw, err := json.Marshal(out)
	if err != nil {
		return
	}
	conn.SetWriteDeadline(time.Now().Add(patience))
	conn.Write(raw)
}
