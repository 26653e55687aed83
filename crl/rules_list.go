package crl

import (
	"errors"
	"fmt"
	"time"
)

// staleShare is the part of a list's validity that is left when Vault should
// have replaced it: by default it rebuilds with 12 of 72 hours left.
const staleShare = 10

func stale(o Observation, _ Thresholds, now time.Time) (Finding, bool) {
	if o.List == nil || o.List.NextUpdate.IsZero() {
		return Finding{}, false
	}
	if o.Delta {
		return staleDelta(o, now)
	}
	f := Finding{
		Evidence: fmt.Sprintf("thisUpdate %s, nextUpdate %s, read %s",
			o.List.ThisUpdate.Format(time.RFC3339), o.List.NextUpdate.Format(time.RFC3339), o.MeasuredAt.UTC().Format(time.RFC3339)),
		Remedy:   "Set auto_rebuild=true on the mount (config/crl), or have crl/rotate called before nextUpdate. Where auto_rebuild is on, crl/rotate says why the rebuild fails.",
		Citation: "RFC 5280 section 5.1.2.5: the next CRL will not be issued any later than nextUpdate",
	}
	switch left := o.List.NextUpdate.Sub(now); {
	case left <= 0:
		f.Severity = Critical
		f.Summary = "The CRL has passed its nextUpdate: clients that check revocation refuse every certificate of this issuer."
	case left < o.List.NextUpdate.Sub(o.List.ThisUpdate)/staleShare:
		f.Severity = Warning
		f.Summary = "The CRL passes its nextUpdate soon, and Vault has not replaced it."
	default:
		return Finding{}, false
	}
	return f, true
}

// staleDelta: without the delta a client still has the full list. Where that has
// passed its own nextUpdate too, it says all there is to say.
func staleDelta(o Observation, now time.Time) (Finding, bool) {
	full := o.Base
	if now.Before(o.List.NextUpdate) || full != nil && !full.NextUpdate.IsZero() && !now.Before(full.NextUpdate) {
		return Finding{}, false
	}
	return Finding{
		Severity: Warning,
		Summary:  "The delta CRL has passed its nextUpdate: clients no longer trust it and fall back to the full CRL, or refuse certificates where they insist on a delta. What was revoked since the full CRL was built they may not learn.",
		Evidence: fmt.Sprintf("thisUpdate %s, nextUpdate %s, read %s",
			o.List.ThisUpdate.Format(time.RFC3339), o.List.NextUpdate.Format(time.RFC3339), o.MeasuredAt.UTC().Format(time.RFC3339)),
		Remedy:   "Read crl/rotate-delta, then crl/rotate: either builds it, or says why not. Where no client asks for deltas, write enable_delta=false to the mount's config/crl.",
		Citation: "RFC 5280 sections 5.2.4 and 6.3.3: a delta CRL is combined with a complete CRL, and is used while it is current",
	}, true
}

// clocksApart is by how much Vault's clock may be ahead of ours.
const clocksApart = 5 * time.Minute

// dates: the list has dates with which no client accepts it, or which do not say
// until when one may.
func dates(o Observation, _ Thresholds, now time.Time) (Finding, bool) {
	if o.List == nil {
		return Finding{}, false
	}
	f := Finding{
		Severity: Warning,
		Evidence: "thisUpdate " + o.List.ThisUpdate.Format(time.RFC3339),
		Remedy:   "Compare the clocks of Vault's nodes, of this host and of the clients. When they are right, read crl/rotate: it dates the CRL anew.",
		Citation: "RFC 5280 sections 5.1.2.4, 5.1.2.5 and 6.3.3 (a): thisUpdate is the issue date, nextUpdate comes later, and a CRL is used between the two",
	}
	ahead := o.List.ThisUpdate.Sub(now)
	empty := !o.List.NextUpdate.IsZero() && !o.List.NextUpdate.After(o.List.ThisUpdate)
	none := o.List.NextUpdate.IsZero()
	if none {
		f.Evidence += ", no nextUpdate"
	} else {
		f.Evidence += ", nextUpdate " + o.List.NextUpdate.Format(time.RFC3339)
	}
	f.Evidence += ", now " + now.UTC().Format(time.RFC3339)
	switch {
	case ahead > clocksApart && empty:
		f.Summary = "The CRL is dated in the future, and its nextUpdate is not after its thisUpdate: clients refuse it."
	case ahead > clocksApart && none:
		f.Summary = fmt.Sprintf("The CRL is dated in the future, and has no nextUpdate: clients refuse it for another %s, if not for ever.", left(ahead))
	case ahead > clocksApart:
		f.Summary = fmt.Sprintf("The CRL is dated in the future: clients refuse it for another %s.", left(ahead))
	case empty:
		f.Summary = "The CRL's nextUpdate is not after its thisUpdate: there is no time at which clients accept it."
	case none:
		f.Summary = "The CRL has no nextUpdate: nobody can tell when it is out of date, and clients may refuse it or keep it for ever."
		f.Remedy = "Vault writes a nextUpdate into each CRL: find out what answers at vault.address. Then read crl/rotate, which dates the CRL anew."
		f.Citation = "RFC 5280 section 5.1.2.5: conforming CRL issuers MUST include the nextUpdate field in all CRLs"
	default:
		return Finding{}, false
	}
	return f, true
}

