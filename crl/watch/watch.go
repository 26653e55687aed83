// Package watch measures the revocation lists of every issuer of every PKI
// mount of a Vault, and says which of them need attention.
//
// Each list goes the same way: fetch, scan, verify, remember, publish. Nothing
// is remembered before the signature is right, and a list that cannot be read
// leaves the former measurement in place, with its time.
package watch

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

// Vault is what is asked of Vault.
type Vault interface {
	Lists
	Settings
}

// Lists finds and opens revocation lists. Nothing of it needs more than reading
// sys/mounts.
type Lists interface {
	// Namespaces are the namespaces to look into, "" being the root. With an
	// error come those that could be found all the same.
	Namespaces(ctx context.Context) ([]string, error)
	// MountsIn are the PKI secrets engines of a namespace.
	MountsIn(ctx context.Context, namespace string) (pki.Discovery, error)
	// Issuers are the issuers of a mount, with their certificates.
	Issuers(ctx context.Context, m pki.Mount) ([]pki.Issuer, error)
	// CRL opens a list of an issuer, in PEM or DER. Reading it ends in an error
	// where the list was cut short. A missing or empty list is an error wrapping
	// [pki.ErrNoCRL], one that has not changed since the time that was named one
	// wrapping [pki.ErrNotModified].
	CRL(ctx context.Context, m pki.Mount, q pki.CRLRequest) (io.ReadCloser, error)
}

// Settings are what explains a list, where the policy lets it be read.
type Settings interface {
	// ClusterID is the identity of the Vault cluster. It needs no token: an
	// error says that Vault is away.
	ClusterID(ctx context.Context) (string, error)
	CRLConfig(ctx context.Context, m pki.Mount) (pki.CRLConfig, error)
	TidyStatus(ctx context.Context, m pki.Mount) (pki.TidyStatus, error)
	AutoTidy(ctx context.Context, m pki.Mount) (pki.AutoTidy, error)
	// MaySignCRLs tells whether Vault's own usage of the issuer allows it.
	MaySignCRLs(ctx context.Context, m pki.Mount, issuerID string) (bool, error)
}

// Fleet knows how many certificates are live. [Fleets] is one.
type Fleet interface {
	// Fleet is what is known of an issuer's. It makes no request.
	Fleet(m pki.Mount, issuer *x509.Certificate) crl.Fleet
	// Refresh does what is due to know it. It may take some seconds.
	Refresh(ctx context.Context, m pki.Mount) error
	// Forget drops what is known of mounts other than these.
	Forget(present []pki.Mount)
}

// Tidying is how pkiwarden itself tidies what is watched: with it growth stops
// somewhere. The zero value is not at all; then a mount's own auto-tidy counts.
type Tidying struct {
	SafetyBuffer time.Duration
	Every        time.Duration // the longest time from one run to the next
}

// Options configure a Watch.
type Options struct {
	Vault  Vault
	Limits Limits
	State  State // nil: history ends with the process

	Fleet Fleet // nil: how many certificates are live is unknown
	Tidy  Tidying

	Mounts     []string      // patterns as [pki.Select] reads them; default: all
	Interval   time.Duration // about how often each list is looked at; default 1 min
	Fetch      string        // endpoint to fetch from, "json" or "der"; default json
	MaxBytes   int64         // largest list that is read; default crl.DefaultMaxBytes
	Thresholds crl.Thresholds

	// LoggedOut says that Vault does not take our token at the moment, which is
	// somebody else's finding: those that follow from it are held back. nil: all
	// are shown.
	LoggedOut func() bool

	// Spool makes what keeps a list whose signature needs it whole (Ed25519),
	// and what frees it again. nil: such lists are not verified.
	Spool func() (crl.Spool, func())

	Random     func() float64        // draws from [0, 1): jitter; default math/rand/v2
	Now        func() time.Time      // default time.Now
	Log        *slog.Logger          // default: none
	Registerer prometheus.Registerer // default: none
	Report     func([]crl.Finding)   // takes the whole current set after each unit
}

// Watch measures lists. Its methods may be called concurrently, except that
// one unit runs at a time.
type Watch struct {
	o Options

	mu         sync.Mutex
	walk       schedule // of finding namespaces
	walkErr    error
	namespaces map[string]*namespaceState
	mounts     map[pki.Mount]*mountState
	told       told
	sightings  sightings
	limit      crl.Limit
	asked      bool  // limit has been asked for
	away       error // Vault as a whole could not be asked
	counting   bool  // live certificates, now
}

// namespaceState is what is remembered of a namespace.
type namespaceState struct {
	schedule
	name    string
	err     error // of looking for its mounts
	refused []pki.RefusedMount

	looked   bool            // into it, at least once
	shown    int             // PKI mounts
	names    []string        // of some of them
	selected int             // by the patterns
	matched  map[string]bool // patterns for which there is a mount
}

