package vpcsim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"terway.dev/terway/internal/atomicfile"
	"terway.dev/terway/internal/vpcsim/openapi/sts"
)

// store is a directory with what must survive a restart. A nil *store keeps nothing.
type store struct {
	dir  string
	lock *os.File
}

const (
	stateFile   = "state.json"
	accountFile = "account.json"
	lockFile    = "lock"
)

// openStore takes the directory for this process alone.
func openStore(dir string) (*store, error) {
	if dir == "" {
		return nil, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock of the state directory: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("state directory %s: another simulator is using it (%w); stop that one or take another directory", dir, err)
	}
	return &store{dir: dir, lock: lock}, nil
}

func (s *store) close() error {
	if s == nil {
		return nil
	}
	return s.lock.Close()
}

// load returns the saved state; nil when there is none.
func (s *store) load() ([]byte, error) {
	if s == nil {
		return nil, nil
	}
	b, err := os.ReadFile(filepath.Join(s.dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load the saved state: %w", err)
	}
	return b, nil
}

// save puts the state on disk, whole or not at all.
func (s *store) save(state []byte) error { return s.write(stateFile, state) }

// account loads the account's keys, or makes them.
func (s *store) account(ownerID string, random io.Reader) (sts.Account, error) {
	if s == nil {
		return sts.NewAccount(ownerID, random)
	}
	b, err := os.ReadFile(filepath.Join(s.dir, accountFile))
	if errors.Is(err, fs.ErrNotExist) {
		a, err := sts.NewAccount(ownerID, random)
		if err != nil {
			return a, err
		}
		b, err := json.MarshalIndent(a, "", "  ")
		if err != nil {
			return a, fmt.Errorf("encode the account: %w", err)
		}
		return a, s.write(accountFile, b)
	}
	if err != nil {
		return sts.Account{}, fmt.Errorf("load the account: %w", err)
	}
	var a sts.Account
	if err := json.Unmarshal(b, &a); err != nil {
		return a, fmt.Errorf("account in %s: %w", filepath.Join(s.dir, accountFile), err)
	}
	if a.AccessKeyID == "" || a.AccessKeySecret == "" || len(a.Master) < 16 {
		return a, fmt.Errorf("account in %s: accessKeyId, accessKeySecret or master is missing; remove the file for a new account", filepath.Join(s.dir, accountFile))
	}
	return a, nil
}

func (s *store) write(name string, data []byte) error {
	return atomicfile.Write(filepath.Join(s.dir, name), data, 0o600)
}
