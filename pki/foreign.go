package pki

import (
	"fmt"
	"slices"
	"time"
)

// shortBufferFor is how long a run of somebody else's with too short a buffer is
// told.
const shortBufferFor = 24 * time.Hour

// shortBuffer: somebody else tidied the mount with a shorter safety buffer than
// pkiwarden would be allowed to.
func shortBuffer(o Observation, p Policy, _ Decision, now time.Time) (Finding, bool) {
	if p.AllowShortSafetyBuffer {
		return Finding{}, false
	}
	short := func(buffer time.Duration, at time.Time) bool {
		ofAutoTidy := o.AutoTidy != nil && o.AutoTidy.Enabled && o.AutoTidy.SafetyBuffer == buffer // a finding of its own
		return buffer > 0 && buffer < SafetyBufferFloor && now.Sub(at) < shortBufferFor && !ofAutoTidy
	}
	f := Finding{
		Severity: Warning,
		Summary:  "Somebody tidied the mount with too short a safety buffer: what it deleted had just expired.",
		Remedy:   "find who asked for it (Vault's audit log, path " + o.Mount.Path + "/tidy) and have them leave safety_buffer at 72h; a client whose clock is behind still trusts what is no longer listed as revoked",
		Citation: "Vault builtin/logical/pki/path_tidy.go: what has been expired for longer than safety_buffer is deleted",
	}
	if s := o.Status; s != nil && (s.CertStore || s.RevokedCerts) && short(s.SafetyBuffer, s.last()) && !o.Record.started(*s) {
		f.Evidence = fmt.Sprintf("tidy-status of the run of %s: safety buffer %s, the floor is %s; %d revocations and %d certificates deleted",
			instant(s.StartedAt), s.SafetyBuffer, SafetyBufferFloor, s.RevokedDeleted, s.CertStoreDeleted)
		if !s.State.Active() && s.RevokedDeleted == 0 && s.CertStoreDeleted == 0 {
			f.Severity = Info
		}
		return f, true
	}
	// Vault forgets runs, the record does not.
	for _, run := range slices.Backward(o.Record.History) {
		if run.Foreign && short(run.SafetyBuffer, run.EndedAt) {
			f.Evidence = fmt.Sprintf("run of %s, which was followed: safety buffer %s, the floor is %s; %s", instant(run.StartedAt), run.SafetyBuffer, SafetyBufferFloor, beforeAfter(run))
			return f, true
		}
	}
	return Finding{}, false
}

// last is the latest instant that the status tells.
func (s TidyStatus) last() time.Time {
	if s.FinishedAt.After(s.StartedAt) {
		return s.FinishedAt
	}
	return s.StartedAt
}

// started tells whether the run that a status speaks of is one of pkiwarden's.
func (r Record) started(s TidyStatus) bool {
	if r.Run != nil && !r.Run.Foreign && r.Run.Is(s) {
		return true
	}
	return slices.ContainsFunc(r.History, func(run Run) bool {
		return !run.Foreign && !run.StartedAt.IsZero() && run.StartedAt.Equal(s.StartedAt)
	})
}
