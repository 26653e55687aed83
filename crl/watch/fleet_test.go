package watch

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

// certStore is a mount's certificates, by serial number.
type certStore struct {
	certs   map[string]stored
	order   []string
	lists   int
	reads   int
	listErr error
	readErr func(serial string) error

	counts    pki.TidyStatus
	countErr  error
	countings int
}

type stored struct {
	cert      *x509.Certificate
	revokedAt time.Time
}

func (c *certStore) put(cert x509.Certificate, revokedAt time.Time) {
	if c.certs == nil {
		c.certs = map[string]stored{}
	}
	serial := fmt.Sprintf("%02x", len(c.order))
	c.order = append(c.order, serial)
	c.certs[serial] = stored{&cert, revokedAt}
}

func (c *certStore) Certificates(_ context.Context, _ pki.Mount, each func(string) error) error {
	c.lists++
	for _, serial := range c.order {
		if err := each(serial); err != nil {
			return err
		}
	}
	return c.listErr
}

func (c *certStore) Certificate(_ context.Context, _ pki.Mount, serial string) (*x509.Certificate, time.Time, error) {
	c.reads++
	if c.readErr != nil {
		if err := c.readErr(serial); err != nil {
			return nil, time.Time{}, err
		}
	}
	s := c.certs[serial]
	return s.cert, s.revokedAt, nil
}

func (c *certStore) TidyStatus(context.Context, pki.Mount) (pki.TidyStatus, error) {
	c.countings++
	return c.counts, c.countErr
}

var (
	east = &x509.Certificate{RawSubject: []byte("east"), SubjectKeyId: []byte("k1")}
	west = &x509.Certificate{RawSubject: []byte("west"), SubjectKeyId: []byte("k2")}
)

func leaf(issuer *x509.Certificate, notAfter time.Time) x509.Certificate {
	return x509.Certificate{RawIssuer: issuer.RawSubject, AuthorityKeyId: issuer.SubjectKeyId, NotAfter: notAfter}
}

func fleets(t *testing.T, o FleetOptions) *Fleets {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	o.Random = r.Float64
	f, err := NewFleets(o)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

var pkiMount = pki.Mount{Path: "pki", UUID: "u"}

func TestFleetIsSampledByIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		c := &certStore{}
		for range 60 {
			c.put(leaf(east, now.Add(10*time.Hour)), time.Time{}) // live
		}
		for range 30 {
			c.put(leaf(west, now.Add(time.Hour)), time.Time{}) // live, of the other issuer
		}
		for range 50 {
			c.put(leaf(east, now.Add(-time.Hour)), time.Time{}) // expired
		}
		for range 40 {
			c.put(leaf(east, now.Add(20*time.Hour)), now.Add(-4*time.Hour)) // revoked with a day left
		}
		ca := leaf(east, now.Add(1e6*time.Second))
		ca.IsCA = true
		c.put(ca, time.Time{})
		other := leaf(east, now.Add(time.Hour))
		other.AuthorityKeyId = []byte("k9") // the same name, another key
		c.put(other, time.Time{})

		f := fleets(t, FleetOptions{Certs: c})
		if got := f.Fleet(pkiMount, east); got.Known || !strings.Contains(got.Source, "not been counted yet") {
			t.Errorf("before: %+v", got)
		}
		if err := f.Refresh(t.Context(), pkiMount); err != nil {
			t.Fatal(err)
		}
		// All 182 are in the sample: the numbers are exact.
		want := crl.Fleet{Known: true, Certificates: 60, Low: 60, High: 60, RemainingLife: 24 * time.Hour,
			Source: "60 of 182 certificates drawn from 182 are live"}
		if got := f.Fleet(pkiMount, east); got != want {
			t.Errorf("east: %+v, want %+v", got, want)
		}
		if got := f.Fleet(pkiMount, west); got.Certificates != 30 || got.RemainingLife > time.Hour || got.RemainingLife < 59*time.Minute {
			t.Errorf("west: %+v, want 30 with an hour left", got)
		}
		if f.Forget(nil); f.Fleet(pkiMount, east).Known {
			t.Error("known after it was forgotten")
		}
	})
}

func TestFleetOfMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		c := &certStore{}
		for i := range 20_000 { // the oldest first: a third of them is live
			at := now.Add(-time.Hour)
			if i%3 == 0 {
				at = now.Add(time.Hour)
			}
			c.put(leaf(east, at), time.Time{})
		}
		f := fleets(t, FleetOptions{Certs: c})
		if err := f.Refresh(t.Context(), pkiMount); err != nil {
			t.Fatal(err)
		}
		got := f.Fleet(pkiMount, east)
		if c.reads != sampleSize || !got.Known || got.Low > 6667 || got.High < 6667 || got.High-got.Low > 2000 {
			t.Errorf("%d read, %+v, want 6667 within", c.reads, got)
		}
	})
}

// Every certificate is as likely to be drawn as any other.
func TestReservoirIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &certStore{}
		for range 4 * sampleSize {
			c.put(leaf(east, time.Now()), time.Time{})
		}
		drawn := map[string]int{}
		c.readErr = func(serial string) error { drawn[serial]++; return nil }
		f := fleets(t, FleetOptions{Certs: c})
		const rounds = 60
		for range rounds {
			if _, err := f.sample(t.Context(), pkiMount); err != nil {
				t.Fatal(err)
			}
		}
		for quarter := range 4 {
			n := 0
			for _, serial := range c.order[quarter*sampleSize : (quarter+1)*sampleSize] {
				n += drawn[serial]
			}
			// 6000 are expected, with a standard deviation of about 67.
			if n < 5700 || n > 6300 {
				t.Errorf("quarter %d was drawn %d times, want about %d", quarter, n, rounds*sampleSize/4)
			}
		}
	})
}

func TestFleetSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &certStore{}
		c.put(leaf(east, time.Now().Add(100*time.Hour)), time.Time{})
		f := fleets(t, FleetOptions{Certs: c, Counts: c})
		for range 24 * 60 { // a day of looking every minute
			if err := f.Refresh(t.Context(), pkiMount); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute - samplePause)
		}
		if c.lists != 4 || c.countings < 120 || c.countings > 150 {
			t.Errorf("%d lists and %d counts in a day, want 4 and about 144", c.lists, c.countings)
		}

		// What is known stays while it cannot be known anew, which is tried hourly.
		c.listErr = &pki.PermissionError{Path: "pki/certs", Capability: "list"}
		lists, failed := c.lists, 0
		for range 12 * 60 {
			if err := f.Refresh(t.Context(), pkiMount); err != nil {
				failed++
				if !strings.Contains(err.Error(), `needs capability "list" on path "pki/certs"`) {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Minute)
		}
		if n := c.lists - lists; n != failed || n < 10 || n > 13 {
			t.Errorf("%d lists, %d errors in twelve hours", n, failed)
		}
		if got := f.Fleet(pkiMount, east); !got.Known || got.Certificates != 1 {
			t.Errorf("afterwards: %+v", got)
		}
	})
}

func TestFleetSources(t *testing.T) {
	n := func(n int64) *int64 { return &n }
	count := func(stored, revoked int64, err string) pki.TidyStatus {
		return pki.TidyStatus{CertStoreCount: n(stored), RevokedCount: n(revoked), CountingError: err}
	}
	denied := &pki.PermissionError{Path: "pki/certs", Capability: "list"}
	for _, tc := range []struct {
		name       string
		configured int64
		store      certStore // with 10 live certificates
		fleet      int64     // -1: unknown
		source     string
		lists      int
	}{
		{"configured", 5000, certStore{}, 5000, "crl.fleetSize", 0},
		{"sampled", 0, certStore{}, 10, "10 of 10", 1},
		{"sampled, and Vault counts 20 by now", 0, certStore{counts: count(20, 0, "")}, 20, "20 stored by Vault's count; 10 of 10", 1},
		{"sampled, and Vault counts wrong", 0, certStore{counts: count(20, 0, "re-initialize")}, 10, "10 of 10", 1},
		{"so many that they are not listed", 0, certStore{counts: count(2_000_000, 500_000, "")}, 1_500_000, "at most: 2000000 stored", 0},
		{"not to be listed, but counted", 0, certStore{counts: count(700, 100, ""), listErr: denied}, 600, "at most: 700 stored", 1},
		{"neither", 0, certStore{counts: count(700, 100, "re-initialize"), listErr: denied}, -1, `needs capability "list" on path "pki/certs"`, 1},
		{"not to be read", 0, certStore{readErr: func(string) error { return errors.New("no storage") }}, -1, "10 of 10 could not be read, the last of them: no storage", 1},
		{"some not to be read", 0, certStore{readErr: func(serial string) error {
			if serial == "03" {
				return errors.New("no storage")
			}
			return nil
		}}, 10, "9 of 9", 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := tc.store
			for range 10 {
				c.put(leaf(east, time.Now().Add(time.Hour)), time.Time{})
			}
			f := fleets(t, FleetOptions{Configured: tc.configured, Certs: &c, Counts: &c})
			err := f.Refresh(t.Context(), pkiMount)
			got := f.Fleet(pkiMount, east)
			if got.Known != (tc.fleet >= 0) || got.Known && got.Certificates != tc.fleet || !strings.Contains(got.Source, tc.source) || c.lists != tc.lists {
				t.Errorf("%s: %+v after %d lists (%v), want %d, %q after %d", tc.name, got, c.lists, err, tc.fleet, tc.source, tc.lists)
			}
		})
	}
	if _, err := NewFleets(FleetOptions{Configured: -1}); err == nil {
		t.Error("a fleet of less than none is no error")
	}
}

func TestFleetEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &certStore{}
		for range 300 {
			c.put(leaf(east, time.Now().Add(time.Hour)), time.Time{})
		}
		f := fleets(t, FleetOptions{Certs: c})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := f.Refresh(ctx, pkiMount); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want the deadline", err)
		}
		if f.Fleet(pkiMount, east).Known || c.reads > 101 {
			t.Errorf("%d read, and known", c.reads)
		}
		if err := f.Refresh(t.Context(), pkiMount); err != nil || !f.Fleet(pkiMount, east).Known {
			t.Errorf("the next time: %v", err)
		}
	})
}

// The mean life that revoked certificates had left is that at revocation, not
// that of what happens to be still stored.
func TestRemainingLifeIsNotBiased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		c := &certStore{}
		// One of each kind is revoked each hour: with a day left, and with ten
		// days; they stay until three days after they expire. So there are 96
		// and 312 of them.
		for hour := range 96 {
			at := now.Add(-time.Duration(hour) * time.Hour)
			c.put(leaf(east, at.Add(24*time.Hour)), at)
		}
		for hour := range 312 {
			at := now.Add(-time.Duration(hour) * time.Hour)
			c.put(leaf(east, at.Add(240*time.Hour)), at)
		}
		f := fleets(t, FleetOptions{Certs: c})
		if err := f.Refresh(t.Context(), pkiMount); err != nil {
			t.Fatal(err)
		}
		got := f.Fleet(pkiMount, east).RemainingLife.Hours()
		if got < 125 || got > 139 { // 132 = (24 + 240) / 2; the mean of what is stored is 189
			t.Errorf("%.0f h, want 132", got)
		}
	})
}