// mountState is what is remembered of a mount that is watched.
type mountState struct {
	schedule
	mount       pki.Mount
	conditional bool    // it lets If-Modified-Since through
	lists       []*list // in the order of group
	listed      bool    // its issuers have been listed
	keyless     bool    // an issuer has no key here: what it revoked is in no list
	err         error   // of listing them
	settings    settings
	buffers     map[time.Duration]time.Time // safety buffers of tidies, and until when each was in force
	autoTidyAt  time.Time                   // when auto-tidy was last known to be on
	refusal     refusal
	kept        kept
	fleet       schedule
	fleetErr    error
}

// list is what is remembered of one list: that of all issuers of a mount with
// the same name and key.
type list struct {
	schedule
	id         listKey
	issuer     pki.Issuer // that stands for them
	issuers    int        // how many they are
	cannotSign bool

	full  reading
	delta reading
	past  past
	usage usage
}

type listKey struct{ subject, publicKey string }

// New makes a Watch and registers its metrics. It makes no request.
func New(o Options) (*Watch, error) {
	if o.Vault == nil || o.Limits == nil {
		return nil, errors.New("making CRL watch: Vault and Limits are needed")
	}
	switch o.Fetch {
	case "":
		o.Fetch = "json"
	case "json", "der":
	default:
		return nil, fmt.Errorf("making CRL watch: fetch %q is neither json nor der", o.Fetch)
	}
	if err := o.Thresholds.Validate(); err != nil {
		return nil, fmt.Errorf("making CRL watch: %w", err)
	}
	if o.Interval < 0 {
		return nil, fmt.Errorf("making CRL watch: interval %s", o.Interval)
	}
	if o.Interval == 0 {
		o.Interval = time.Minute
	}
	if o.Random == nil {
		o.Random = rand.Float64
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Report == nil {
		o.Report = func([]crl.Finding) {}
	}
	w := &Watch{o: o, told: told{}, namespaces: map[string]*namespaceState{}, mounts: map[pki.Mount]*mountState{}, sightings: sightings{all: map[pki.Mount]sighting{}}}
	if o.Registerer != nil {
		if err := o.Registerer.Register(w); err != nil {
			return nil, fmt.Errorf("making CRL watch: %w", err)
		}
	}
	return w, nil
}

// Unregister takes the metrics back: the series of an instance that no longer
// leads.
func (w *Watch) Unregister() {
	if w.o.Registerer != nil {
		w.o.Registerer.Unregister(w)
	}
}

// conclude ends a unit in which Vault was away, or was not.
func (w *Watch) conclude(ctx context.Context, away error) {
	w.mu.Lock()
	w.away = away
	w.mu.Unlock()
	w.save(ctx)
	w.o.Report(w.Findings())
}

// Measure measures the lists of one mount now, all of them whole, whether or
// not the patterns select it. It is an error unless all of them were read and
// verified; an issuer that never had a list is left out.
func (w *Watch) Measure(ctx context.Context, m pki.Mount) ([]pki.CRL, error) {
	w.mu.Lock()
	state := w.mounts[m]
	w.mu.Unlock()
	if state == nil { // not watched, or not found yet: nothing is remembered
		state = newMount(m)
	} else {
		w.load(ctx, m, state) // what is measured is compared with what was
	}
	if err := w.list(ctx, m, state); err != nil {
		return nil, err
	}
	w.mu.Lock()
	lists := slices.Clone(state.lists)
	w.mu.Unlock()
	var errs []error
	for _, l := range lists {
		if l.cannotSign {
			continue
		}
		err := w.measure(ctx, m, l, true)
		if ctx.Err() != nil {
			return nil, err
		}
		w.mu.Lock()
		l.full.err = err
		l.next(w.o.Now(), w.o.Interval, err != nil, w.o.Random())
		if !l.none() {
			errs = append(errs, err)
		}
		w.mu.Unlock()
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	limit := w.o.Limits.Limit(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limit, w.asked = limit, true
	return w.crls(state), nil
}

// Latest are the last measurements of the mount's lists, false unless each was
// measured. Each has its own time.
func (w *Watch) Latest(m pki.Mount) ([]pki.CRL, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	state := w.mounts[m]
	if state == nil || !state.listed {
		return nil, false
	}
	for _, l := range state.lists {
		if l.full.summary == nil && !l.cannotSign && !l.none() {
			return nil, false
		}
	}
	return w.crls(state), true
}

// none tells whether Vault says that there is no list, and always did.
func (l *list) none() bool {
	return l.full.summary == nil && errors.Is(l.full.err, pki.ErrNoCRL)
}

// crls are the lists that were measured, with what their history says. The
// caller holds w.mu.
func (w *Watch) crls(s *mountState) []pki.CRL {
	limit := w.limitOf(s)
	var all []pki.CRL
	for _, l := range s.lists {
		if l.full.summary != nil {
			all = append(all, pki.CRL{
				Mount: s.mount, Issuer: l.issuer, Summary: *l.full.summary, Limit: limit, MeasuredAt: l.full.at,
				Projection: l.past.projection, Growth: w.growth(s, l),
			})
		}
	}
	return all
}
