package watch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
)

// limitsFor is how long a limit that was read is taken to hold.
const limitsFor = 10 * time.Minute

// Limits tells how large a list the storage under this Vault accepts.
type Limits interface {
	// Limit never fails: what is not known says so, with the reason in its rule.
	Limit(ctx context.Context) crl.Limit
}

// StorageReader reads what Vault knows of its storage.
type StorageReader interface {
	// Storage returns the backend and version as far as they are known, also
	// with an error.
	Storage(ctx context.Context) (crl.Storage, error)
}

// ConsulReader reads the limits of the Consul agent that Vault talks to.
type ConsulReader interface {
	Limits(ctx context.Context) (kvMaxValueSize, txnMaxReqLen int64, err error)
}

// LimitOptions say where the limit comes from: Bytes, else Storage, else Vault
// and Consul.
type LimitOptions struct {
	Bytes   int64       // configured: the limit itself
	Storage crl.Storage // configured, where Backend is set

	Vault      StorageReader
	Consul     ConsulReader // nil: none is configured
	ConsulPath string       // path of Vault's storage in Consul, default vault/

	Now func() time.Time // default time.Now
}

// RunningLimits is the limit of a running system, read at most every ten
// minutes. Its methods may be called concurrently.
type RunningLimits struct {
	o LimitOptions

	mu     sync.Mutex
	last   crl.Limit
	readAt time.Time // of last, where it is known
}

// NewLimits checks the options. It makes no request.
func NewLimits(o LimitOptions) (*RunningLimits, error) {
	if o.Bytes < 0 {
		return nil, fmt.Errorf("making limits: %d bytes", o.Bytes)
	}
	if o.Bytes == 0 && o.Storage.Backend == "" && o.Vault == nil {
		return nil, errors.New("making limits: neither a limit nor a Vault to read it from")
	}
	if err := o.Storage.Validate(); err != nil {
		return nil, fmt.Errorf("making limits: %w", err)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &RunningLimits{o: o}, nil
}

// Limit implements Limits. Once known, a limit is kept while it cannot be read
// anew.
func (l *RunningLimits) Limit(ctx context.Context) crl.Limit {
	if l.o.Bytes > 0 {
		return crl.Limit{Backend: l.o.Storage.Backend, MaxBytes: l.o.Bytes, Rule: "set in the configuration (crl.limit)", Known: true}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last.Known && l.o.Now().Sub(l.readAt) < limitsFor {
		return l.last
	}
	storage, err := l.Storage(ctx)
	limit := storage.Limit()
	if err != nil {
		limit = crl.Limit{Backend: storage.Backend, Rule: err.Error()}
	}
	if limit.Known || !l.last.Known {
		l.last, l.readAt = limit, l.o.Now()
	}
	return l.last
}

// Storage is the storage that the limit follows from: the configured one, else
// what Vault and Consul say now.
func (l *RunningLimits) Storage(ctx context.Context) (crl.Storage, error) {
	if l.o.Storage.Backend != "" {
		return l.withPath(l.o.Storage), nil
	}
	storage, err := l.o.Vault.Storage(ctx)
	if err != nil {
		return storage, err
	}
	if storage.Backend != "consul" {
		return storage, nil
	}
	if l.o.Consul == nil {
		return storage, errors.New("the limits of Consul, where Vault keeps its data, are not told by Vault: set consul.address, or crl.limit")
	}
	storage.Consul.KVMaxValueSize, storage.Consul.TxnMaxReqLen, err = l.o.Consul.Limits(ctx)
	if err != nil {
		return storage, fmt.Errorf("reading Consul's limits: %w", err)
	}
	return l.withPath(storage), nil
}

func (l *RunningLimits) withPath(s crl.Storage) crl.Storage {
	if s.Consul.Path == "" {
		s.Consul.Path = l.o.ConsulPath
	}
	return s
}
