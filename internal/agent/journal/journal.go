// Package journal is the agent's checkpoint: it stores which pod has which address. An entry is
// written and synced before the container runtime gets its answer, so a kill at any instruction
// loses no address and gives none to two pods.
//
// It owns one bbolt file. It makes no decisions: the caller knows what an entry means.
//
// The file is in /run, which is in memory on a node. The journal outlives the agent and ends with
// the boot, as every pod's sandbox does, and a write to memory needs no wait. On a disk each ADD
// would wait for four syncs, and a busy disk would delay pods. A directory on a disk works too; it
// is only slower.
//
// A damaged file is refused, not rebuilt: the kernel knows a pod's address but not its sandbox, and
// a guess could give one address to two pods. Running pods keep their network in the meantime.
package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"sort"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"terway.dev/terway/internal/bandwidth"
	"terway.dev/terway/internal/datapath"
)

// Key names an attachment: one interface of one pod sandbox.
type Key struct {
	Sandbox string
	IfName  string
}

func (k Key) String() string { return k.Sandbox + "/" + k.IfName }

// State is the progress of an attachment.
type State string

const (
	// Allocating: the address is taken, the wiring may be in any state.
	Allocating State = "allocating"
	// Ready: the pod is wired; the runtime has the result or can get it again.
	Ready State = "ready"
	// Releasing: the runtime has given the attachment back; the wiring may be in any state.
	Releasing State = "releasing"
)

// Entry is an attachment.
type Entry struct {
	Key
	State     State
	Namespace string
	Name      string
	UID       string `json:",omitempty"`
	NetNS     string
	Addresses []netip.Addr
	ENI       string // MAC
	// Exclusive is that ENI if it is an exclusive one.
	Exclusive *datapath.ENI `json:",omitempty"`
	// Uncounted: the pod has an exclusive ENI that the scheduler did not count, or, if Unsure, for
	// which it is unknown whether it was counted.
	Uncounted  bool   `json:",omitempty"`
	Unsure     bool   `json:",omitempty"`
	HostIfName string `json:",omitempty"`
	// Datapath is the name of the kind with which the pod was wired.
	Datapath string `json:",omitempty"`
	// Limits are those of the pod's bandwidth; nil if it never had one.
	Limits *bandwidth.Limits `json:",omitempty"`
	// Priority is that of what the pod sends by a shared ENI; empty if an earlier version has written the
	// entry, and then the usual one.
	Priority bandwidth.Priority `json:",omitempty"`
	// Network is the CNI network's name. GC frees only attachments of its own network.
	Network string
	// Result is the CNI result of Ready entries, in the agent's own version.
	Result json.RawMessage `json:",omitempty"`
	Since  time.Time
}

// stored is an entry as it is in the file.
type stored struct {
	Entry
	// Own is Exclusive under the name that the previous version used. An agent of that version may
	// have written the entry, or may read it after a downgrade.
	Own *datapath.ENI `json:",omitempty"`
}

// Pod returns "namespace/name", or the sandbox if the runtime did not name the pod.
func (e *Entry) Pod() string {
	if e.Name == "" {
		return "sandbox " + e.Sandbox
	}
	return e.Namespace + "/" + e.Name
}

// FileName is the journal's file name in its directory.
const FileName = "journal.db"

// version is the layout of the file. A file of another version is refused: a wrong guess would give
// an address twice.
const version = "1"

var (
	bucketMeta    = []byte("meta")
	bucketEntries = []byte("entries")
	bucketFreed   = []byte("freed")
	keyVersion    = []byte("version")
	keyNode       = []byte("node")
)

// Journal is an open journal. Its methods may be called concurrently.
type Journal struct{ db *bolt.DB }

// Open opens or creates the journal in dir. Only one process can have it open; a second one gets an
// error after a short wait.
func Open(dir string) (*Journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create state directory: %w", err)
	}
	path := filepath.Join(dir, FileName)
	db, err := openChecked(path)
	if err != nil {
		if errors.Is(err, bolterrors.ErrTimeout) {
			return nil, fmt.Errorf("open journal %s: another process holds it", path)
		}
		return nil, fmt.Errorf("open journal %s (if it is damaged, drain the node, remove the file and restart the agent): %w", path, err)
	}
	j := &Journal{db: db}
	if err := j.init(path); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return j, nil
}

func (j *Journal) init(path string) error {
	return j.db.Update(func(tx *bolt.Tx) error {
		for _, b := range [][]byte{bucketMeta, bucketEntries, bucketFreed} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return fmt.Errorf("journal %s: %w", path, err)
			}
		}
		meta := tx.Bucket(bucketMeta)
		switch v := string(meta.Get(keyVersion)); v {
		case version:
			return nil
		case "":
			return meta.Put(keyVersion, []byte(version))
		default:
			return fmt.Errorf("journal %s has layout version %s, this agent reads %s: run the agent that wrote it", path, v, version)
		}
	})
}

