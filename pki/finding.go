package pki

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Severity orders findings. Unknown is its own state: it is never read as OK.
type Severity string

// The severities of a finding.
const (
	Info     Severity = "info"
	Warning  Severity = "warning"
	Critical Severity = "critical"
	Unknown  Severity = "unknown"
)

// Finding is one rule's verdict on one subject.
type Finding struct {
	Rule     string // stable ID, also the anchor of its runbook entry
	Severity Severity
	Subject  string
	Summary  string
	Evidence string
	Remedy   string
	Citation string
}

// rule looks at one thing. It returns false where it has nothing to say.
type rule struct {
	id    string
	check func(Observation, Policy, Decision, time.Time) (Finding, bool)
}

var rules = []rule{
	{"tidy-would-run", wouldRun},
	{"tidy-cannot-help", cannotHelpFinding},
	{"tidy-no-effect", noEffect},
	{"tidy-failed", failed},
	{"tidy-stale-crl", staleCRL},
	{"crl-rotate-needed", rotateNeeded},
	{"tidy-estimate-unknown", estimateUnknown},
	{"tidy-auto-tidy", autoTidyBeside},
	{"tidy-auto-tidy-buffer", autoTidyShortBuffer},
	{"tidy-auto-tidy-idle", autoTidyIdle},
	{"tidy-auto-tidy-off", autoTidyOff},
	{"tidy-short-buffer", shortBuffer},
}

// Findings are the verdicts of all rules on one mount, given the decision d
// that Plan made from o, p and now.
func Findings(o Observation, p Policy, d Decision, now time.Time) []Finding {
	var found []Finding
	for _, r := range rules {
		if f, ok := r.check(o, p, d, now); ok {
			f.Rule, f.Subject = r.id, "mount "+o.Mount.Name()
			found = append(found, f)
		}
	}
	return append(found, permissions(o)...)
}

// wouldRun: a run is due and tidy.enabled is false.
func wouldRun(o Observation, p Policy, d Decision, now time.Time) (Finding, bool) {
	if p.Enabled || d.Verdict != RunNow {
		return Finding{}, false
	}
	severity := Info
	if l, _ := d.Estimate.pressed(Pressure{p.Trigger.LimitShare, p.Trigger.Horizon}, now, mayShrink); l != nil {
		severity = Warning
	}
	return Finding{
		Severity: severity,
		Summary:  "Tidy is due and is not switched on.",
		Evidence: fmt.Sprintf("%s; a run would take %s off, leaving %d bytes of %d", d.Reason, d.Estimate.taken(), d.Predicted.BytesAfter, d.Estimate.Total.Bytes),
		Remedy:   "set tidy.enabled: true, or run pkiwarden tidy --mount " + o.Mount.Name(),
		Citation: "Vault API, PKI: tidy",
	}, true
}

// cannotHelpFinding: the CRL presses against its limit, or the policy is
// unsound, and no run will change that.
func cannotHelpFinding(o Observation, _ Policy, d Decision, _ time.Time) (Finding, bool) {
	if d.Verdict != CannotHelp {
		return Finding{}, false
	}
	f := Finding{
		Severity: Warning,
		Summary:  "Tidy cannot help now.",
		Evidence: d.Reason,
		Remedy:   "correct the configuration of tidy",
		Citation: "Vault builtin/logical/pki/path_tidy.go: only what has been expired for longer than safety_buffer is deleted",
	}
	if !d.Until.IsZero() {
		f.Summary = "Tidy cannot help before " + instant(d.Until) + "."
	}
	if words := leverWords(d.Levers); words != "" {
		f.Remedy = words
	}
	return f, true
}

// noEffect: the last run ended well and achieved nothing.
func noEffect(o Observation, _ Policy, _ Decision, _ time.Time) (Finding, bool) {
	last := o.Record.Last()
	if last == nil || last.Outcome != OutcomeNoEffect || last.foretold() {
		return Finding{}, false
	}
	return Finding{
		Severity: Warning,
		Summary:  "The last tidy achieved nothing: " + last.Explanation + ".",
		Evidence: fmt.Sprintf("run of %s, predicted at least %d entries, %s", instant(last.DecidedAt), last.Predicted.Reclaimable, beforeAfter(*last)),
		Remedy:   "shorten certificate lifetimes or tidy.safetyBuffer, or wait until the certificates have expired for longer than the buffer",
		Citation: "Vault builtin/logical/pki/path_tidy.go, doTidyRevocationStore",
	}, true
}

