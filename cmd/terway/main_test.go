package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"terway.dev/terway/internal/cnicall"
	"terway.dev/terway/internal/cnicall/server"
	own "terway.dev/terway/internal/version"
)

// TestMain lets the test's program be the plugin.
func TestMain(m *testing.M) {
	if os.Getenv("AS_PLUGIN") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// execute runs the plugin as a runtime does.
func execute(t *testing.T, config string, env ...string) (stdout string, code int) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append([]string{"AS_PLUGIN=1"}, env...)
	cmd.Stdin = strings.NewReader(config)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	t.Logf("%v: exit %d, %s%s", env, cmd.ProcessState.ExitCode(), out.String(), errs.String())
	return out.String(), cmd.ProcessState.ExitCode()
}

// Without a verb of CNI a person has called.
func TestVersionOfTheProgram(t *testing.T) {
	for _, c := range []struct {
		args []string
		out  string
		code int
	}{
		{nil, "", 0},
		{[]string{"--help"}, "", 0},
		{[]string{"--version"}, "terway " + own.Get().String() + "\n", 0},
		{[]string{"version"}, "terway " + own.Get().String() + "\n", 0},
		{[]string{"version", "-o", "json"}, `{"version":"` + own.Get().Version + `"`, 0},
		{[]string{"version", "-o", "xml"}, "", 2},
	} {
		var out, errs bytes.Buffer
		if code := speak(c.args, &out, &errs); code != c.code || !strings.HasPrefix(out.String(), c.out) || (c.out == "") == (out.Len() > 0) {
			t.Errorf("%q: exit %d, %q, want %d and %q; %s", c.args, code, out.String(), c.code, c.out, errs.String())
		}
	}
}

// agent answers at a socket until the test ends.
func agent(t *testing.T, answer func(cnicall.Request) cnicall.Reply) (config string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- server.Serve(ctx, l, time.Minute, func(_ context.Context, r cnicall.Request) cnicall.Reply { return answer(r) })
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return fmt.Sprintf(`{"cniVersion":"1.1.0","name":"terway","type":"terway","socket":%q}`, socket)
}

func TestRelay(t *testing.T) {
	var got cnicall.Request
	config := agent(t, func(r cnicall.Request) cnicall.Reply {
		got = r
		return cnicall.Reply{Result: []byte(`{"cniVersion":"1.1.0"}`)}
	})
	out, code := execute(t, config, "CNI_COMMAND=ADD", "CNI_CONTAINERID=id", "CNI_NETNS=/run/netns/x", "CNI_IFNAME=eth0", "CNI_ARGS=A=b", "CNI_PATH=/opt")
	if code != 0 || out != `{"cniVersion":"1.1.0"}` {
		t.Errorf("exit %d, %q, want the agent's result as it is", code, out)
	}
	want := cnicall.Request{Verb: "ADD", ContainerID: "id", NetNS: "/run/netns/x", IfName: "eth0", Args: "A=b", Path: "/opt", Config: []byte(config)}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the agent was asked %+v, want %+v", got, want)
	}
}

// What a runtime makes of an error is libcni's types.Error.
func TestErrors(t *testing.T) {
	refuses := agent(t, func(cnicall.Request) cnicall.Reply {
		return cnicall.Reply{Error: &cnicall.Error{Code: 7, Msg: "name \"x\"", Details: "more"}}
	})
	gone := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"terway","socket":%q}`, filepath.Join(t.TempDir(), "none"))
	for name, c := range map[string]struct {
		verb, config string
		code         uint
		says         string
	}{
		"the agent's":     {"DEL", refuses, 7, `name "x"`},
		"no agent":        {"DEL", gone, types.ErrTryAgainLater, "does not answer"},
		"no agent STATUS": {"STATUS", gone, types.ErrPluginNotAvailable, "does not answer"},
		"not JSON":        {"ADD", "{", types.ErrDecodingFailure, "not valid JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // an agent that is gone is waited for
			out, code := execute(t, c.config, "CNI_COMMAND="+c.verb)
			var e struct {
				types.Error
				CNIVersion string `json:"cniVersion"`
			}
			if err := json.Unmarshal([]byte(out), &e); err != nil {
				t.Fatalf("output %q: %v", out, err)
			}
			if code != 1 || e.Code != c.code || !strings.Contains(e.Msg, c.says) || e.CNIVersion != "1.1.0" {
				t.Errorf("exit %d, %+v, want code %d naming %q", code, e, c.code, c.says)
			}
		})
	}
}

// The library that runtimes use understands the answer to VERSION.
func TestVersion(t *testing.T) {
	out, code := execute(t, `{"cniVersion":"1.0.0"}`, "CNI_COMMAND=VERSION")
	info, err := (&version.PluginDecoder{}).Decode([]byte(out))
	if code != 0 || err != nil || fmt.Sprint(info.SupportedVersions()) != fmt.Sprint(cnicall.Versions) {
		t.Errorf("exit %d, %v, %v", code, info, err)
	}
	if out, code := execute(t, ""); code != 0 || out != "" {
		t.Errorf("without a command: exit %d, output %q, want a word on standard error", code, out)
	}
}

// The codes are those of the specification, as the library has them.
func TestCodes(t *testing.T) {
	for mine, want := range map[uint]uint{
		cnicall.CodeIOFailure: types.ErrIOFailure, cnicall.CodeDecodingFailure: types.ErrDecodingFailure,
		cnicall.CodeTryAgainLater: types.ErrTryAgainLater, cnicall.CodeNotAvailable: types.ErrPluginNotAvailable,
	} {
		if mine != want {
			t.Errorf("code %d, want %d", mine, want)
		}
	}
}