// openChecked opens the file and checks every page. bbolt maps the file and trusts it, so a damaged
// page causes a panic or a fault.
func openChecked(path string) (db *bolt.DB, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			// The database is in an unknown state: even its Close may fault. The process ends on
			// this error, which releases the lock on the file.
			db, err = nil, fmt.Errorf("the file is damaged: %v", r)
		}
	}()
	db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: 5 * time.Second})
	if err != nil {
		return nil, err
	}
	err = db.View(func(tx *bolt.Tx) error {
		var errs []error
		for e := range tx.Check() { // read all: the check runs concurrently on the same map
			errs = append(errs, e)
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the file is damaged: %w", err), db.Close())
	}
	return db, nil
}

// Close closes the file.
func (j *Journal) Close() error { return j.db.Close() }

// Put writes an entry; it is on disk when Put returns.
func (j *Journal) Put(e Entry) error {
	data, err := json.Marshal(stored{e, e.Exclusive})
	if err != nil {
		return fmt.Errorf("journal entry %s: %w", e.Key, err)
	}
	err = j.db.Update(func(tx *bolt.Tx) error {
		for _, a := range e.Addresses {
			if err := tx.Bucket(bucketFreed).Delete([]byte(a.String())); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketEntries).Put([]byte(e.Key.String()), data)
	})
	if err != nil {
		return fmt.Errorf("write journal entry %s: %w", e.Key, err)
	}
	return nil
}

// Free removes an entry and stores when its addresses became free. A missing entry is no error.
func (j *Journal) Free(k Key, addrs []netip.Addr, at time.Time) error {
	stamp, err := at.MarshalBinary()
	if err != nil {
		return fmt.Errorf("journal: time %v: %w", at, err)
	}
	err = j.db.Update(func(tx *bolt.Tx) error {
		if err := tx.Bucket(bucketEntries).Delete([]byte(k.String())); err != nil {
			return err
		}
		for _, a := range addrs {
			if err := tx.Bucket(bucketFreed).Put([]byte(a.String()), stamp); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("free journal entry %s: %w", k, err)
	}
	return nil
}

// Forget removes the times at which addresses became free, for addresses that the node no longer
// has.
func (j *Journal) Forget(addrs []netip.Addr) error {
	if len(addrs) == 0 {
		return nil
	}
	err := j.db.Update(func(tx *bolt.Tx) error {
		for _, a := range addrs {
			if err := tx.Bucket(bucketFreed).Delete([]byte(a.String())); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("forget freed addresses: %w", err)
	}
	return nil
}

// SetNode stores the node's last desired state, so that the agent can start while the API server is
// unreachable. The caller knows what it means.
func (j *Journal) SetNode(data []byte) error {
	err := j.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put(keyNode, data) })
	if err != nil {
		return fmt.Errorf("write the node's state to the journal: %w", err)
	}
	return nil
}

// Node returns what SetNode stored; nil if nothing.
func (j *Journal) Node() (data []byte, err error) {
	err = j.db.View(func(tx *bolt.Tx) error {
		data = bytes.Clone(tx.Bucket(bucketMeta).Get(keyNode))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the node's state from the journal: %w", err)
	}
	return data, nil
}

// Load returns all entries, sorted by key, and the time at which each freed address became free.
func (j *Journal) Load() (entries []Entry, freed map[netip.Addr]time.Time, err error) {
	freed = map[netip.Addr]time.Time{}
	err = j.db.View(func(tx *bolt.Tx) error {
		if err := tx.Bucket(bucketEntries).ForEach(func(k, v []byte) error {
			var e stored
			if err := json.Unmarshal(v, &e); err != nil {
				return fmt.Errorf("entry %s: %w", k, err)
			}
			if e.Exclusive == nil {
				e.Exclusive = e.Own
			}
			entries = append(entries, e.Entry)
			return nil
		}); err != nil {
			return err
		}
		return tx.Bucket(bucketFreed).ForEach(func(k, v []byte) error {
			a, err := netip.ParseAddr(string(k))
			if err != nil {
				return fmt.Errorf("freed address %q: %w", k, err)
			}
			var t time.Time
			if err := t.UnmarshalBinary(v); err != nil {
				return fmt.Errorf("freed address %s: %w", a, err)
			}
			freed[a] = t
			return nil
		})
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read journal %s (if it is damaged, drain the node, remove the file and restart the agent): %w", j.db.Path(), err)
	}
	sort.Slice(entries, func(a, b int) bool { return entries[a].Key.String() < entries[b].Key.String() })
	return entries, freed, nil
}
