package journal

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
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