// quietShare is the part of a list's validity after which a mount without a
// revocation is a quiet one.
const quietShare = 2

// autoRebuildOff: nothing rebuilds the list before it expires, unless somebody
// is revoked.
func autoRebuildOff(o Observation, _ Thresholds, now time.Time) (Finding, bool) {
	if o.List == nil || o.Delta || !o.AutoRebuildOff || o.List.NextUpdate.IsZero() {
		return Finding{}, false
	}
	validity := o.List.NextUpdate.Sub(o.List.ThisUpdate)
	if left := o.List.NextUpdate.Sub(now); left > validity/quietShare || left < validity/staleShare {
		return Finding{}, false // not yet, or more than that is wrong by now
	}
	return Finding{
		Severity: Warning,
		Summary:  "The CRL is rebuilt by revocations only, and there has been none for half of its validity: it will expire.",
		Evidence: fmt.Sprintf("config/crl auto_rebuild=false; thisUpdate %s, nextUpdate %s", o.List.ThisUpdate.Format(time.RFC3339), o.List.NextUpdate.Format(time.RFC3339)),
		Remedy:   "Set auto_rebuild=true on the mount (config/crl), or have crl/rotate called before nextUpdate.",
		Citation: "Vault builtin/logical/pki/crl_util.go: with auto_rebuild=false only revoking, tidy, crl/rotate and changes of issuers rebuild the list",
	}, true
}

func signatureInvalid(o Observation, _ Thresholds, _ time.Time) (Finding, bool) {
	if !errors.Is(o.Err, ErrNotSigned) {
		return Finding{}, false
	}
	return Finding{
		Severity: Critical,
		Summary:  "The CRL that Vault serves for this issuer was not signed by it. What was measured before is kept.",
		Evidence: o.Err.Error(),
		Remedy:   "Find out what answers at vault.address. Then rotate the CRL (crl/rotate) and compare the issuer's certificate with the one that clients trust.",
		Citation: "RFC 5280 section 6.3.3 (f) and (g)",
	}, true
}

func notVerifiable(o Observation, _ Thresholds, _ time.Time) (Finding, bool) {
	if !errors.Is(o.Err, ErrNotVerifiable) {
		return Finding{}, false
	}
	return Finding{
		Severity: Unknown,
		Summary:  "The CRL's signature is of a kind that is not verified here, so nothing is said about the list.",
		Evidence: o.Err.Error(),
		Remedy:   "Watch this issuer's CRL by other means, or sign with RSA, ECDSA or Ed25519.",
		Citation: "RFC 6151 (MD5), FIPS 186-5 section 1 (DSA); RFC 8032 section 5.1.7: Ed25519 is verified over the whole list, which needs a spool",
	}, true
}

func unreadable(o Observation, _ Thresholds, _ time.Time) (Finding, bool) {
	if o.Err == nil || o.Missing || errors.Is(o.Err, ErrNotSigned) || errors.Is(o.Err, ErrNotVerifiable) {
		return Finding{}, false
	}
	f := Finding{
		Severity: Unknown,
		Summary:  "The CRL could not be read. What was measured before is kept, with its time.",
		Evidence: o.Err.Error(),
		Remedy:   "The evidence names what failed: the connection to Vault, Vault itself, or a right that the policy lacks.",
		Citation: "Vault builtin/logical/pki/path_fetch_issuers.go: issuer/:ref/crl",
	}
	var syntax *SyntaxError
	switch {
	case errors.As(o.Err, &syntax):
		f.Severity = Critical
		f.Summary = "What Vault serves as this issuer's CRL is not a valid CRL. What was measured before is kept."
		f.Remedy = "Rotate the CRL (crl/rotate). Should that not help, find out what answers at vault.address."
		f.Citation = "RFC 5280 section 5.1"
	case errors.Is(o.Err, ErrTooLarge):
		f.Summary = "The CRL is larger than crl.maxBytes, so it is not read."
		f.Remedy = "Raise crl.maxBytes: memory does not grow with it."
		o.beyondLimit(&f)
	}
	return f, true
}

