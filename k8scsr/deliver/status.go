package deliver

import (
	"encoding/hex"
	"sync"
	"time"
)

// Status is what the last pass of a [Deliverer] left. Times that are not known
// are zero.
type Status struct {
	Certificate string
	LookedAt    time.Time // the end of the last pass; zero before the first
	Delivered   bool      // a whole pair is in place
	Err         error     // why the stored certificate did not reach this pod in the last pass; nil: it did
	NotAfter    time.Time // of the leaf in place
	Fingerprint string    // of the leaf in place: SHA-256 of its DER, in hex; "" where it is not known
	Addresses   []Served  // in the order of Options.Verify
}

// Served is what a listener was last seen to do.
type Served struct {
	Address    string
	Served     bool      // it presents the stored leaf
	Known      bool      // false: Served is not known
	Err        string    // why it is not known, or what it presents instead; "" otherwise
	VerifiedAt time.Time // zero: never yet
}

// shown is the status for those who must not wait for a pass.
type shown struct {
	mu     sync.Mutex
	status Status
}

// Status is what the last pass left. It waits for no pass and asks nobody.
func (d *Deliverer) Status() Status {
	d.shown.mu.Lock()
	defer d.shown.mu.Unlock()
	s := d.shown.status
	s.Certificate = d.o.Certificate
	s.Delivered = d.Delivered()
	return s
}

// show keeps what a pass left. The caller holds d.mu.
func (d *Deliverer) show(deliverError error) {
	s := Status{LookedAt: d.o.Now(), Err: deliverError}
	for i, o := range d.seen {
		a := Served{Address: d.listeners[i].address, VerifiedAt: d.verifiedAt, Known: d.want != nil && o.served != nil}
		switch {
		case a.Known && d.matches(o):
			a.Served = true
		case a.Known:
			a.Err = d.difference(o)
		case o.err != nil:
			a.Err = cut(o.err.Error())
		}
		s.Addresses = append(s.Addresses, a)
	}
	d.shown.mu.Lock()
	defer d.shown.mu.Unlock()
	s.NotAfter, s.Fingerprint = d.shown.status.NotAfter, d.shown.status.Fingerprint
	if d.want != nil && d.blocked == nil { // else what was there before still is
		s.NotAfter, s.Fingerprint = d.want.leaf.NotAfter, hex.EncodeToString(d.want.fingerprint[:])
	}
	d.shown.status = s
}
