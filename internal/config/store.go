package config

import (
	"sync"
	"sync/atomic"
)

// Store holds the current configuration. Users keep the Store, call Get at the start of each
// piece of work, and use the result until its end.
type Store struct {
	current atomic.Pointer[Config]
	mu      sync.Mutex
	tell    []func()
}

// NewStore returns a Store with this configuration.
func NewStore(c *Config) *Store {
	s := &Store{}
	s.current.Store(c)
	return s
}

// Get returns the current configuration. The caller must not change it.
func (s *Store) Get() *Config { return s.current.Load() }

// Set replaces the configuration and calls the functions of OnChange.
func (s *Store) Set(c *Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current.Store(c)
	for _, f := range s.tell {
		f()
	}
}

// OnChange registers f to be called after each change. f must not block.
func (s *Store) OnChange(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tell = append(s.tell, f)
}
