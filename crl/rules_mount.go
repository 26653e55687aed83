package crl

import (
	"fmt"
	"time"
)

func mountRefused(o Observation, _ Thresholds, _ time.Time) (Finding, bool) {
	if o.MountRefused == "" {
		return Finding{}, false
	}
	return Finding{
		Severity: Unknown,
		Summary:  "Nothing is asked of this PKI mount because of its name: a request for it could reach something else.",
		Evidence: o.MountRefused,
		Remedy:   "Move the mount to a path of printed characters without ? # % \\, empty segments, . and .. (vault secrets move).",
		Citation: "RFC 3986 sections 3.3 and 5.2.4: such segments do not survive the way through clients and proxies",
	}, true
}

func historyUnreadable(o Observation, _ Thresholds, _ time.Time) (Finding, bool) {
	if o.HistoryErr == nil {
		return Finding{}, false
	}
	return Finding{
		Severity: Warning,
		Summary:  "What is remembered of this mount's CRLs could not be read or written: forecasts rest on what this instance has seen itself.",
		Evidence: o.HistoryErr.Error(),
		Remedy:   "Where the evidence says that the record is damaged, or another version's, repair or delete it: it is never overwritten. Else see why the state cannot be reached, or which right is missing.",
		Citation: "pkiwarden: state, one record for each Vault mount",
	}, true
}

// countDrift: what is revoked and what is listed ought to be the same number.
func countDrift(o Observation, _ Thresholds, _ time.Time) (Finding, bool) {
	f := Finding{Citation: "Vault builtin/logical/pki/crl_util.go: a list is rebuilt from all revocations; path_tidy.go: current_revoked_cert_count"}
	switch {
	case o.Drift > 0:
		f.Severity = Critical
		f.Summary = fmt.Sprintf("Vault counts %d revocations more than its CRLs list: they are recorded, and not published.", o.Drift)
		f.Remedy = "Read crl/rotate: it publishes them, or says why it cannot; a CRL over the storage's limit is the usual reason."
	case o.Drift < 0:
		f.Severity = Warning
		f.Summary = fmt.Sprintf("The mount's CRLs list %d entries more than Vault counts as revoked.", -o.Drift)
		f.Remedy = "Read crl/rotate: entries that tidy has removed leave the CRL, or its error says why not."
	default:
		return Finding{}, false
	}
	f.Evidence = fmt.Sprintf("tidy-status current_revoked_cert_count less the entries of all CRLs of the mount: %d, for longer than a revocation takes", o.Drift)
	return f, true
}
