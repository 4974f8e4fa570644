package config

import (
	"sync"
	"sync/atomic"
)

// Store holds the configuration in force. Who uses one keeps the Store, asks for
// the configuration at the start of each piece of work, and uses that to its end.
type Store struct {
	current atomic.Pointer[Config]
	mu      sync.Mutex
	tell    []func()
}

// NewStore makes a Store with its first configuration.
func NewStore(c *Config) *Store {
	s := &Store{}
	s.current.Store(c)
	return s
}

// Get returns the configuration in force. It must not be changed.
func (s *Store) Get() *Config { return s.current.Load() }

// Set puts a configuration in force and tells those who asked to be told.
func (s *Store) Set(c *Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current.Store(c)
	for _, f := range s.tell {
		f()
	}
}

// OnChange has f called after each change. f must not block.
func (s *Store) OnChange(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tell = append(s.tell, f)
}
