package crl

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
	Subject  string // what it is about, for example "mount pki, issuer root-2026"
	Summary  string // one sentence for a person
	Evidence string // the values it rests on
	Remedy   string // what to do
	Citation string // RFC section or Vault file that the rule follows
}