// foretold tells whether a run achieved as little as was predicted of it:
// nothing, which somebody asked for all the same.
func (r Run) foretold() bool {
	return r.Predicted.Reclaimable == 0 && (r.Deleted == nil || *r.Deleted == 0)
}

// failed: the last run ended in an error, ours as we remember it, anybody's as
// Vault does.
func failed(o Observation, _ Policy, _ Decision, _ time.Time) (Finding, bool) {
	f := Finding{
		Severity: Warning,
		Remedy:   "remove what the error names; a certificate that Vault cannot parse stops every run at the same place",
		Citation: "Vault builtin/logical/pki/path_tidy.go: the first certificate that does not parse ends the run",
	}
	if s := o.Status; s != nil && s.State == TidyError {
		f.Summary = "Vault's last tidy ended in an error: " + s.Error + "."
		f.Evidence = fmt.Sprintf("tidy-status of the run of %s: %d revocations deleted, last message %q", instant(s.StartedAt), s.RevokedDeleted, s.Message)
		return f.blame(o.Mount, s.Error), true
	}
	last := o.Record.Last()
	if last == nil || last.Outcome != OutcomeFailed && last.Outcome != OutcomeRefused {
		return Finding{}, false
	}
	if last.Denied != nil {
		return Finding{}, false // the missing right is a finding of its own
	}
	f.Summary = fmt.Sprintf("The last tidy %s: %s.", last.Outcome, last.Explanation)
	f.Evidence = fmt.Sprintf("run of %s, %s", instant(last.DecidedAt), beforeAfter(*last))
	if last.Outcome == OutcomeRefused {
		f.Remedy = "grant what the error names, or see why Vault refused"
		f.Citation = "Vault API, PKI: tidy"
	}
	if last.Owes {
		f.Remedy = "see why crl/rotate fails: it is tried again until the lists are newer than the run"
		f.Citation = "Vault builtin/logical/pki/path_tidy.go: with auto_rebuild, tidy leaves the CRL alone"
	}
	return f.blame(o.Mount, last.Error), true
}

// blame names the entry that stopped the run, where Vault's error does.
func (f Finding) blame(m Mount, vaultError string) Finding {
	c, ok := FindCulprit(vaultError)
	if !ok {
		return f
	}
	f.Evidence = fmt.Sprintf("entry %s of the mount: %s; %s", c.Key(), vaultError, f.Evidence)
	f.Remedy = c.remedy(m)
	if c.Content {
		f.Summary = fmt.Sprintf("Certificate %s stops every tidy of the mount: Vault cannot read it.", c.Serial)
	}
	return f
}

// staleCRL: tidy deleted revocations, and the rebuild that it owed failed.
func staleCRL(o Observation, _ Policy, _ Decision, _ time.Time) (Finding, bool) {
	stale, ok := olderThanTidy(o)
	if !ok || o.CRLConfig == nil || o.CRLConfig.AutoRebuild || o.CRLConfig.Disabled {
		return Finding{}, false
	}
	return Finding{
		Severity: Critical,
		Summary:  "Tidy deleted revocations and did not rebuild the CRL; the next tidy will not either.",
		Evidence: stale,
		Remedy:   "read " + o.Mount.Path + "/crl/rotate and see its error; where the CRL is over the storage's limit, raise the limit first",
		Citation: "Vault builtin/logical/pki/path_tidy.go: the rebuild is skipped where a run deletes nothing",
	}, true
}

// rotateNeeded: tidy deleted revocations in a mount that rebuilds its lists by
// time.
func rotateNeeded(o Observation, p Policy, _ Decision, _ time.Time) (Finding, bool) {
	stale, ok := olderThanTidy(o)
	if !ok || o.CRLConfig == nil || !o.CRLConfig.AutoRebuild || o.CRLConfig.Disabled {
		return Finding{}, false
	}
	remedy := "read " + o.Mount.Path + "/crl/rotate"
	if !p.Rotate {
		remedy += ", or set tidy.rotate: auto"
	}
	return Finding{
		Severity: Info,
		Summary:  "Tidy deleted revocations that the CRL still lists, until Vault rebuilds it by itself.",
		Evidence: stale,
		Remedy:   remedy,
		Citation: "Vault builtin/logical/pki/path_tidy.go: with auto_rebuild, tidy leaves the CRL alone",
	}, true
}

