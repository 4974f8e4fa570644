package apiserver

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"
)

// What a user has set in the environment stays.
func TestSettingsOfTheUser(t *testing.T) {
	const idle, ping = "HTTP2_READ_IDLE_TIMEOUT_SECONDS", "HTTP2_PING_TIMEOUT_SECONDS"
	t.Setenv(idle, "7")
	t.Setenv(ping, "")
	if err := NoticeDeadConnections(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{idle: "7", ping: checks[ping]} {
		if got := os.Getenv(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// A watch on a connection that is dead ends, so that another begins. The checks are shorter here, as the test has to wait for them;
// if client-go did not know their names any more, it would find out after 45 s.
func TestDeadConnectionIsNoticed(t *testing.T) {
	for name := range checks {
		t.Setenv(name, "1")
	}
	began := make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		close(began)
		<-r.Context().Done()
	}))
	server.EnableHTTP2 = true
	server.TLS = &tls.Config{NextProtos: []string{"h2"}}
	server.StartTLS()
	defer server.CloseClientConnections()
	var dead atomic.Bool
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	forward := func(to, from net.Conn) {
		buf := make([]byte, 1<<16)
		for {
			n, err := from.Read(buf)
			if err != nil {
				to.Close()
				return
			}
			if !dead.Load() {
				_, _ = to.Write(buf[:n])
			}
		}
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				c.Close()
				continue
			}
			go forward(s, c)
			go forward(c, s)
		}
	}()
	client, err := rest.HTTPClientFor(&rest.Config{Host: "https://" + l.Addr().String(), TLSClientConfig: rest.TLSClientConfig{Insecure: true}})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.Get("https://" + l.Addr().String() + "/watch")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.ProtoMajor != 2 {
		t.Fatalf("the watch is by %s: want HTTP/2", answer.Proto)
	}
	<-began
	dead.Store(true)
	tooLate := time.AfterFunc(30*time.Second, func() {
		t.Error("the checks have no effect")
		server.CloseClientConnections()
		dead.Store(false)
	})
	defer tooLate.Stop()
	if _, err := io.ReadAll(answer.Body); err == nil {
		t.Error("the watch ended well, want an error")
	}
}
