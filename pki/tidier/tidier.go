// Package tidier keeps the PKI mounts of a Vault tidy: it observes, lets
// package pki plan, writes the run down, starts it, follows it, rotates the CRL
// where tidy does not rebuild it, and measures whether it worked.
//
// The record that is written before a run is asked of Vault is what instances
// share. A run is a sequence of steps in it, each taken by compare-and-swap, so
// that any instance can take up what another left: after a crash between two
// steps the next one to look finds where the run is and goes on from there. At
// most one run is asked of Vault for each decision.
package tidier

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

// Vault is what the tidier needs of Vault. Errors are told apart as package
// pki lists them; a [pki.PermissionError] while observing is a finding and
// leaves unknown what it hides.
type Vault interface {
	Observer
	Actor
}

// Observer reads.
type Observer interface {
	Health(context.Context) (pki.Health, error)
	ClusterID(context.Context) (string, error)
	Mounts(context.Context) ([]pki.Mount, error)
	CRLConfig(context.Context, pki.Mount) (pki.CRLConfig, error)
	AutoTidy(context.Context, pki.Mount) (pki.AutoTidy, error)
	LongestTTL(context.Context, pki.Mount) (pki.LongestTTL, error)
	TidyStatus(context.Context, pki.Mount) (pki.TidyStatus, error)
	// Certificate reads one by its serial number, nil without an error where Vault
	// stores none, or no longer, with when it was revoked.
	Certificate(ctx context.Context, m pki.Mount, serial string) (*x509.Certificate, time.Time, error)
	// Capabilities is what the token may do at each of the paths of m's namespace:
	// capabilities as policies name them, "root" for all.
	Capabilities(ctx context.Context, m pki.Mount, paths []string) (map[string][]string, error)
	// Leases needs a right that is optional.
	Leases(context.Context) (pki.Leases, error)
}

// Actor changes Vault.
type Actor interface {
	// StartTidy tells whether the run was started; false without an error means
	// that another run is on. After an error other than PermissionError,
	// RefusedError, RedirectError and ErrSealed it may have been.
	StartTidy(context.Context, pki.Mount, pki.TidyParams) (started bool, err error)
	// DisableAutoTidy switches the mount's own auto-tidy off and leaves its other
	// settings as they are.
	DisableAutoTidy(context.Context, pki.Mount) error
	// CancelTidy asks the run that is on to stop, whosever it is, and tells
	// whether there is one. It does not wait.
	CancelTidy(context.Context, pki.Mount) (asked bool, err error)
	Rotate(context.Context, pki.Mount) error
}

// CRLs measures lists.
type CRLs interface {
	// Measure fetches and verifies the mount's lists now.
	Measure(context.Context, pki.Mount) ([]pki.CRL, error)
	// Latest is the last complete measurement, false without one.
	Latest(pki.Mount) ([]pki.CRL, bool)
	// Entries reads the mount's lists once more and shows their entries: begin is
	// called for each list, and what it returns with each entry. Only where it
	// returns without an error, all lists that it showed being verified, may what
	// was shown be used.
	Entries(ctx context.Context, m pki.Mount, begin func(pki.Issuer) func(crl.Entry) error) ([]pki.CRL, error)
}

// State keeps small values under compare-and-swap. One that has a method
// Where(key string) string tells by it what a key is kept in, for errors.
type State interface {
	// Get returns nil and "" where there is no value.
	Get(ctx context.Context, key string) (data []byte, version string, err error)
	// Put replaces what Get returned with the given version, "" where there was
	// nothing. Its error wraps [pki.ErrConflict] where the value is another one
	// by now; nothing is written then.
	Put(ctx context.Context, key string, data []byte, version string) (newVersion string, err error)
}

