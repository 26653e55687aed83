package deliver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// The rhythm of a Deliverer.
const (
	defaultTimeout  = 30 * time.Second
	defaultInterval = 15 * time.Second
	birthInterval   = 2 * time.Second  // until the first pair exists
	verifyInterval  = time.Minute      // in steady state, so that drift is seen
	retireAfter     = 10 * time.Second // for a reader that resolved ..data before the rename

	firstBackoff = time.Minute // between reloads that were not proved
	maxBackoff   = 15 * time.Minute
)

// Options describe the delivery of one certificate.
type Options struct {
	Certificate string // its name in logs, findings and metrics
	Source      Source
	Files       Files     // zero: nothing is written, the server reads a mounted Secret
	Reload      Reload    // zero: the server watches its files
	Verify      []Address // none: "served" stays unknown
	// Timeout bounds the wait for the proof of one reload; 0 stands for 30 s.
	Timeout time.Duration
	// Interval is the time between two looks at the source once a pair was
	// delivered, give or take a fifth; 0 stands for 15 s.
	Interval time.Duration

	Log        *slog.Logger          // default: slog.Default()
	Registerer prometheus.Registerer // default: none
	Now        func() time.Time      // default: time.Now
	// Report is given the whole current set of findings after each pass.
	Report func([]k8scsr.Finding)
}

// Deliverer delivers one certificate to this pod's server.
type Deliverer struct {
	o         Options
	files     *publisher // nil where nothing is written
	reload    reloader
	listeners []listener
	gauge     *prometheus.GaugeVec
	delivered atomic.Bool

	mu sync.Mutex // one pass at a time; it guards what follows

	want    *stored // what the server ought to present, nil until known
	blocked error   // why want is not in the files
	born    bool    // want is the first pair there ever was: no server can have older files open

	pending     bool  // the server has yet to load want
	reloadError error // of the last attempt
	backoff     time.Duration
	reloadAt    time.Time // no reload before it

	seen       []observation // one per listener
	verifiedAt time.Time

	publishedAt time.Time
	unretired   bool // a previous generation may be kept

	state string // the last one that was logged

	shown shown
}

// New checks the options. It starts nothing and touches nothing.
func New(o Options) (*Deliverer, error) {
	d, err := newDeliverer(o)
	if err != nil {
		return nil, fmt.Errorf("delivering certificate %s: %w", o.Certificate, err)
	}
	return d, nil
}

func newDeliverer(o Options) (*Deliverer, error) {
	if o.Certificate == "" || o.Source == nil {
		return nil, errors.New("want a certificate's name and a source")
	}
	if o.Timeout < 0 || o.Interval < 0 {
		return nil, fmt.Errorf("want timeout and interval >= 0, have %s and %s", o.Timeout, o.Interval)
	}
	if o.Files.Directory == "" && (o.Files.Mode != 0 || o.Files.Owner != nil) {
		return nil, errors.New("files have a mode or an owner but no directory")
	}
	if o.Files.Mode&^0o777 != 0 || o.Files.Mode != 0 && o.Files.Mode&0o400 == 0 {
		return nil, fmt.Errorf("files' mode is %#o: want permission bits that let the owner read, for example 0600", uint32(o.Files.Mode))
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.Interval == 0 {
		o.Interval = defaultInterval
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	o.Log = o.Log.With("certificate", o.Certificate)
	if o.Now == nil {
		o.Now = time.Now
	}
	d := &Deliverer{o: o}
	if o.Files.Directory != "" {
		d.files = &publisher{Files: o.Files, now: o.Now}
	}
	addresses := make([]listen, 0, len(o.Verify))
	for _, a := range o.Verify {
		l, err := newListener(a)
		if err != nil {
			return nil, err
		}
		d.listeners = append(d.listeners, l)
		addresses = append(addresses, l.listen)
	}
	d.seen = make([]observation, len(d.listeners))
	var err error
	if d.reload, err = newReloader(o.Reload, addresses); err != nil {
		return nil, err
	}
	if d.gauge, err = servedGauge(o.Registerer); err != nil {
		return nil, err
	}
	return d, nil
}

// servedGauge registers the metric, or finds the one that another Deliverer of
// this process registered.
func servedGauge(r prometheus.Registerer) (*prometheus.GaugeVec, error) {
	gauge := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "pkiwarden_certificate_served",
		Help: "Whether the listener presents the stored leaf: 1 or 0; absent while unknown.",
	}, []string{"certificate", "address"})
	if r == nil {
		return gauge, nil
	}
	err := r.Register(gauge)
	if already, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		if existing, ok := already.ExistingCollector.(*prometheus.GaugeVec); ok {
			return existing, nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("registering metric certificate_served: %w", err)
	}
	return gauge, nil
}

// Delivered reports whether a whole pair is in place: the files are on disk, or
// the mounted Secret holds it. A sidecar's startup probe waits for it. It never
// turns false again.
func (d *Deliverer) Delivered() bool { return d.delivered.Load() }

