package crl

import (
	"fmt"
	"math"
	"time"
)

// Fleet is how many certificates are live: not expired and not revoked. They
// are what a redeployment of everything revokes.
type Fleet struct {
	Known        bool
	Certificates int64  // the best estimate
	Low, High    int64  // between which it is, with 19 chances in 20
	Source       string // in words; without Known, why not

	// RemainingLife is the mean time that certificates had left when they were
	// revoked, or where none were seen, that live ones have left; zero where
	// neither is known.
	RemainingLife time.Duration
}

// ConfiguredFleet is a fleet of which the size was given, for one issuer: who
// has one number for several takes it for each of them.
func ConfiguredFleet(n int64) Fleet {
	if n <= 0 {
		return UnknownFleet("no number of certificates is configured")
	}
	return Fleet{Known: true, Certificates: n, Low: n, High: n, Source: "configured (crl.fleetSize)"}
}

// UnknownFleet is one of which the size is not known.
func UnknownFleet(why string) Fleet { return Fleet{Source: why} }

// StoreCounts are Vault's own counts of what a mount stores (tidy-status), nil
// where it does not count.
type StoreCounts struct {
	Stored  *int64 // current_cert_store_count
	Revoked *int64 // current_revoked_cert_count
	Error   string // certificate_counting_error, "" when it is null
}

// largestCount is beyond what Vault's counters hold when they are right: they
// are of 32 bits, and wrap when they are counted below zero.
const largestCount = 1 << 31

// trustworthy says why the counts are not to be used, "" when they are.
func (c StoreCounts) trustworthy() string {
	switch {
	case c.Error != "":
		return "Vault's counts are wrong, as it says itself: " + c.Error
	case c.Stored == nil || c.Revoked == nil:
		return "Vault does not count certificates (maintain_stored_certificate_counts is off)"
	case *c.Stored < 0 || *c.Revoked < 0 || *c.Stored >= largestCount || *c.Revoked >= largestCount:
		return fmt.Sprintf("Vault's counts have wrapped: %d stored, %d revoked", *c.Stored, *c.Revoked)
	case *c.Revoked > *c.Stored:
		return fmt.Sprintf("Vault counts fewer certificates (%d) than revocations (%d), so its counts do not tell how many are live", *c.Stored, *c.Revoked)
	}
	return ""
}

// CountedFleet is the fleet by Vault's own counts, at no cost: what is stored
// and not revoked, at the most, since expired certificates that tidy has not
// removed are counted too. Where sampled is known, a fleet of the same mount
// that was sampled before among stored certificates, its share of live ones is
// applied to what is stored now. Counts that are not to be trusted leave
// sampled as it is.
func CountedFleet(c StoreCounts, sampled Fleet, stored int64) Fleet {
	if why := c.trustworthy(); why != "" {
		if sampled.Known {
			return sampled
		}
		return UnknownFleet(why)
	}
	most := *c.Stored - *c.Revoked
	if !sampled.Known || stored <= 0 {
		return Fleet{Known: true, Certificates: most, High: most,
			Source: fmt.Sprintf("at most: %d stored and %d revoked by Vault's counts; what has expired and is still stored counts as live", *c.Stored, *c.Revoked)}
	}
	scale := func(n int64) int64 {
		return min(most, int64(math.Round(float64(n)*float64(*c.Stored)/float64(stored))))
	}
	return Fleet{
		Known: true, Certificates: scale(sampled.Certificates), Low: scale(sampled.Low), High: scale(sampled.High),
		Source:        fmt.Sprintf("%d stored by Vault's count; %s", *c.Stored, sampled.Source),
		RemainingLife: sampled.RemainingLife,
	}
}

// SampleOutcomes are what became of stored certificates that were drawn at
// random, each serial number at most once.
type SampleOutcomes struct {
	Live    int64 // of this fleet, not expired and not revoked
	Other   int64 // expired, revoked, of another issuer, no longer stored
	Unknown int64 // could not be read

	RemainingLife time.Duration // mean, as in Fleet
}

// SampledFleet is the fleet by a sample of stored certificates: the share of
// live ones in the sample, times what is stored. Low and High are those of the
// 95 % interval of Wilson, narrowed where the sample is a good part of what is
// stored, and widened by those that could not be read, which may all have been
// live, or none. It is unknown where more than half could not be read.
func SampledFleet(stored int64, o SampleOutcomes) Fleet {
	read := o.Live + o.Other
	switch {
	case stored < 0 || o.Live < 0 || o.Other < 0 || o.Unknown < 0 || read+o.Unknown > stored:
		return UnknownFleet(fmt.Sprintf("a sample of %d out of %d certificates is none", read+o.Unknown, stored))
	case stored == 0:
		return Fleet{Known: true, Source: "no certificate is stored"}
	case read == 0 || o.Unknown > read:
		return UnknownFleet(fmt.Sprintf("%d of %d certificates drawn could not be read", o.Unknown, read+o.Unknown))
	}
	n := read + o.Unknown
	low, _ := wilson(o.Live, n, stored)
	_, high := wilson(o.Live+o.Unknown, n, stored)
	count := func(share float64) int64 { return int64(math.Round(share * float64(stored))) }
	return Fleet{
		Known:         true,
		Certificates:  count(float64(o.Live) / float64(read)),
		Low:           max(o.Live, count(low)),
		High:          min(stored-o.Other, count(high)),
		Source:        fmt.Sprintf("%d of %d certificates drawn from %d are live", o.Live, read, stored),
		RemainingLife: o.RemainingLife,
	}
}

// wilson is the 95 % score interval of a share of which hits of n drawn without
// replacement out of all were seen.
func wilson(hits, n, all int64) (low, high float64) {
	const z = 1.959964
	if n == all {
		return float64(hits) / float64(n), float64(hits) / float64(n)
	}
	// Drawing without replacement says as much as drawing more with it.
	size := float64(n) * float64(all-1) / float64(all-n)
	p := float64(hits) / float64(n)
	middle := p + z*z/(2*size)
	spread := z * math.Sqrt(p*(1-p)/size+z*z/(4*size*size))
	scale := 1 + z*z/size
	return math.Max(0, (middle-spread)/scale), math.Min(1, (middle+spread)/scale)
}