// olderThanTidy names the oldest list that was published before the latest run
// that deleted revocations began.
func olderThanTidy(o Observation) (string, bool) {
	s := o.Status
	if s == nil || s.State.Active() || s.RevokedDeleted == 0 || s.StartedAt.IsZero() || o.Record.Run != nil {
		return "", false
	}
	lists := distinct(o.CRLs)
	if len(lists) == 0 {
		return "", false
	}
	oldest := slices.MinFunc(lists, func(a, b CRL) int { return a.Summary.ThisUpdate.Compare(b.Summary.ThisUpdate) })
	if !oldest.Summary.ThisUpdate.Before(s.StartedAt.Truncate(time.Second)) || !oldest.MeasuredAt.After(s.FinishedAt) {
		return "", false
	}
	return fmt.Sprintf("the run of %s deleted %d revocations; the CRL of issuer %s is of %s, with %d entries",
		instant(s.StartedAt), s.RevokedDeleted, oldest.Issuer.Label(), instant(oldest.Summary.ThisUpdate), oldest.Summary.Entries), true
}

// estimateUnknown: without the longest TTL, or where certificates outlive it,
// only reading certificates tells what is reclaimable.
func estimateUnknown(o Observation, _ Policy, d Decision, _ time.Time) (Finding, bool) {
	e := d.Estimate
	if o.LongestTTL.Known() && !e.TTLBroken || e.High == 0 {
		return Finding{}, false
	}
	f := Finding{
		Severity: Info,
		Summary:  "How much tidy would reclaim is known only as far as certificates are read: the longest TTL is unknown.",
		Evidence: fmt.Sprintf("longest TTL unknown: %s; %s", o.LongestTTL.Source, e.words()),
		Remedy:   "grant list on " + o.Mount.Path + "/roles and read on " + o.Mount.Path + "/roles/+, and give roles max_ttl rather than not_after",
		Citation: "Vault builtin/logical/pki/issuing/sign_cert.go: what has expired is never revoked, so NotAfter <= revocation + longest TTL",
	}
	if e.TTLBroken {
		f.Summary = "How much tidy would reclaim is known only as far as certificates are read: some outlive the longest TTL of the roles."
		f.Evidence = fmt.Sprintf("%s, the longest TTL is %s (%s); %s", e.TTLExample, o.LongestTTL.Duration, o.LongestTTL.Source, e.words())
		f.Remedy = "nothing, where they were issued before a role was shortened: it passes when tidy has taken them off; else look for an explicit not_after, or a role that was deleted"
	}
	return f, true
}

// permissions makes one finding of the capabilities that were missed while
// looking, or in the last run. What keeps a run from being begun comes first. A
// token that Vault does not take lacks all of them: that is the login's matter,
// and one for all mounts.
func permissions(o Observation) []Finding {
	denied := slices.Clone(o.Denied)
	if last := o.Record.Last(); last != nil && last.Denied != nil {
		denied = append(denied, *last.Denied)
	}
	denied = slices.DeleteFunc(denied, func(e PermissionError) bool { return e.InvalidToken })
	if len(denied) == 0 {
		return nil
	}
	blocking := []PermissionError{StatusRight(o.Mount), TidyRight(o.Mount), RotateRight(o.Mount)}
	rank := func(e PermissionError) int {
		if at := slices.Index(blocking, e); at >= 0 {
			return at
		}
		return len(blocking)
	}
	slices.SortFunc(denied, func(a, b PermissionError) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Path, b.Path), cmp.Compare(a.Capability, b.Capability))
	})
	var evidence, grants []string
	for _, e := range slices.Compact(denied) {
		evidence = append(evidence, e.Error())
		grants = append(grants, fmt.Sprintf("path %q { capabilities = [%q] }", e.Path, e.Capability))
	}
	f := Finding{
		Rule:     "tidy-permission",
		Severity: Warning,
		Subject:  "mount " + o.Mount.Name(),
		Summary:  "Vault refused what the tidy of this mount needs.",
		Evidence: strings.Join(evidence, "; "),
		Remedy:   "add to the Vault policy: " + strings.Join(grants, " "),
		Citation: "Vault documentation: policies, capabilities",
	}
	if o.Status == nil && slices.Contains(o.Denied, StatusRight(o.Mount)) {
		f.Summary = "No tidy of this mount can begin: Vault does not let tidy-status be read."
	}
	return []Finding{f}
}

func beforeAfter(r Run) string {
	s := fmt.Sprintf("%d entries and %d bytes before", r.Before.Entries, r.Before.Bytes)
	if r.After != nil {
		s += fmt.Sprintf(", %d and %d after", r.After.Entries, r.After.Bytes)
	}
	return s
}
