package crl

import (
	"errors"
	"fmt"
	"time"
)

// Observation is what is known of one issuer's list.
type Observation struct {
	Subject string // for example "mount pki, issuer root-2026"

	// List is the last list that was read whole and whose signature was right,
	// nil before the first.
	List       *Summary
	MeasuredAt time.Time // when it was read

	// Err is what the last attempt ended with: nothing, one of Scan's or
	// Verify's errors, or whatever kept the list from being fetched.
	Err error

	// CannotSign is set where the issuer's certificate has a key usage without
	// CRL signing, so that there is no list to read.
	CannotSign bool

	Limit Limit
}

// Thresholds are the shares of the limit, 0 to 1, from which a list is a
// finding.
type Thresholds struct {
	Warn     float64
	Critical float64
}

// rule looks at one list. It returns false where it has nothing to say.
type rule struct {
	id    string
	check func(o Observation, t Thresholds, now time.Time) (Finding, bool)
}

var rules = []rule{
	{"crl-over-limit", overLimit},
	{"crl-near-limit", nearLimit},
	{"crl-stale", stale},
	{"crl-signature-invalid", signatureInvalid},
	{"crl-not-verifiable", notVerifiable},
	{"crl-unreadable", unreadable},
	{"crl-no-issuer-usage", noIssuerUsage},
}

// Findings are the verdicts of all rules on one list.
func Findings(o Observation, t Thresholds, now time.Time) []Finding {
	var found []Finding
	for _, r := range rules {
		if f, ok := r.check(o, t, now); ok {
			f.Rule, f.Subject = r.id, o.Subject
			found = append(found, f)
		}
	}
	return found
}

// LimitFinding is the verdict on a limit that is not known, for all lists that
// share it.
func LimitFinding(l Limit) (Finding, bool) {
	if l.Known {
		return Finding{}, false
	}
	return Finding{
		Rule: "crl-limit-unknown", Severity: Unknown, Subject: "storage",
		Summary:  "It is not known how large a CRL Vault's storage accepts, so nothing warns before one no longer fits.",
		Evidence: l.Rule,
		Remedy:   "Let pkiwarden read the limit (raft: capability read on sys/config/state/sanitized; Consul: agent:read on the agent that Vault talks to), or set crl.limit.",
		Citation: "Vault physical/raft/raft.go and physical/consul/consul.go: the limit belongs to the storage",
	}, true
}

const (
	remedyLimit = "Let tidy run (pkiwarden tidy --dry-run says what it would reclaim); shorten the certificates' lifetimes or the safety buffer; raise the storage's limit; or move to a new issuer key, whose list begins empty."
	citeLimit   = "Vault builtin/logical/pki/crl_util.go: the list is one storage entry, and is not replaced when it does not fit"
)

func overLimit(o Observation, _ Thresholds, _ time.Time) (Finding, bool) {
	if o.List == nil || o.Limit.MaxBytes == 0 || o.List.Bytes <= o.Limit.MaxBytes {
		return Finding{}, false
	}
	return Finding{
		Severity: Critical,
		Summary:  "The CRL is larger than what Vault's storage accepts by now: it will not be replaced by a newer one.",
		Evidence: limitEvidence(o),
		Remedy:   remedyLimit,
		Citation: citeLimit,
	}, true
}

func nearLimit(o Observation, t Thresholds, _ time.Time) (Finding, bool) {
	if o.List == nil || o.Limit.MaxBytes == 0 || o.List.Bytes > o.Limit.MaxBytes {
		return Finding{}, false
	}
	f := Finding{
		Summary: fmt.Sprintf("The CRL takes %d %% of what Vault's storage accepts. Beyond, revocations are recorded and no longer published.",
			100*o.List.Bytes/o.Limit.MaxBytes),
		Evidence: limitEvidence(o),
		Remedy:   remedyLimit,
		Citation: citeLimit,
	}
	switch share := float64(o.List.Bytes) / float64(o.Limit.MaxBytes); {
	case share >= t.Critical:
		f.Severity = Critical
	case share >= t.Warn:
		f.Severity = Warning
	default:
		return Finding{}, false
	}
	return f, true
}

func limitEvidence(o Observation) string {
	return fmt.Sprintf("%d bytes, %d entries; limit %d bytes, about %d entries: %s",
		o.List.Bytes, o.List.Entries, o.Limit.MaxBytes, o.Limit.Entries(), o.Limit.Rule)
}

// staleShare is the part of a list's validity that is left when Vault should
// have replaced it: by default it rebuilds with 12 of 72 hours left.
const staleShare = 10

func stale(o Observation, _ Thresholds, now time.Time) (Finding, bool) {
	if o.List == nil || o.List.NextUpdate.IsZero() {
		return Finding{}, false
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
		Remedy:   "Watch this issuer's CRL by other means, or sign with RSA or ECDSA and SHA-2.",
		Citation: "RFC 8032 section 5.1.7: Ed25519 is verified over the message, not over its digest",
	}, true
}

func unreadable(o Observation, _ Thresholds, _ time.Time) (Finding, bool) {
	if o.Err == nil || errors.Is(o.Err, ErrNotSigned) || errors.Is(o.Err, ErrNotVerifiable) {
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
	}
	return f, true
}

func noIssuerUsage(o Observation, _ Thresholds, _ time.Time) (Finding, bool) {
	if !o.CannotSign {
		return Finding{}, false
	}
	return Finding{
		Severity: Warning,
		Summary:  "This issuer may not sign CRLs, so revocations of its certificates are published nowhere.",
		Evidence: "the key usage of its certificate does not include cRLSign",
		Remedy:   "Issue certificates from an issuer whose certificate has the key usage cRLSign.",
		Citation: "RFC 5280 section 4.2.1.3: cRLSign is asserted when the key is used for verifying signatures on CRLs",
	}, true
}
