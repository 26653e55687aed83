package pki

import (
	"fmt"
	"strings"
	"time"
)

// AutoTidy is config/auto-tidy of a mount: what Vault does by itself. Any run
// that is asked for puts Vault's next own one off by Interval.
type AutoTidy struct {
	Enabled      bool          `json:"enabled"`
	Interval     time.Duration `json:"interval"`     // nanoseconds; 0: never
	SafetyBuffer time.Duration `json:"safetyBuffer"` // likewise
	CertStore    bool          `json:"certStore"`
	RevokedCerts bool          `json:"revokedCerts"`

	// Also are the switches that are on besides, by Vault's names.
	Also []string `json:"also,omitempty"`
}

// Beyond is what a mount's own auto-tidy does and runs by p do not, by the
// names of Vault's switches.
func (a AutoTidy) Beyond(p Policy) []string {
	var beyond []string
	if a.CertStore && !p.CertStore {
		beyond = append(beyond, "tidy_cert_store")
	}
	return append(beyond, a.Also...)
}

// OwnedAutoTidy is what a mount's own auto-tidy was before pkiwarden switched it
// off. It is written down first.
type OwnedAutoTidy struct {
	Was    AutoTidy  `json:"was"`
	At     time.Time `json:"at"`             // of the decision
	OffAt  time.Time `json:"offAt,omitzero"` // when it was seen to be off; zero: not yet
	Reason string    `json:"reason"`
	Holder string    `json:"holder"` // the instance that did it
}

// MayOwn tells whether the mount's own auto-tidy is to be switched off now, and
// why, or why not. It is asked only where Policy.OwnAutoTidy and Enabled are
// set.
func MayOwn(o Observation, p Policy) (reason string, may bool) {
	a := o.AutoTidy
	if a == nil || !a.Enabled {
		return "it is not known to be on", false
	}
	if beyond := a.Beyond(p); len(beyond) > 0 {
		return fmt.Sprintf("it does what pkiwarden does not: %s", strings.Join(beyond, ", ")), false
	}
	switch {
	case o.Health.Unreachable != "" || o.Health.Sealed || o.Health.Standby:
		return "Vault is not active", false
	case o.Status == nil || o.Status.State.Active():
		return "a run is or may be on", false
	}
	return fmt.Sprintf("tidy.ownAutoTidy: pkiwarden tidies the mount by volume, at least every %s, in place of every %s", p.Trigger.AtLeastEvery, a.Interval), true
}

// vaultWrite is a command that changes the mount's config/auto-tidy.
func vaultWrite(m Mount, setting string) string {
	namespace := ""
	if m.Namespace != "" {
		namespace = "-namespace=" + m.Namespace + " "
	}
	return fmt.Sprintf("vault write %s%s/config/auto-tidy %s", namespace, m.Path, setting)
}

const autoTidySource = "Vault builtin/logical/pki/path_tidy.go: every run that is asked for begins the interval of auto-tidy anew"

// autoTidyBeside: pkiwarden and the mount's own auto-tidy both tidy it.
func autoTidyBeside(o Observation, p Policy, _ Decision, _ time.Time) (Finding, bool) {
	a := o.AutoTidy
	if !p.Enabled || a == nil || !a.Enabled {
		return Finding{}, false
	}
	beyond := a.Beyond(p)
	f := Finding{
		Severity: Info,
		Evidence: fmt.Sprintf("config/auto-tidy: interval %s, safety buffer %s", a.Interval, a.SafetyBuffer),
		Citation: autoTidySource,
	}
	switch {
	case len(beyond) > 0 && p.OwnAutoTidy:
		f.Summary = "The mount's own auto-tidy stays on, in spite of tidy.ownAutoTidy."
		f.Evidence += "; it does what pkiwarden does not: " + strings.Join(beyond, ", ")
		f.Remedy = "leave it on, or switch those off: " + vaultWrite(o.Mount, strings.Join(beyond, "=false ")+"=false")
	case len(beyond) > 0:
		f.Summary = "The mount's own auto-tidy is on as well; each run of pkiwarden postpones it."
		f.Evidence += "; it does what pkiwarden does not: " + strings.Join(beyond, ", ")
		f.Remedy = "leave it on; have pkiwarden run less often (tidy.minInterval, tidy.trigger) where its interval is never reached"
	case p.OwnAutoTidy:
		return Finding{}, false // it is about to be switched off
	default:
		f.Summary = "The mount's own auto-tidy is on as well; each run of pkiwarden postpones it."
		f.Remedy = "set tidy.ownAutoTidy: true to have pkiwarden switch it off, or do so: " + vaultWrite(o.Mount, "enabled=false")
	}
	return f, true
}

