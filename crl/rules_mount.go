package crl

import (
	"fmt"
	"strings"
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

// noMount: that nothing is found to be wrong means nothing then.
func noMount(o Observation, _ Thresholds, _ time.Time) (Finding, bool) {
	u := o.Unwatched
	if u == nil {
		return Finding{}, false
	}
	if len(u.Unmatched) > 0 {
		return u.unmatched(), true
	}
	patterns := "not set, which is all"
	if len(u.Patterns) > 0 {
		patterns = fmt.Sprintf("%q", u.Patterns)
	}
	f := Finding{
		Severity: Unknown,
		Summary:  "No PKI mount is watched: nothing is known of any CRL.",
		Evidence: fmt.Sprintf("Vault shows %d PKI mounts; crl.mounts is %s", u.Shown, patterns),
		Remedy:   "Let the token read sys/mounts (manifests/vault/observe.hcl), in each namespace that is watched. Where there is no PKI mount, leave vault.address empty.",
		Citation: "Vault API, /sys/mounts: lists the mounts of one namespace; /sys/internal/ui/mounts: those on which the token has any right",
	}
	if u.Shown > 0 {
		f.Summary = "No PKI mount is watched, since crl.mounts selects none: nothing is known of any CRL."
		f.Evidence = fmt.Sprintf("Vault shows %d PKI mounts, %s; crl.mounts is %s", u.Shown, several(u.Mounts, u.Shown), patterns)
		f.Remedy = "Correct crl.mounts: a pattern is a mount's whole path, with its namespace, in which * stands for any text, and ! leaves out."
	}
	return f, true
}

// unmatched: what a pattern was to take in may be called otherwise, or be gone,
// and what it was to leave out is watched.
func (u *Unwatched) unmatched() Finding {
	const most = 10
	quoted := make([]string, 0, most)
	for _, p := range u.Unmatched[:min(len(u.Unmatched), most)] {
		quoted = append(quoted, fmt.Sprintf("%q", p))
	}
	return Finding{
		Severity: Warning,
		Summary:  fmt.Sprintf("crl.mounts has %d patterns that match no PKI mount: what they were to take in is not watched, and what they were to leave out is.", len(u.Unmatched)),
		Evidence: fmt.Sprintf("no mount matches %s; Vault shows %d PKI mounts, %s", several(quoted, len(u.Unmatched)), u.Shown, several(u.Mounts, u.Shown)),
		Remedy:   "Correct crl.mounts: a pattern is a mount's whole path, with its namespace, in which * stands for any text, and ! leaves out. Where the name is right, see whether the mount is there, and whether the policy shows it.",
		Citation: "Vault API, /sys/internal/ui/mounts: lists the mounts on which the token has any right",
	}
}

// several is some names of many.
func several(names []string, all int) string {
	text := strings.Join(names, ", ")
	if all > len(names) {
		text += " …"
	}
	return text
}

// vanishedFor is how long what is gone is spoken of.
const vanishedFor = 24 * time.Hour

// vanished: what is not seen any more is not measured, and nothing else would
// say so.
func vanished(o Observation, _ Thresholds, now time.Time) (Finding, bool) {
	v := o.Vanished
	if v == nil || now.Sub(v.At) >= vanishedFor || v.At.Sub(now) >= vanishedFor {
		return Finding{}, false
	}
	when := "missed at " + v.At.UTC().Format(time.RFC3339)
	if !v.Seen.IsZero() {
		when = "last seen at " + v.Seen.UTC().Format(time.RFC3339) + ", " + when
	}
	if v.Mount && v.Replaced {
		return Finding{
			Severity: Warning,
			Summary:  "Another PKI mount has taken the place of this one, whose CRLs are gone with it.",
			Evidence: fmt.Sprintf("CRLs it had: %d; %s", v.Lists, when),
			Remedy:   "Was it made anew on purpose, nothing has to be done: the finding ends after a day. Else what was revoked there is revoked no more: see Vault's audit log, and restore the mount.",
			Citation: "Vault API, /sys/mounts: disabling a mount deletes its data; a mount that is enabled again has another UUID",
		}, true
	}
	if v.Mount {
		return Finding{
			Severity: Unknown,
			Summary:  "This PKI mount is no longer seen, so its CRLs are no longer watched.",
			Evidence: fmt.Sprintf("CRLs it had: %d; %s", v.Lists, when),
			Remedy:   "Was it disabled on purpose, nothing has to be done: the finding ends after a day. Else see whether the policy still shows it (sys/mounts), and in Vault's audit log who disabled it.",
			Citation: "Vault API, /sys/internal/ui/mounts: lists the mounts on which the token has any right",
		}, true
	}
	next := "a nextUpdate that is not known"
	if !v.NextUpdate.IsZero() {
		next = "nextUpdate " + v.NextUpdate.UTC().Format(time.RFC3339)
	}
	return Finding{
		Severity: Warning,
		Summary:  "Vault no longer has this issuer, or no longer its key: its CRL is neither rebuilt nor watched, and is refused by clients after its nextUpdate.",
		Evidence: fmt.Sprintf("its CRL had %d entries and %s; %s", v.Entries, next, when),
		Remedy:   "Was it deleted on purpose, nothing has to be done: the finding ends after a day. Else import the issuer with its key again (issuers/import/bundle), and read crl/rotate.",
		Citation: "Vault builtin/logical/pki/crl_util.go: lists are built for issuers that have a key; path_fetch_issuers.go: deleting an issuer",
	}, true
}

// disabled: Vault builds one empty list, and goes on recording revocations.
func disabled(o Observation, _ Thresholds, _ time.Time) (Finding, bool) {
	if !o.CRLDisabled {
		return Finding{}, false
	}
	return Finding{
		Severity: Warning,
		Summary:  "The CRLs of this mount are disabled: clients learn of no revocation.",
		Evidence: "config/crl disable=true",
		Remedy:   "Write disable=false to the mount's config/crl: the next CRL lists what was revoked meanwhile. Where clients ask by OCSP alone, the empty CRLs still expire.",
		Citation: "Vault builtin/logical/pki/crl_util.go, buildCRL: with disable one empty list is signed, and not kept up to date",
	}, true
}

// historyFull: more lists than a record holds.
func historyFull(o Observation, _ Thresholds, _ time.Time) (Finding, bool) {
	if o.HistoryLeft == 0 {
		return Finding{}, false
	}
	return Finding{
		Severity: Info,
		Summary:  fmt.Sprintf("The record of this mount has no room for the history of its %d smallest CRLs: their forecasts and counts begin anew with each restart.", o.HistoryLeft),
		Evidence: fmt.Sprintf("%d CRLs left out of a record of at most %d bytes; the largest are kept, with one sample a day", o.HistoryLeft, MaxHistoryRecord),
		Remedy:   "Nothing has to be done: all CRLs are measured. Delete issuers that are no longer used, or spread issuers over several mounts: each mount has a record of its own.",
		Citation: "pkiwarden: state, one record of at most 64 KiB for each Vault mount",
	}, true
}

func historyUnreadable(o Observation, _ Thresholds, _ time.Time) (Finding, bool) {
	if o.MountsErr != nil {
		return Finding{
			Severity: Warning,
			Summary:  "Which mounts there were could not be read or written: of one that goes while pkiwarden does not run, nothing is said.",
			Evidence: o.MountsErr.Error(),
			Remedy:   "Where the evidence says that the record is damaged, or another version's, repair or delete it: it is never overwritten. Else see why the state cannot be reached, or which right is missing.",
			Citation: "pkiwarden: state, one record of the PKI mounts of each Vault cluster",
		}, true
	}
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