// beyondLimit: what is too large to be read is too large to be stored, where the
// limit is lower.
func (o Observation) beyondLimit(f *Finding) {
	read := o.MaxBytes
	if read <= 0 {
		read = DefaultMaxBytes
	}
	if o.Limit.MaxBytes <= 0 || read < o.Limit.MaxBytes {
		return
	}
	f.Severity = Critical
	f.Summary = "The CRL is larger than crl.maxBytes, so it is not read, and larger than what Vault accepts by now: it will not be replaced by a newer one."
	f.Evidence += fmt.Sprintf("; crl.maxBytes %d; limit %d bytes: %s", read, o.Limit.MaxBytes, o.Limit.Rule)
	f.Remedy = remedyLimit + " " + f.Remedy
	f.Citation = citeLimit
}

// missing: an issuer that may sign has no list.
func missing(o Observation, _ Thresholds, _ time.Time) (Finding, bool) {
	if !o.Missing || o.CannotSign {
		return Finding{}, false
	}
	f := Finding{
		Severity: Warning,
		Summary:  "Vault has no CRL for this issuer: clients cannot learn which of its certificates were revoked.",
		Evidence: o.Err.Error(),
		Remedy:   "Read crl/rotate: it builds the list, or warns why not.",
		Citation: "Vault builtin/logical/pki/path_fetch_issuers.go: status 204, or an empty string, where nothing is stored",
	}
	if o.List != nil {
		f.Severity = Critical
		f.Summary = "Vault no longer has a CRL for this issuer. What was measured before is kept, with its time."
	}
	return f, true
}

func noIssuerUsage(o Observation, _ Thresholds, _ time.Time) (Finding, bool) {
	f := Finding{
		Severity: Warning,
		Summary:  "This issuer may not sign CRLs, so revocations of its certificates are published nowhere.",
	}
	switch {
	case o.CannotSign:
		f.Evidence = "the key usage of its certificate does not include cRLSign"
		f.Remedy = "Issue certificates from an issuer whose certificate has the key usage cRLSign."
		f.Citation = "RFC 5280 section 4.2.1.3: cRLSign is asserted when the key is used for verifying signatures on CRLs"
	case o.UsageForbids:
		f.Evidence = "Vault's usage of the issuer does not include crl-signing"
		f.Remedy = "Add crl-signing to the issuer's usage (write to issuer/ISSUER), then read crl/rotate."
		f.Citation = "Vault builtin/logical/pki/crl_util.go: issuers without the usage crl-signing are skipped, with a warning"
	default:
		return Finding{}, false
	}
	return f, true
}

// unsorted: Vault writes the entries that belong to no issuer, those of each
// issuer that shares the list, and issuers that were revoked, each in the order
// in which its storage lists them. More stretches mean a storage that does not
// sort, or another hand.
func unsorted(o Observation, _ Thresholds, _ time.Time) (Finding, bool) {
	if o.List == nil || o.List.Order.Runs <= 2*int64(max(1, o.Issuers))+1 {
		return Finding{}, false
	}
	return Finding{
		Severity: Info,
		Summary:  "The CRL's entries are not sorted, so tools that compare or search lists by merging take longer or need memory.",
		Evidence: fmt.Sprintf("%d entries in %d sorted stretches", o.List.Entries, o.List.Order.Runs),
		Remedy:   "Nothing has to be done: RFC 5280 asks for no order. Raft and Consul list their keys sorted; other storages may not.",
		Citation: "Vault builtin/logical/pki/crl_util.go: entries follow the storage's list of revoked/",
	}, true
}

// duplicates: one serial number twice in a row.
func duplicates(o Observation, _ Thresholds, _ time.Time) (Finding, bool) {
	if o.List == nil || o.List.Order.Duplicates == 0 {
		return Finding{}, false
	}
	return Finding{
		Severity: Warning,
		Summary:  fmt.Sprintf("The CRL lists %d serial numbers again that it has listed just before.", o.List.Order.Duplicates),
		Evidence: fmt.Sprintf("%d entries, of which %d repeat the one ahead of them", o.List.Entries, o.List.Order.Duplicates),
		Remedy:   "Read crl/rotate. Should they stay, look for serial numbers in revoked/ that differ in their spelling only, and for issuers that were imported twice.",
		Citation: "RFC 5280 sections 4.1.2.2 and 5.1.2.6: a serial number is unique for its issuer, and certificates are listed by it",
	}, true
}