// Run delivers until ctx ends; it then returns nil. Each cause of failure is
// logged once. To run it under a loop that logs and counts failures itself, use
// [Deliverer.OnceUntil].
func (d *Deliverer) Run(ctx context.Context) error {
	told := ""
	for {
		next, err := d.OnceUntil(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			told = ""
		} else if text := err.Error(); text != told {
			d.o.Log.Warn("delivery is failing", "error", err)
			told = text
		}
		timer := time.NewTimer(next.Sub(d.o.Now()))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// OnceUntil is [Deliverer.Once] as a unit of a loop: it says when it is due
// next, and that there is no certificate yet is no failure.
func (d *Deliverer) OnceUntil(ctx context.Context) (next time.Time, err error) {
	err = d.Once(ctx)
	if errors.Is(err, ErrNotYet) {
		err = nil
	}
	pause := d.o.Interval*4/5 + rand.N(d.o.Interval*2/5)
	if err == nil && !d.Delivered() {
		pause = birthInterval
	}
	return d.o.Now().Add(pause), err
}

// Once does one pass: read the source, publish what changed, make the server
// load it and wait for the proof, at most Timeout; or, when nothing changed,
// see at times that the server still presents the stored leaf, and reload it
// where it does not.
//
// It returns an error wrapping [ErrNotYet] where the source has no pair, and
// nil while the server has yet to start. With any error, what was delivered
// before stays in place. It logs changes of state but not the error it returns.
func (d *Deliverer) Once(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	deliverError := d.deliver(ctx)
	proveError := d.prove(ctx)
	if err := ctx.Err(); err != nil {
		return err // cut short: what was seen says nothing
	}
	d.announce(deliverError, proveError)
	d.show(deliverError)
	if d.o.Report != nil {
		d.o.Report(d.findings(deliverError))
	}
	if errors.Is(deliverError, ErrNotYet) && proveError != nil {
		return proveError // the graver of the two
	}
	return errors.Join(deliverError, proveError)
}

// deliver brings the stored pair into place.
func (d *Deliverer) deliver(ctx context.Context) error {
	if err := d.recall(); err != nil {
		return err
	}
	pair, err := d.o.Source.Pair(ctx)
	if err != nil {
		return fmt.Errorf("reading certificate %s: %w", d.o.Certificate, err)
	}
	next, err := check(pair)
	if err != nil {
		return fmt.Errorf("checking certificate %s: %w", d.o.Certificate, err)
	}
	now := d.o.Now()
	if d.files != nil && d.want != nil && d.want.valid(now) && !next.valid(now) {
		return fmt.Errorf("checking certificate %s: the stored leaf is valid from %s to %s, not now, and does not replace the delivered one, which is",
			d.o.Certificate, instant(next.leaf.NotBefore), instant(next.leaf.NotAfter))
	}
	born := !d.Delivered()
	changed := d.want != nil && d.want.digest != next.digest
	if d.files != nil {
		if changed, err = d.files.sync(pair); changed {
			d.publishedAt, d.unretired = now, true
			d.o.Log.Info("certificate written", "directory", d.o.Files.Directory, "fingerprint", next.fingerprint.String(), "notAfter", instant(next.leaf.NotAfter))
		}
		d.blocked = err
		if err == nil {
			d.delivered.Store(true)
		}
	} else {
		d.delivered.Store(true)
	}
	if changed {
		d.born = born
		d.pending, d.backoff, d.reloadAt = true, 0, time.Time{}
	}
	if d.want == nil || d.want.digest != next.digest {
		d.want, d.verifiedAt = next, time.Time{}
	}
	return err
}

// recall takes up, in the first pass, what an earlier process delivered, so
// that it is watched over even while the source cannot be read.
func (d *Deliverer) recall() error {
	if d.files == nil || d.want != nil {
		return nil
	}
	pair, unproved, err := d.files.load()
	if err != nil {
		return err
	}
	if pair != nil {
		// A previous generation is kept until the proof: the reload is still due.
		d.want, d.pending, d.unretired = pair, unproved, unproved
		d.delivered.Store(true)
	}
	return nil
}

// announce logs a change of state. Failures are left to whoever runs Once.
func (d *Deliverer) announce(deliverError, proveError error) {
	state, detail := "", ""
	switch {
	case proveError != nil:
		state = "failing"
	case errors.Is(deliverError, ErrNotYet) && d.want == nil:
		state, detail = "waiting for the certificate", deliverError.Error()
	case errors.Is(deliverError, ErrNotYet):
		state, detail = "source has no certificate any more, the delivered one stays", deliverError.Error()
	case deliverError != nil:
		state = "failing"
	case len(d.listeners) == 0:
		state, detail = "certificate in place, not proved", "no address to verify"
	case d.allServed():
		state, detail = "certificate served", d.want.fingerprint.String()
	default:
		state, detail = "waiting for the server", d.waitingFor()
	}
	if state+detail == d.state {
		return
	}
	d.state = state + detail
	if state != "failing" {
		d.o.Log.Info(state, "detail", detail)
	}
}

func instant(t time.Time) string { return t.UTC().Format(time.RFC3339) }