// Options configure a Tidier.
type Options struct {
	Vault  Vault
	CRLs   CRLs
	State  State // nil: nothing is remembered, so that nothing can be run
	Policy pki.Policy
	Mounts []string // patterns as [pki.Select] reads them; default: all

	// Watched are the patterns of the CRL watch beside it, which tells by itself
	// where they select nothing; nil: there is none.
	Watched []string

	// Identity names this instance in records. It need not be unique: a random
	// part is added.
	Identity string

	// AutoPause: the pause of each run is chosen, see [pki.ChoosePause], and
	// Policy.Pause is not asked.
	AutoPause bool

	// RunWithin is how long a run may take, as far as a chosen pause decides.
	// Default 30 min.
	RunWithin time.Duration

	// Interval is about how often Once is called: settings and states of mounts in
	// which nothing is on are read anew every few of them. Default 1 min.
	Interval time.Duration

	// Claim is how long a step is left to the instance that took it before
	// another one takes over. Half of it is for clocks that differ. Default 1 min.
	Claim time.Duration

	// FollowFor is how long one call of Once follows a run. Default 2 min.
	FollowFor time.Duration

	// Patience is how long Tidy goes on following a run of which it cannot
	// learn anything. Default 5 min.
	Patience time.Duration

	// SampleSize is how many certificates are remembered, of all mounts together,
	// for estimates of what is reclaimable: 19 octets each, 45 until it is read.
	// Default 200,000.
	SampleSize int

	Now        func() time.Time      // default time.Now
	Log        *slog.Logger          // default: none
	Registerer prometheus.Registerer // default: none
	Report     func([]pki.Finding)   // takes the whole current set after each Once

	// Sampling, where set, is told how many certificates of a mount have been read
	// for its estimate, of how many that are wanted as far as is known.
	Sampling func(m pki.Mount, read, of int64)

	// Watch, where set, is shown each status of a run that is followed.
	Watch func(pki.Mount, pki.TidyStatus)
}

// Tidier tidies mounts. Its methods may be called concurrently; one call runs
// at a time.
type Tidier struct {
	o       Options
	holder  string
	log     *slog.Logger
	now     func() time.Time
	metrics *metrics

	turn   chan struct{}        // holds one token: whoever took it may use what is below
	spoken map[pki.Mount]string // what was last logged about a mount

	memories  memories
	samples   sampler
	latencies latencies
	leases    leaseCount
	following following

	board board
}

// New makes a Tidier and registers its metrics. It makes no request.
func New(o Options) (*Tidier, error) {
	if o.Vault == nil || o.CRLs == nil {
		return nil, errors.New("making tidier: Vault and CRLs are needed")
	}
	if o.State == nil {
		o.State = stateless{}
	}
	if err := o.Policy.Validate(); err != nil {
		return nil, fmt.Errorf("making tidier: %w", err)
	}
	if o.Interval <= 0 {
		o.Interval = time.Minute
	}
	if o.Claim <= 0 {
		o.Claim = time.Minute
	}
	if o.RunWithin <= 0 {
		o.RunWithin = 30 * time.Minute
	}
	if o.FollowFor <= 0 {
		o.FollowFor = 2 * time.Minute
	}
	if o.SampleSize <= 0 {
		o.SampleSize = 200_000
	}
	if o.Patience <= 0 {
		o.Patience = 5 * time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Report == nil {
		o.Report = func([]pki.Finding) {}
	}
	if o.Watch == nil {
		o.Watch = func(pki.Mount, pki.TidyStatus) {}
	}
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, fmt.Errorf("making tidier: %w", err)
	}
	t := &Tidier{
		o:       o,
		holder:  o.Identity + "/" + rand.Text()[:8],
		log:     o.Log,
		now:     o.Now,
		metrics: m,
		turn:    make(chan struct{}, 1),
		spoken:  make(map[pki.Mount]string),

		memories: memories{of: make(map[pki.Mount]*memory)},
		samples:  newSampler(),
	}
	t.turn <- struct{}{}
	return t, nil
}

// enter waits for the turn; leave gives it back.
func (t *Tidier) enter(ctx context.Context) (leave func(), err error) {
	select {
	case <-t.turn:
		return func() { t.turn <- struct{}{} }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Unregister takes the metrics away, as an instance must that no longer leads.
// The Tidier is not used afterwards.
func (t *Tidier) Unregister() { t.metrics.unregister() }
