package deliver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// observation is what one listener was last seen to do.
type observation struct {
	served *served // nil while unknown
	err    error   // why it is unknown
	known  bool    // it was known at some time
}

// prove makes the server present want where it does not, and looks at times
// whether it still does. The error says what is wrong now.
func (d *Deliverer) prove(ctx context.Context) error {
	if d.want == nil {
		return nil
	}
	now := d.o.Now()
	mayReload := d.blocked == nil && !now.Before(d.reloadAt)
	if d.pending && mayReload {
		return d.settle(ctx)
	}
	if !d.allServed() || now.Sub(d.verifiedAt) >= verifyInterval {
		d.look(ctx)
	}
	if d.otherServed() && mayReload {
		return d.settle(ctx)
	}
	return errors.Join(d.verdict(), d.retire(now))
}

// settle reloads the server until every listener presents want, at most for the
// timeout. The signal is repeated: Vault opens certificate and key by two paths,
// and when a publish falls between the two it keeps the old pair.
func (d *Deliverer) settle(ctx context.Context) error {
	deadline, cancel := context.WithTimeout(ctx, d.o.Timeout)
	defer cancel()
	for window := time.Second; deadline.Err() == nil; window *= 2 {
		did, err := d.reload(deadline)
		d.reloadError = err
		if err == nil && did != "" {
			d.o.Log.Info("reload asked for", "action", did)
		}
		proved := d.await(ctx, deadline, window)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case proved && err == nil:
			d.pending, d.backoff, d.reloadAt = false, 0, time.Time{}
			return d.verdict()
		case d.unborn():
			// There is no server. The one that starts later reads the files as
			// they are; only one that is half started may have read older ones.
			d.pending = d.pending && !d.born
			return d.verdict()
		}
	}
	d.backoff = min(max(2*d.backoff, firstBackoff), maxBackoff)
	d.reloadAt = d.o.Now().Add(d.backoff)
	return d.verdict()
}

// await looks until every listener presents want, for at most the window. It
// stops early where no listener answers and none ever did.
func (d *Deliverer) await(ctx, deadline context.Context, window time.Duration) bool {
	end := time.NewTimer(window)
	defer end.Stop()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		// The probes have their own, shorter deadline: one cut short by ours
		// would turn what is known into unknown.
		d.look(ctx)
		if d.allServed() && d.reloadError == nil {
			return true
		}
		if d.unborn() {
			return false
		}
		next := time.NewTimer(pause)
		select {
		case <-deadline.Done():
			next.Stop()
			return false
		case <-end.C:
			next.Stop()
			return false
		case <-next.C:
		}
	}
}

// look probes every listener once, all at the same time.
func (d *Deliverer) look(ctx context.Context) {
	now := d.o.Now()
	results := make([]observation, len(d.listeners))
	var probes sync.WaitGroup
	for i, l := range d.listeners {
		probes.Go(func() { results[i].served, results[i].err = l.probe(ctx, d.want.CA, now) })
	}
	probes.Wait()
	if ctx.Err() != nil {
		return
	}
	for i, l := range d.listeners {
		results[i].known = d.seen[i].known || results[i].err == nil
		switch {
		case results[i].err != nil:
			d.gauge.DeleteLabelValues(d.o.Certificate, l.address)
		case d.matches(results[i]):
			d.gauge.WithLabelValues(d.o.Certificate, l.address).Set(1)
		default:
			d.gauge.WithLabelValues(d.o.Certificate, l.address).Set(0)
		}
	}
	d.seen, d.verifiedAt = results, now
}

func (d *Deliverer) matches(o observation) bool {
	return o.served != nil && o.served.fingerprint == d.want.fingerprint
}

// allServed reports whether every listener was seen to present want; it is
// vacuously true where there are none.
func (d *Deliverer) allServed() bool {
	for _, o := range d.seen {
		if !d.matches(o) {
			return false
		}
	}
	return true
}

// otherServed reports whether a listener was seen to present another leaf.
func (d *Deliverer) otherServed() bool {
	for _, o := range d.seen {
		if o.served != nil && !d.matches(o) {
			return true
		}
	}
	return false
}

// unborn reports whether there is no server yet: none was found, or none was to
// be found and this is the first pair; and no listener ever answered.
func (d *Deliverer) unborn() bool {
	for _, o := range d.seen {
		if o.known {
			return false
		}
	}
	return errors.Is(d.reloadError, errNoServer) || d.born && d.reloadError == nil && len(d.seen) > 0
}

// verdict is what is wrong, by what was seen last. A listener that never
// answered belongs to a server that has yet to start.
func (d *Deliverer) verdict() error {
	var wrong []error
	if d.reloadError != nil && !errors.Is(d.reloadError, errNoServer) && (d.pending || d.otherServed()) {
		wrong = append(wrong, fmt.Errorf("reloading the server of certificate %s: %w", d.o.Certificate, d.reloadError))
	}
	for i, o := range d.seen {
		switch address := d.listeners[i].address; {
		case o.served != nil && !d.matches(o):
			wrong = append(wrong, fmt.Errorf("proving certificate %s at %s: %s", d.o.Certificate, address, d.difference(o)))
		case o.err != nil && o.known:
			wrong = append(wrong, fmt.Errorf("proving certificate %s at %s: %w", d.o.Certificate, address, o.err))
		}
	}
	return errors.Join(wrong...)
}

func (d *Deliverer) difference(o observation) string {
	return fmt.Sprintf("it presents leaf %s, valid until %s, and not the stored %s, valid until %s",
		o.served.fingerprint, instant(o.served.leaf.NotAfter), d.want.fingerprint, instant(d.want.leaf.NotAfter))
}

// waitingFor says which listeners have not answered yet.
func (d *Deliverer) waitingFor() string {
	for i, o := range d.seen {
		if o.err != nil {
			return fmt.Sprintf("%s: %v", d.listeners[i].address, o.err)
		}
	}
	return ""
}

// retire removes the generation before the one that was proved.
func (d *Deliverer) retire(now time.Time) error {
	if !d.unretired || d.pending || d.blocked != nil || !d.allServed() || now.Sub(d.publishedAt) < retireAfter {
		return nil
	}
	if err := d.files.retire(); err != nil {
		return err
	}
	d.unretired = false
	return nil
}
