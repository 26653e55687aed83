package crl

import "fmt"

// MountObservation is what is known of a mount, apart from its lists.
type MountObservation struct {
	Subject string // for example "mount pki"

	Err        error  // of the last attempt to list its issuers
	HistoryErr error  // of reading or writing what is remembered of it
	Refused    string // why nothing is asked of it, "" where it is watched

	// Drift is by how many revocations Vault's own count is ahead of what the
	// lists hold, where the two ought to agree and have not for more than one
	// reading. 0 where they do, or where that is not known.
	Drift int64
}

// mountRules look at one mount.
var mountRules = []struct {
	id    string
	check func(MountObservation) (Finding, bool)
}{
	{"crl-unreadable", mountUnreadable},
	{"crl-mount-refused", mountRefused},
	{"crl-history-unreadable", historyUnreadable},
	{"crl-count-drift", countDrift},
}

// MountFindings are the verdicts of all rules on one mount.
func MountFindings(o MountObservation) []Finding {
	var found []Finding
	for _, r := range mountRules {
		if f, ok := r.check(o); ok {
			f.Rule, f.Subject = r.id, o.Subject
			found = append(found, f)
		}
	}
	return found
}

func mountUnreadable(o MountObservation) (Finding, bool) {
	if o.Err == nil {
		return Finding{}, false
	}
	return Finding{
		Severity: Unknown,
		Summary:  "It could not be learned which CRLs there are. What was measured before is kept, with its time.",
		Evidence: o.Err.Error(),
		Remedy:   "The evidence names what failed: the connection to Vault, Vault itself, or a right that the policy lacks.",
		Citation: "Vault API: sys/mounts, sys/namespaces; PKI: list issuers",
	}, true
}

func mountRefused(o MountObservation) (Finding, bool) {
	if o.Refused == "" {
		return Finding{}, false
	}
	return Finding{
		Severity: Unknown,
		Summary:  "Nothing is asked of this PKI mount because of its name: a request for it could reach something else.",
		Evidence: o.Refused,
		Remedy:   "Move the mount to a path of printed characters without ? # % \\, empty segments, . and .. (vault secrets move).",
		Citation: "RFC 3986 sections 3.3 and 5.2.4: such segments do not survive the way through clients and proxies",
	}, true
}

func historyUnreadable(o MountObservation) (Finding, bool) {
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
func countDrift(o MountObservation) (Finding, bool) {
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
	f.Evidence = fmt.Sprintf("tidy-status current_revoked_cert_count less the entries of all CRLs of the mount: %d, at two readings in a row", o.Drift)
	return f, true
}