// autoTidyShortBuffer: the mount's own auto-tidy deletes earlier than pkiwarden
// would be allowed to.
func autoTidyShortBuffer(o Observation, p Policy, _ Decision, _ time.Time) (Finding, bool) {
	a := o.AutoTidy
	if a == nil || !a.Enabled || a.SafetyBuffer <= 0 || a.SafetyBuffer >= SafetyBufferFloor || p.AllowShortSafetyBuffer || !a.CertStore && !a.RevokedCerts {
		return Finding{}, false
	}
	return Finding{
		Severity: Warning,
		Summary:  "The mount's own auto-tidy deletes certificates too soon after they expire.",
		Evidence: fmt.Sprintf("config/auto-tidy: safety buffer %s, the floor is %s", a.SafetyBuffer, SafetyBufferFloor),
		Remedy:   vaultWrite(o.Mount, "safety_buffer=72h") + "; a client whose clock is behind still trusts what is no longer listed as revoked",
		Citation: "Vault builtin/logical/pki/path_tidy.go: what has been expired for longer than safety_buffer is deleted",
	}, true
}

// autoTidyIdle: the mount's own auto-tidy is on and never shrinks a list.
func autoTidyIdle(o Observation, p Policy, _ Decision, _ time.Time) (Finding, bool) {
	a := o.AutoTidy
	if a == nil || !a.Enabled || a.RevokedCerts && a.Interval > 0 {
		return Finding{}, false
	}
	f := Finding{
		Severity: Info,
		Summary:  "The mount's own auto-tidy is on and leaves revocations alone, so it never shrinks the CRL.",
		Evidence: "config/auto-tidy: tidy_revoked_certs is false",
		Remedy:   vaultWrite(o.Mount, "tidy_revoked_certs=true"),
		Citation: "Vault builtin/logical/pki/path_tidy.go: only tidy_revoked_certs deletes revocations",
	}
	if a.Interval <= 0 {
		f.Summary = "The mount's own auto-tidy is on and never runs."
		f.Evidence = "config/auto-tidy: interval_duration is 0"
		f.Remedy = vaultWrite(o.Mount, "interval_duration=12h")
		f.Citation = "Vault builtin/logical/pki/backend.go: an interval of 0 or less never runs"
	}
	if !p.Enabled {
		f.Severity = Warning
		f.Remedy += ", or set tidy.enabled: true"
	}
	return f, true
}

// autoTidyOff: pkiwarden switched the mount's own auto-tidy off, and is no
// longer told to own it.
func autoTidyOff(o Observation, p Policy, _ Decision, _ time.Time) (Finding, bool) {
	owned, a := o.Record.AutoTidy, o.AutoTidy
	if owned == nil || p.OwnAutoTidy || a == nil || a.Enabled {
		return Finding{}, false
	}
	f := Finding{
		Severity: Info,
		Summary:  "The mount's own auto-tidy is off since pkiwarden switched it off; tidy.ownAutoTidy is no longer set.",
		Evidence: fmt.Sprintf("switched off at %s by %s; before: interval %s, safety buffer %s", instant(owned.At), owned.Holder, owned.Was.Interval, owned.Was.SafetyBuffer),
		Remedy:   "to have it back: " + vaultWrite(o.Mount, "enabled=true") + "; its other settings are as they were",
		Citation: autoTidySource,
	}
	if !p.Enabled {
		f.Severity = Warning
		f.Summary = "Nothing tidies the mount: its own auto-tidy is off since pkiwarden switched it off, and tidy.enabled is false."
	}
	return f, true
}
