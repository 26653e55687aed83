package k8scsr

// Event is what is said in the cluster on the object concerned.
type Event struct {
	Warning bool
	Reason  string // one word, as Kubernetes has it; each is counted on its own
	Message string // for a person; never a secret
}

// ReasonIssued is the event of a certificate that was published.
const ReasonIssued = "CertificateIssued"

// failureReasons are the events of attempts that failed, by the rule that they
// are found by.
var failureReasons = map[string]string{
	RuleDenied:    "RequestDenied",
	RuleFailed:    "RequestFailed",
	RuleRefused:   "CertificateRefused",
	RuleCollected: "RequestCollected",
	RuleForeign:   "RequestNotOurs",
}

// findingReasons are the events of what is wrong for longer than a moment. How
// the last attempt failed is not among them: that is told when it happens.
var findingReasons = map[string]string{
	RuleNeverApproved:   "ApprovalAwaited",
	RuleNeverSigned:     "RequestNotSigned",
	RuleStale:           "RequestNotWanted",
	RuleHeldBack:        "RequestHeldBack",
	RuleBudget:          "IssuanceBudget",
	RuleOverdue:         "CertificateOverdue",
	RuleExpired:         "CertificateExpired",
	RuleBroken:          "CertificateBroken",
	RuleSecretType:      "SecretUnusable",
	RuleSecretImmutable: "SecretUnusable",
	RuleSecretTaken:     "SecretUnusable",
	RuleSecretForeign:   "SecretUnusable",
	RuleTrustUnreadable: "TrustUnreadable",
	RuleNamesMissing:    "NamesUnknown",
	RuleNamesUnusable:   "NamesUnknown",
	RulePermission:      "PermissionDenied",
}

// Event is the finding as an event; false for those of which none is made.
func (f Finding) Event() (Event, bool) {
	reason, told := findingReasons[f.Rule]
	if !told {
		return Event{}, false
	}
	message := f.Summary
	if f.Remedy != "" {
		message += ". What to do: " + f.Remedy
	}
	return Event{Warning: true, Reason: reason, Message: message}, true
}
