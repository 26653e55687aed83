package tidiertest

import (
	"context"
	"fmt"
	"strconv"
	"sync"

	"github.com/pkiwarden/pkiwarden/pki"
)

// State keeps values in memory under compare-and-swap. It implements
// tidier.State.
type State struct {
	// Before, where set, is called before each Get and Put; its error is theirs.
	Before func(op, key string) error

	mu     sync.Mutex
	values map[string]stored
	writes int
}

type stored struct{ version, data string }

// Get implements tidier.State.
func (s *State) Get(ctx context.Context, key string) ([]byte, string, error) {
	if err := s.before(ctx, "Get", key); err != nil {
		return nil, "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.values[key]
	if !ok {
		return nil, "", nil
	}
	return []byte(value.data), value.version, nil
}

// Put implements tidier.State.
func (s *State) Put(ctx context.Context, key string, data []byte, version string) (string, error) {
	if err := s.before(ctx, "Put", key); err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if have := s.values[key].version; have != version {
		return "", fmt.Errorf("putting %s at version %q, it is at %q: %w", key, version, have, pki.ErrConflict)
	}
	return s.write(key, data), nil
}

func (s *State) before(ctx context.Context, op, key string) error {
	if s.Before != nil {
		if err := s.Before(op, key); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// Set writes a value whatever is there.
func (s *State) Set(key string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.write(key, data)
}

func (s *State) write(key string, data []byte) (version string) {
	s.writes++
	if s.values == nil {
		s.values = make(map[string]stored)
	}
	s.values[key] = stored{strconv.Itoa(s.writes), string(data)}
	return s.values[key].version
}
