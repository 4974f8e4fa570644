package vpcsim

import (
	"bytes"
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

// store is a directory with what must survive a restart. A nil *store saves nothing.
//
// The state is in two files: state.json has the whole state at some time, the journal has a
// line for each change since. A change whose line a kill truncated was not answered.
type store struct {
	dir     string
	lock    *os.File
	journal *os.File
	// whole and since are the sizes of the two files; whole is 0 until this process has written
	// it.
	whole, since int
}

const (
	stateFile   = "state.json"
	journalFile = "journal"
	accountFile = "account.json"
	lockFile    = "lock"
)

// openStore locks the directory for this process.
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
	journal, err := os.OpenFile(filepath.Join(dir, journalFile), os.O_CREATE|os.O_RDWR|os.O_APPEND|unix.O_CLOEXEC, 0o600)
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("open the journal of the state directory: %w", err)
	}
	return &store{dir: dir, lock: lock, journal: journal}, nil
}

func (s *store) close() error {
	if s == nil {
		return nil
	}
	return errors.Join(s.journal.Close(), s.lock.Close())
}

// load returns the saved state and the changes since; nil if there is none.
func (s *store) load() (state []byte, changes [][]byte, err error) {
	if s == nil {
		return nil, nil, nil
	}
	state, err = os.ReadFile(filepath.Join(s.dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("load the saved state: %w", err)
	}
	lines, err := io.ReadAll(s.journal)
	if err != nil {
		return nil, nil, fmt.Errorf("load the saved changes: %w", err)
	}
	changes = bytes.Split(lines, []byte("\n"))
	return state, changes[:len(changes)-1], nil // after the last line end: what a kill truncated, or nothing
}

// wantsWhole reports whether the whole state should be saved next, and not a change: the
// journal would become longer than the state, or cannot be appended to.
func (s *store) wantsWhole() bool { return s.since >= s.whole }

// save writes the state atomically. If the process is killed here, the old journal has changes
// that the state has already; state.Load ignores them.
func (s *store) save(state []byte) error {
	s.whole = 0
	if err := s.write(stateFile, state); err != nil {
		return err
	}
	if err := s.journal.Truncate(0); err != nil {
		return fmt.Errorf("empty the journal of the state: %w", err)
	}
	s.whole, s.since = max(len(state), leastJournal), 0
	return nil
}

// leastJournal is how long the journal of a small state may become, in bytes.
const leastJournal = 1 << 20

// add appends a change to the journal.
func (s *store) add(change []byte) error {
	n, err := s.journal.Write(append(change, '\n'))
	if err == nil {
		err = unix.Fdatasync(int(s.journal.Fd()))
	}
	if err != nil {
		s.whole = 0 // there may be half a line
		return fmt.Errorf("save a change of the state: %w", err)
	}
	s.since += n
	return nil
}

// account loads the account's keys, or generates them.
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
