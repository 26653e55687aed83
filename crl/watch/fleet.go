package watch

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

const (
	// sampleEvery is how often the certificates of a mount are listed at most:
	// that costs Vault in proportion to their number.
	sampleEvery = 6 * time.Hour
	// sampleAgain is when it is tried again after an error.
	sampleAgain = time.Hour
	// countEvery is how often Vault's own counts are read.
	countEvery = 10 * time.Minute
	// sampleSize is how many certificates are read of those listed: enough to
	// know the share of live ones within 5 points, whatever their number.
	sampleSize = 400
	// samplePause is between two of them. Reading one costs Vault about half a
	// millisecond, so this is a twentieth of one CPU.
	samplePause = 10 * time.Millisecond
	// manyCertificates are not listed where Vault's own counts say how many they
	// are: those are then taken for the fleet.
	manyCertificates = 200_000
)

// CertLister reads the certificates that a mount stores.
type CertLister interface {
	// Certificates calls each with the serial number of every one, in any order,
	// and ends with its error. An answer that is cut short is an error.
	Certificates(ctx context.Context, m pki.Mount, each func(serial string) error) error
	// Certificate reads one, with when it was revoked: zero if it was not. It is
	// nil without an error where it is no longer there.
	Certificate(ctx context.Context, m pki.Mount, serial string) (*x509.Certificate, time.Time, error)
}

// CountReader reads Vault's own counts.
type CountReader interface {
	TidyStatus(ctx context.Context, m pki.Mount) (pki.TidyStatus, error)
}

// FleetOptions say where the number of live certificates comes from:
// Configured, else Vault.
type FleetOptions struct {
	// Configured is crl.fleetSize; 0: auto. It is taken for each issuer of each
	// mount alike, as if all live certificates were that issuer's: right for one
	// issuer, and for several an upper bound, with which headroom errs on the
	// safe side. Where they differ, auto tells them apart.
	Configured int64

	Certs  CertLister  // nil: nothing is listed
	Counts CountReader // nil: Vault's own counts are not read

	// SafetyBuffer is for how long tidy keeps what has expired. Default 72 h.
	SafetyBuffer time.Duration

	Random func() float64   // draws from [0, 1); default math/rand/v2
	Now    func() time.Time // default time.Now
	Log    *slog.Logger     // default: none
}

// Fleets knows how many certificates are live. Its methods may be called
// concurrently; one mount is sampled at a time.
type Fleets struct {
	o        FleetOptions
	sampling sync.Mutex

	mu     sync.Mutex
	mounts map[pki.Mount]*fleetState
}

// fleetState is what is known of a mount's certificates.
type fleetState struct {
	counts     crl.StoreCounts
	countAt    time.Time // when they are due again
	sample     *fleetSample
	sampleAt   time.Time // when it is due again
	whyUnknown string
}

// fleetSample is what was drawn of a mount. It is not changed.
type fleetSample struct {
	stored  int64
	read    int64
	unknown int64
	issuers []*issuerSample
}

// issuerSample is what was drawn of the certificates of one name and key.
type issuerSample struct {
	issuer, keyID []byte // authority key identifier; nil: none
	live          int64
	left          time.Duration // sum over the live ones

	// Over the revoked ones, weighted: what they had left, and the weights.
	lifeSum, lifeWeight float64
}

