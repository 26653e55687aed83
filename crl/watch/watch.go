// Package watch measures the revocation lists of every issuer of every PKI
// mount of a Vault, and says which of them need attention.
//
// Each list goes the same way: fetch, scan, verify, remember, publish. Nothing
// is remembered before the signature is right, and a list that cannot be read
// leaves the former measurement in place, with its time.
package watch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

// Vault is what is asked of Vault.
type Vault interface {
	// Mounts are the PKI secrets engines.
	Mounts(ctx context.Context) ([]pki.Mount, error)
	// Issuers are the issuers of a mount, with their certificates.
	Issuers(ctx context.Context, m pki.Mount) ([]pki.Issuer, error)
	// CRL opens a list of an issuer, in PEM or DER. Reading it ends in an error
	// where the list was cut short. A missing or empty list is an error wrapping
	// [pki.ErrNoCRL], one that has not changed since the time that was named one
	// wrapping [pki.ErrNotModified].
	CRL(ctx context.Context, m pki.Mount, q pki.CRLRequest) (io.ReadCloser, error)
}

// Options configure a Watch.
type Options struct {
	Vault  Vault
	Limits Limits

	Mounts     []string // patterns as [pki.Select] reads them; default: all
	Fetch      string   // endpoint to fetch from, "json" or "der"; default json
	MaxBytes   int64    // largest list that is read; default crl.DefaultMaxBytes
	Thresholds crl.Thresholds

	Now        func() time.Time      // default time.Now
	Log        *slog.Logger          // default: none
	Registerer prometheus.Registerer // default: none
	Report     func([]crl.Finding)   // takes the whole current set after each Once
}

// Watch measures lists. Its methods may be called concurrently.
type Watch struct {
	o Options

	mu     sync.Mutex
	mounts map[pki.Mount]*mountState
	limit  crl.Limit
	asked  bool  // limit has been asked for
	err    error // of listing the mounts
}

// mountState is what is remembered of a mount.
type mountState struct {
	lists  []*list // in the order of list groups
	err    error   // of listing its issuers
	latest []pki.CRL
	known  bool // latest is a complete measurement
}

// list is what is remembered of one list: that of all issuers of a mount with
// the same name and key.
type list struct {
	key        listKey
	issuer     pki.Issuer // that stands for them
	cannotSign bool
	summary    *crl.Summary // nil before the first
	measuredAt time.Time
	err        error // of the last attempt
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
	if t := o.Thresholds; t.Warn <= 0 || t.Critical < t.Warn || t.Critical > 1 {
		return nil, fmt.Errorf("making CRL watch: want 0 < warn <= critical <= 1, have shares %v and %v", t.Warn, t.Critical)
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
	w := &Watch{o: o, mounts: map[pki.Mount]*mountState{}}
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

// Once measures every list of every wanted mount and reports the findings. It
// returns what kept it from measuring; mounts and lists are independent of each
// other in that. What it could not read keeps its former values.
func (w *Watch) Once(ctx context.Context) error {
	mounts, err := w.o.Vault.Mounts(ctx)
	if err != nil {
		err = fmt.Errorf("listing PKI mounts: %w", err)
	}
	w.mu.Lock()
	w.err = err
	w.mu.Unlock()
	errs := []error{err}
	if err == nil {
		mounts = pki.Select(mounts, w.o.Mounts)
		w.forget(mounts)
		limit := w.o.Limits.Limit(ctx)
		for _, m := range mounts {
			if ctx.Err() != nil {
				break
			}
			_, err := w.measure(ctx, m, limit)
			errs = append(errs, err)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err() // what was cut short says nothing about Vault
	}
	w.o.Report(w.Findings())
	return errors.Join(errs...)
}

// Measure measures the lists of one mount now, whether or not the patterns
// select it. It is an error unless all of them were read and verified.
func (w *Watch) Measure(ctx context.Context, m pki.Mount) ([]pki.CRL, error) {
	return w.measure(ctx, m, w.o.Limits.Limit(ctx))
}

// Latest is the last measurement of the mount in which all lists were read and
// verified, false when there was none.
func (w *Watch) Latest(m pki.Mount) ([]pki.CRL, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	state := w.mounts[m]
	if state == nil || !state.known {
		return nil, false
	}
	return append([]pki.CRL(nil), state.latest...), true
}

// Findings are the verdicts on what is remembered, as of now.
func (w *Watch) Findings() []crl.Finding {
	w.mu.Lock()
	defer w.mu.Unlock()
	var found []crl.Finding
	if w.err != nil {
		found = append(found, crl.Findings(crl.Observation{Subject: "Vault", Err: w.err}, w.o.Thresholds, w.o.Now())...)
	}
	if w.asked {
		if f, ok := crl.LimitFinding(w.limit); ok {
			found = append(found, f)
		}
	}
	for _, m := range w.ordered() {
		state := w.mounts[m]
		if state.err != nil {
			found = append(found, crl.Findings(crl.Observation{Subject: "mount " + m.Name(), Err: state.err}, w.o.Thresholds, w.o.Now())...)
		}
		for _, l := range state.lists {
			found = append(found, crl.Findings(crl.Observation{
				Subject:    subject(m, l.issuer),
				List:       l.summary,
				MeasuredAt: l.measuredAt,
				Err:        l.err,
				CannotSign: l.cannotSign,
				Limit:      w.limit,
			}, w.o.Thresholds, w.o.Now())...)
		}
	}
	return found
}

func subject(m pki.Mount, i pki.Issuer) string {
	return fmt.Sprintf("mount %s, issuer %s", m.Name(), i.Label())
}
