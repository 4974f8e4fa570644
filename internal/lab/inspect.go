package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// HTTPGet makes a request from a network namespace on a new connection.
func HTTPGet(ctx context.Context, netns string, to netip.AddrPort, path string) (string, error) {
	tr := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return DialIn(ctx, netns, network, addr)
		},
	}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+to.String()+"/"+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := (&http.Client{Transport: tr, Timeout: 5 * time.Second}).Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answered %s", req.URL, resp.Status)
	}
	return strings.TrimSpace(string(b)), err
}

// ProcessesIn lists the processes with a name in a network namespace.
func ProcessesIn(netns, name string) ([]Process, error) {
	var ns unix.Stat_t
	if err := unix.Stat(netns, &ns); err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", netns, err)
	}
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var found []Process
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st) != nil || st.Ino != ns.Ino {
			continue
		}
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		// The kernel stores 15 characters of a program's name.
		if err != nil || strings.TrimSpace(string(comm)) != name[:min(len(name), 15)] {
			continue
		}
		if start, err := startTime(pid); err == nil {
			found = append(found, Process{Name: name, PID: pid, Start: start})
		}
	}
	return found, nil
}