// NewFleets checks the options. It makes no request.
func NewFleets(o FleetOptions) (*Fleets, error) {
	if o.Configured < 0 || o.SafetyBuffer < 0 {
		return nil, fmt.Errorf("making fleets: %d certificates, safety buffer %s", o.Configured, o.SafetyBuffer)
	}
	if o.SafetyBuffer == 0 {
		o.SafetyBuffer = 72 * time.Hour
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
	return &Fleets{o: o, mounts: map[pki.Mount]*fleetState{}}, nil
}

// Fleet is what is known of the live certificates of an issuer: those whose
// revocation makes its list longer. It makes no request, and never fails: what
// is not known says so. The configured number, and Vault's own counts, are of
// all issuers together.
func (f *Fleets) Fleet(m pki.Mount, issuer *x509.Certificate) crl.Fleet {
	if f.o.Configured > 0 {
		return crl.ConfiguredFleet(f.o.Configured)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.mounts[m]
	if s == nil {
		return crl.UnknownFleet("the certificates of the mount have not been counted yet")
	}
	sampled := crl.UnknownFleet(s.whyUnknown)
	if s.sample == nil {
		counted := crl.CountedFleet(s.counts, sampled, 0)
		if !counted.Known && s.whyUnknown != "" {
			return sampled // why the sample is missing says more
		}
		return counted
	}
	return crl.CountedFleet(s.counts, s.sample.fleet(issuer), s.sample.stored)
}

// Refresh does what is due for a mount: it reads Vault's counts every ten
// minutes and, every six hours, lists the certificates once and reads 400 of
// them, which takes some seconds. An error is what kept it from that; what was
// known before stays, and it is tried again an hour later.
func (f *Fleets) Refresh(ctx context.Context, m pki.Mount) error {
	if f.o.Configured > 0 {
		return nil
	}
	f.mu.Lock()
	s := f.mounts[m]
	if s == nil {
		s = &fleetState{}
		f.mounts[m] = s
	}
	now := f.o.Now()
	count, sample := !now.Before(s.countAt), !now.Before(s.sampleAt)
	f.mu.Unlock()

	var errs []error
	if count && f.o.Counts != nil {
		errs = append(errs, f.count(ctx, m, s))
	}
	if sample && f.o.Certs != nil {
		errs = append(errs, f.draw(ctx, m, s))
	}
	return errors.Join(errs...)
}

// Forget drops what is known of mounts that are gone.
func (f *Fleets) Forget(present []pki.Mount) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for m := range f.mounts {
		if !slices.Contains(present, m) {
			delete(f.mounts, m)
		}
	}
}

// count reads Vault's own counts.
func (f *Fleets) count(ctx context.Context, m pki.Mount, s *fleetState) error {
	status, err := f.o.Counts.TidyStatus(ctx, m)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s.countAt = f.o.Now().Add(countEvery)
	if err != nil {
		s.counts = crl.StoreCounts{}
		return fmt.Errorf("reading certificate counts of mount %s: %w", m.Name(), err)
	}
	s.counts = crl.StoreCounts{Stored: status.CertStoreCount, Revoked: status.RevokedCount, Error: status.CountingError}
	return nil
}

// draw samples a mount, unless its own counts say that it is too large.
func (f *Fleets) draw(ctx context.Context, m pki.Mount, s *fleetState) error {
	f.sampling.Lock()
	defer f.sampling.Unlock()
	f.mu.Lock()
	counted := crl.CountedFleet(s.counts, crl.Fleet{}, 0)
	done := f.o.Now().Before(s.sampleAt) // by somebody else, meanwhile
	f.mu.Unlock()
	if done {
		return nil
	}
	var sample *fleetSample
	var err error
	large := counted.Known && counted.Certificates > manyCertificates
	if !large {
		sample, err = f.sample(ctx, m)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		s.sampleAt, s.whyUnknown = f.o.Now().Add(sampleAgain), err.Error()
		return err
	}
	s.sample, s.sampleAt, s.whyUnknown = sample, f.o.Now().Add(sampleEvery), ""
	if sample != nil {
		f.o.Log.Info("certificates sampled", "mount", m.Name(), "stored", sample.stored, "read", sample.read, "unreadable", sample.unknown)
	}
	return nil
}

// sample lists the certificates of a mount, holding no more than a sample of
// their serial numbers, and reads those.
func (f *Fleets) sample(ctx context.Context, m pki.Mount) (*fleetSample, error) {
	sample := &fleetSample{}
	drawn := make([]string, 0, sampleSize)
	err := f.o.Certs.Certificates(ctx, m, func(serial string) error {
		// Each that comes takes a place with the probability that keeps all equal
		// (reservoir sampling, algorithm R).
		sample.stored++
		if len(drawn) < sampleSize {
			drawn = append(drawn, serial)
		} else if at := int64(f.o.Random() * float64(sample.stored)); at < sampleSize {
			drawn[at] = serial
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("sampling certificates: %w", err)
	}
	var last error
	for _, serial := range drawn {
		cert, revokedAt, err := f.o.Certs.Certificate(ctx, m, serial)
		if err != nil {
			sample.unknown++
			last = err
		} else {
			sample.read++
			sample.add(cert, revokedAt, f.o.Now(), f.o.SafetyBuffer)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(samplePause):
		}
	}
	if sample.read < sample.unknown {
		return nil, fmt.Errorf("sampling certificates of mount %s: %d of %d could not be read, the last of them: %w", m.Name(), sample.unknown, len(drawn), last)
	}
	return sample, nil
}

// add takes one certificate that was drawn, nil where it has been removed since.
func (s *fleetSample) add(cert *x509.Certificate, revokedAt, now time.Time, buffer time.Duration) {
	if cert == nil || cert.IsCA {
		return
	}
	i := slices.IndexFunc(s.issuers, func(i *issuerSample) bool {
		return bytes.Equal(i.issuer, cert.RawIssuer) && bytes.Equal(i.keyID, cert.AuthorityKeyId)
	})
	if i < 0 {
		i = len(s.issuers)
		s.issuers = append(s.issuers, &issuerSample{issuer: cert.RawIssuer, keyID: cert.AuthorityKeyId})
	}
	of := s.issuers[i]
	switch {
	case !revokedAt.IsZero():
		// What stays longer is met more often: by the time until tidy may remove
		// it. Weights in inverse proportion undo that.
		left := max(0, cert.NotAfter.Sub(revokedAt))
		weight := 1 / (left + buffer).Hours()
		of.lifeSum += weight * left.Hours()
		of.lifeWeight += weight
	case cert.NotAfter.After(now):
		of.live++
		of.left += cert.NotAfter.Sub(now)
	}
}

// fleet is the part of the sample that was issued by issuer.
func (s *fleetSample) fleet(issuer *x509.Certificate) crl.Fleet {
	var live int64
	var left time.Duration
	var lifeSum, lifeWeight float64
	for _, i := range s.issuers {
		if !bytes.Equal(i.issuer, issuer.RawSubject) || len(i.keyID) > 0 && len(issuer.SubjectKeyId) > 0 && !bytes.Equal(i.keyID, issuer.SubjectKeyId) {
			continue
		}
		live, left = live+i.live, left+i.left
		lifeSum, lifeWeight = lifeSum+i.lifeSum, lifeWeight+i.lifeWeight
	}
	o := crl.SampleOutcomes{Live: live, Other: s.read - live, Unknown: s.unknown}
	switch {
	case lifeWeight > 0:
		o.RemainingLife = time.Duration(lifeSum / lifeWeight * float64(time.Hour)).Round(time.Second)
	case live > 0:
		o.RemainingLife = left / time.Duration(live)
	}
	return crl.SampledFleet(s.stored, o)
}
