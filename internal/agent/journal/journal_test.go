package journal

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"terway.dev/terway/internal/datapath"
)

func entry(sandbox, addr string) Entry {
	return Entry{
		Key: Key{Sandbox: sandbox, IfName: "eth0"}, State: Ready, Namespace: "default", Name: "p-" + sandbox,
		NetNS: "/run/netns/" + sandbox, Addresses: []netip.Addr{netip.MustParseAddr(addr)}, ENI: "00:16:3e:00:00:01",
		Network: "terway", Since: time.Unix(1000, 0).UTC(),
	}
}

func open(t *testing.T, dir string) *Journal {
	t.Helper()
	j, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return j
}

// The previous version wrote Exclusive as Own; an agent of that version finds both after a downgrade.
func TestEntriesOfTheFormerVersion(t *testing.T) {
	j := open(t, t.TempDir())
	e := entry("a", "192.168.32.1")
	e.Exclusive = &datapath.ENI{ID: "eni-2"}
	if err := j.Put(e); err != nil {
		t.Fatal(err)
	}
	key := []byte(e.Key.String())
	var raw []byte
	if err := j.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketEntries)
		raw = bytes.Clone(b.Get(key))
		var fields map[string]any
		if err := json.Unmarshal(raw, &fields); err != nil {
			return err
		}
		if fields["Own"] == nil {
			t.Errorf("the previous version cannot read the ENI of %s", raw)
		}
		delete(fields, "Exclusive")
		former, err := json.Marshal(fields)
		if err != nil {
			return err
		}
		return b.Put(key, former)
	}); err != nil {
		t.Fatal(err)
	}
	entries, _, err := j.Load()
	if err != nil || len(entries) != 1 || !reflect.DeepEqual(entries[0], e) {
		t.Errorf("%+v (%v), want %+v", entries, err, e)
	}
}

func TestEntriesSurviveReopening(t *testing.T) {
	dir := t.TempDir()
	j, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	a, b := entry("a", "192.168.32.1"), entry("b", "192.168.32.2")
	for _, e := range []Entry{b, a} {
		if err := j.Put(e); err != nil {
			t.Fatal(err)
		}
	}
	at := time.Unix(2000, 5).UTC()
	if err := j.Free(b.Key, b.Addresses, at); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}

	entries, freed, err := open(t, dir).Load()
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(entries, []Entry{a}) {
		t.Errorf("entries = %+v, want only %+v", entries, a)
	}
	if got := freed[b.Addresses[0]]; !got.Equal(at) || len(freed) != 1 {
		t.Errorf("freed = %v, want %s at %v", freed, b.Addresses[0], at)
	}
}

func TestPutTakesAddressOffTheFreedList(t *testing.T) {
	j := open(t, t.TempDir())
	e := entry("a", "192.168.32.1")
	if err := j.Free(e.Key, e.Addresses, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if err := j.Put(e); err != nil {
		t.Fatal(err)
	}
	_, freed, err := j.Load()
	if err != nil {
		t.Fatal(err)
	}
	if len(freed) != 0 {
		t.Errorf("freed = %v, want none: the address is held again", freed)
	}
}

func TestForgetAndFreeTolerateAbsence(t *testing.T) {
	j := open(t, t.TempDir())
	if err := j.Free(Key{"nobody", "eth0"}, nil, time.Unix(1, 0)); err != nil {
		t.Error(err)
	}
	if err := j.Forget([]netip.Addr{netip.MustParseAddr("192.168.32.9")}); err != nil {
		t.Error(err)
	}
}

func TestConcurrentWriters(t *testing.T) {
	j := open(t, t.TempDir())
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			e := entry(strings.Repeat("x", i+1), netip.AddrFrom4([4]byte{192, 168, 33, byte(i)}).String())
			if err := j.Put(e); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	entries, _, err := j.Load()
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 100 {
		t.Errorf("%d entries, want 100", len(entries))
	}
}

func TestOtherLayoutIsRefused(t *testing.T) {
	dir := t.TempDir()
	j, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketMeta).Put(keyVersion, []byte("99"))
	}); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "99") {
		t.Errorf("err = %v, want one that names version 99", err)
	}
}

func TestDamagedFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "journal.db"), []byte(strings.Repeat("not a database", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "drain the node") {
		t.Errorf("err = %v, want one that says what to do", err)
	}
}

// One bad change among concurrent ones fails alone.
func TestBadChangeFailsAlone(t *testing.T) {
	j := open(t, t.TempDir())
	bad := entry(strings.Repeat("k", bolt.MaxKeySize), "192.168.34.1")
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if err := j.Put(entry(strings.Repeat("x", i+1), "192.168.33.1")); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if err := j.Put(bad); err == nil {
				t.Error("an entry with too long a key was accepted")
			}
		})
	}
	wg.Wait()
	entries, _, err := j.Load()
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 50 {
		t.Errorf("%d entries, want the 50 good ones", len(entries))
	}
}

// However the file is damaged, Open either rejects it with advice or the entries can be read; it
// never crashes.
func TestDamagedPagesAreRefusedNotFatal(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "journal.db")
	j, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		if err := j.Put(entry(strings.Repeat("s", i+1), netip.AddrFrom4([4]byte{192, 168, 33, byte(i)}).String())); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	try := func(name string, data []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "journal.db"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := Open(dir)
		if err != nil {
			refused++
			if !strings.Contains(err.Error(), "drain the node") {
				t.Errorf("%s: error %v, want one that says what to do", name, err)
			}
			return
		}
		if _, _, err := j.Load(); err != nil && !strings.Contains(err.Error(), "drain the node") {
			t.Errorf("%s: error %v, want one that says what to do", name, err)
		}
		if err := j.Close(); err != nil {
			t.Errorf("%s: close: %v", name, err)
		}
	}
	page := os.Getpagesize()
	for at := 0; at < len(good) && at < 24*page; at += page {
		bad := bytes.Clone(good)
		for i := at; i < at+page && i < len(bad); i++ {
			bad[i] = 0xa5
		}
		try("page overwritten", bad)
		try("file cut", good[:at])
	}
	if refused == 0 {
		t.Error("no damage was noticed")
	}
}

func TestNodeStateIsKept(t *testing.T) {
	dir := t.TempDir()
	j, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := j.Node(); err != nil || got != nil {
		t.Errorf("fresh journal has node state %q, %v", got, err)
	}
	if err := j.SetNode([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := open(t, dir).Node(); err != nil || string(got) != "x" {
		t.Errorf("node state %q, %v, want x", got, err)
	}
}

func BenchmarkPut(b *testing.B) {
	for _, writers := range []int{1, 100} {
		b.Run(strconv.Itoa(writers), func(b *testing.B) {
			j, err := Open(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			defer j.Close()
			for range b.N {
				var wg sync.WaitGroup
				for i := range writers {
					wg.Go(func() {
						if err := j.Put(entry(strconv.Itoa(i), "192.168.33.1")); err != nil {
							b.Error(err)
						}
					})
				}
				wg.Wait()
			}
		})
	}
}
