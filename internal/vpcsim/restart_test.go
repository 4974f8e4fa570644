package vpcsim_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aliyun/alibaba-cloud-sdk-go/services/ecs"

	"terway.dev/terway/internal/vpcsim"
	"terway.dev/terway/internal/vpcsim/faults"
	"terway.dev/terway/internal/vpcsim/state"
)

// manualClock is a clock that the test sets.
type manualClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *manualClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *manualClock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func TestRestartFromDisk(t *testing.T) {
	clock := &manualClock{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	s := start(t, func(o *vpcsim.Options) {
		o.StateDir, o.Now, o.Timing = t.TempDir(), clock.Now, state.Timing{AttachENI: time.Minute}
		o.Faults = []faults.Rule{{VSwitchFull: []string{"vsw-none"}}}
	})
	c := connect(t, s)
	n := makeNetwork(t, c)
	node, id := runInstance(t, c, n), makeENI(t, c, n)
	addresses := must(assign(c, id, 2, "token-1"))(t)
	add(t, s, faults.Rule{VSwitchFull: []string{n.vswitch}})
	r := ecs.CreateAttachNetworkInterfaceRequest()
	r.NetworkInterfaceId, r.InstanceId = id, node
	must(c.ecs.AttachNetworkInterface(r))(t)
	account := s.Account()

	s = reopen(t, s)
	if !reflect.DeepEqual(s.Account(), account) {
		t.Errorf("account %+v after the restart, was %+v", s.Account(), account)
	}
	c = connect(t, s)
	if x := eni(t, c, id); x.Status != "Attaching" || len(x.PrivateIpSets.PrivateIpSet) != 3 {
		t.Errorf("ENI after the restart: %s with %d addresses", x.Status, len(x.PrivateIpSets.PrivateIpSet))
	}
	if again := must(assign(c, id, 2, "token-1"))(t); !reflect.DeepEqual(again, addresses) {
		t.Errorf("the token gave %v before the restart, %v after it", addresses, again)
	}
	clock.Advance(time.Minute)
	if got := eni(t, c, id).Status; got != "InUse" {
		t.Errorf("status %s, want that the attachment continues and completes", got)
	}
	// The fault no longer exists, and neither does its effect.
	must(assign(c, id, 1, "token-2"))(t)
}

// Every change is on disk before the answer.
func TestAnsweredMeansSaved(t *testing.T) {
	dir := t.TempDir()
	s := start(t, func(o *vpcsim.Options) { o.StateDir = dir })
	c := connect(t, s)
	n := makeNetwork(t, c)
	for range 5 {
		r := ecs.CreateCreateNetworkInterfaceRequest()
		r.VSwitchId, r.SecurityGroupId = n.vswitch, n.group
		id := must(c.ecs.CreateNetworkInterface(r))(t).NetworkInterfaceId
		saved, err := os.ReadFile(filepath.Join(dir, "journal"))
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.SplitAfter(string(saved), "\n")
		if last := lines[len(lines)-2]; !json.Valid([]byte(last)) || !strings.Contains(last, id) {
			t.Fatalf("%s was answered, but is not in the journal's last line: %s", id, last)
		}
	}
}

// A kill may truncate the journal's last line, or come between the two files; a change that
// cannot be appended to the journal makes the whole state be saved.
func TestKilledWhileSaving(t *testing.T) {
	dir := t.TempDir()
	s := start(t, func(o *vpcsim.Options) { o.StateDir = dir })
	c := connect(t, s)
	n := makeNetwork(t, c)
	id := makeENI(t, c, n)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	journal := filepath.Join(dir, "journal")
	lines := must(os.ReadFile(journal))(t)
	if len(lines) == 0 {
		t.Fatal("the journal is empty: nothing is tested")
	}
	for name, end := range map[string]string{"in the middle of a line": `{"Revision":99999,"Gone":["` + id + `"`, "between the two files": string(lines)} {
		if err := os.WriteFile(journal, append(slices.Clone(lines), end...), 0o600); err != nil {
			t.Fatal(err)
		}
		s := start(t, func(o *vpcsim.Options) { o.StateDir = dir })
		if got := eni(t, connect(t, s), id).NetworkInterfaceId; got != id {
			t.Errorf("killed %s: ENI %q, want %s", name, got, id)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if left := must(os.ReadFile(journal))(t); len(left) != 0 {
			t.Errorf("killed %s: the state is saved whole at the start, and the journal still has %q", name, left)
		}
	}
	if err := os.WriteFile(journal, []byte("{\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := vpcsim.New(vpcsim.Options{StateDir: dir}); err == nil {
		t.Error("a journal with a broken line is accepted")
		s.Close()
	}
}

func TestOneSimulatorForAStateDirectory(t *testing.T) {
	dir := t.TempDir()
	start(t, func(o *vpcsim.Options) { o.StateDir = dir })
	_, err := vpcsim.New(vpcsim.Options{StateDir: dir})
	if err == nil || !strings.Contains(err.Error(), "another simulator") {
		t.Errorf("second simulator on one directory: %v", err)
	}
}

func TestBrokenStateIsRefused(t *testing.T) {
	for file, content := range map[string]string{"state.json": "{", "account.json": `{"accessKeyId":"x"}`} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := vpcsim.New(vpcsim.Options{StateDir: dir}); err == nil {
			t.Errorf("%s with %q is accepted", file, content)
			s.Close()
		}
	}
}
