package k8scsr

// Severity orders findings. Unknown is its own state: it is never read as OK.
type Severity string

// The severities of a finding.
const (
	Info     Severity = "info"
	Warning  Severity = "warning"
	Critical Severity = "critical"
	Unknown  Severity = "unknown"
)

// Finding is one rule's verdict on one certificate.
type Finding struct {
	Rule     string // stable ID, also the anchor of its runbook entry
	Severity Severity
	Subject  string // what it is about: "certificate vault-server"
	Summary  string // one sentence for a person
	Evidence string // the values it rests on
	Remedy   string // what to do
	Citation string // RFC section or Kubernetes rule that it follows
}

// The rules of this package and of its issuer.
const (
	RuleMissing         = "certificate-missing"
	RuleBroken          = "certificate-broken"
	RuleExpired         = "certificate-expired"
	RuleOverdue         = "certificate-overdue"
	RuleLifetimeShorter = "certificate-lifetime-shorter"
	RuleRefused         = "certificate-refused"
	RuleUnknown         = "certificate-unknown"
	RuleDenied          = "csr-denied"
	RuleFailed          = "csr-failed"
	RuleNeverApproved   = "csr-never-approved"
	RuleNeverSigned     = "csr-never-signed"
	RuleCollected       = "csr-collected"
	RuleForeign         = "csr-not-ours"
	RuleStale           = "csr-no-longer-wanted"
	RuleHeldBack        = "csr-held-back"
	RuleBudget          = "issuance-budget"
	RuleBudgetUnknown   = "issuance-budget-unknown"
	RuleTrustMissing    = "trust-not-configured"
	RuleTrustUnreadable = "trust-unreadable"
	RuleTrustTooLarge   = "trust-too-large"
	RuleCAChanging      = "ca-changing"
	RuleCAKept          = "ca-kept"
	RuleCAExpires       = "ca-expires"
	RuleSecretType      = "secret-wrong-type"
	RuleSecretImmutable = "secret-immutable"
	RuleSecretTaken     = "secret-name-taken"
	RuleSecretForeign   = "secret-not-ours"
	RuleNamespace       = "namespace-missing"
	RulePermission      = "permission-denied"
)
