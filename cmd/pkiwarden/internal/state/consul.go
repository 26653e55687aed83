package state

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/consul"
	"github.com/pkiwarden/pkiwarden/pki"
)

// KeyValues is Consul's KV store.
type KeyValues interface {
	// KVGet returns nil and 0 for a key that is absent.
	KVGet(ctx context.Context, prefix, name string) (value []byte, index uint64, err error)
	// KVCAS writes a key that still has this index, 0 being that of an absent
	// one. Otherwise its error wraps [consul.ErrStale], and nothing was written.
	KVCAS(ctx context.Context, prefix, name string, value []byte, index uint64) (newIndex uint64, err error)
}

// Consul keeps each record under a key of its own, PREFIX/KEY, in Consul's KV
// store; its ModifyIndex is the record's version. It needs the ACL rule
// key_prefix "PREFIX/" { policy = "write" }. Reads are consistent: they are
// answered by the leader of Consul's servers once it has asked the others.
type Consul struct {
	kv     KeyValues
	prefix string
}

// NewConsul makes a store below a prefix, state.path. It sends nothing.
func NewConsul(kv KeyValues, prefix string) (*Consul, error) {
	if kv == nil {
		return nil, errors.New("making state store: it needs a Consul: set consul.address")
	}
	prefix = strings.Trim(prefix, "/") + "/"
	for part := range strings.SplitSeq(strings.TrimSuffix(prefix, "/"), "/") {
		if part == "" || part == "." || part == ".." {
			return nil, fmt.Errorf("making state store: state.path %q has the part %q, want a prefix of Consul's keys such as pkiwarden/", prefix, part)
		}
	}
	return &Consul{kv: kv, prefix: prefix}, nil
}

// Where names Consul's key of a key.
func (c *Consul) Where(key string) string { return "Consul's key " + c.prefix + safeName(key) }

// Get implements [Store].
func (c *Consul) Get(ctx context.Context, key string) ([]byte, string, error) {
	name := safeName(key)
	data, index, err := c.kv.KVGet(ctx, c.prefix, name)
	if err != nil {
		return nil, "", fmt.Errorf("reading state %s: %w", key, err)
	}
	if index == 0 {
		return nil, "", nil
	}
	corrupt := func(why string) error {
		return fmt.Errorf("reading state %s: Consul's key %s%s %s; repair it, or delete it to begin anew", key, c.prefix, name, why)
	}
	switch {
	case len(data) == 0:
		return nil, "", corrupt("is empty")
	case len(data) > MaxBytes:
		return nil, "", corrupt(fmt.Sprintf("holds %d bytes, more than the %d that are allowed", len(data), MaxBytes))
	}
	return data, strconv.FormatUint(index, 10), nil
}

// Put implements [Store].
func (c *Consul) Put(ctx context.Context, key string, data []byte, version string) (string, error) {
	if err := checkRecord(key, data); err != nil {
		return "", err
	}
	var index uint64
	if version != "" {
		var err error
		if index, err = strconv.ParseUint(version, 10, 64); err != nil || index == 0 {
			return "", fmt.Errorf("writing state %s: version %q is none of Consul's", key, version)
		}
	}
	newIndex, err := c.kv.KVCAS(ctx, c.prefix, safeName(key), data, index)
	if errors.Is(err, consul.ErrStale) {
		return "", fmt.Errorf("writing state %s: %w", key, pki.ErrConflict)
	}
	if err != nil {
		return "", fmt.Errorf("writing state %s: %w", key, err)
	}
	return strconv.FormatUint(newIndex, 10), nil
}
