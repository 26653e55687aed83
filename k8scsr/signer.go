package k8scsr

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// The signers whose rules are known. Of any other, only the form of its name
// is checked: what it gives shows in its answer, which Validate holds against
// the Spec.
const (
	// KubeletServing is the built-in signer of serving certificates. It signs
	// only for subjects of nodes (Kubernetes, "Certificates and Certificate
	// Signing Requests", section "Kubernetes signers").
	KubeletServing = "kubernetes.io/kubelet-serving"
	// EKSAppServing is Amazon EKS' signer of serving certificates, where
	// kubelet-serving answers nobody but nodes (Amazon EKS User Guide, "Secure
	// workloads with Kubernetes certificates").
	EKSAppServing = "beta.eks.amazonaws.com/app-serving"
)

const (
	nodePrefix = "system:node:"
	nodesGroup = "system:nodes"
)

// signerRule is what a signer gives: certificates with all of the required
// usages, and no others than the required and the optional ones.
type signerRule struct {
	required, optional []string
	nodesOnly          bool // only subjects of nodes
	noURIs             bool
	hosts              bool          // wants a DNS name or an IP address
	longest            time.Duration // what is granted at most; 0: not known, it is the cluster's setting
}

var signerRules = map[string]signerRule{
	// kubernetes pkg/apis/certificates/helpers.go, ValidateKubeletServingCSR.
	KubeletServing: {
		required: []string{"digital signature", "server auth"}, optional: []string{"key encipherment"},
		nodesOnly: true, noURIs: true, hosts: true,
	},
	// The guide: any subject; subjectAltName and key usages are honoured, other
	// extensions discarded; no usage beyond these three; one year is both
	// default and maximum. That there is "server auth" is our wish: it signs
	// for servers only.
	EKSAppServing: {
		required: []string{"server auth"}, optional: []string{"digital signature", "key encipherment"},
		longest: 8760 * time.Hour,
	},
}

// nodeSubject tells whether an empty subject becomes that of a node: where the
// signer takes no other, and at EKS, which takes any, so that one configuration
// does for both.
func nodeSubject(signer string) bool { return signer == KubeletServing || signer == EKSAppServing }

// checkSigner tells what the signer does not give of what the Spec wants, why,
// and what to do instead.
func (s Spec) checkSigner() []error {
	var problems []error
	add := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("certificate %q: signer %s "+format, append([]any{s.Name, s.Signer}, args...)...))
	}
	domain, path, ok := strings.Cut(s.Signer, "/")
	if !ok || domain == "" || path == "" || !strings.Contains(domain, ".") {
		add("is not of the form domain.example/name")
		return problems
	}
	rule, known := signerRules[s.Signer]
	if domain == "kubernetes.io" && !known {
		add("does not exist or does not sign serving certificates: of the built-in signers only %s does", KubeletServing)
		return problems
	}
	if !known {
		return nil
	}
	if rule.nodesOnly && (!strings.HasPrefix(s.CommonName, nodePrefix) || !slices.Equal(s.Organizations, []string{nodesGroup})) {
		add("signs only common names that begin with %q in the organization %q, not %q in %q: leave the subject empty, or use another signer",
			nodePrefix, nodesGroup, s.CommonName, s.Organizations)
	}
	if rule.noURIs && len(s.URIs) > 0 {
		add("signs no URIs: use another signer, or leave uris out")
	}
	if rule.hosts && len(s.DNSNames)+len(s.IPAddresses) == 0 && !s.NamesFollow {
		add("wants at least one DNS name or IP address")
	}
	if problem := rule.usagesProblem(s.Usages); problem != "" {
		add("%s", problem)
	}
	if rule.longest > 0 && s.Lifetime > rule.longest {
		add("grants %v at most, not the lifetime of %v: ask for less, or use another signer", rule.longest, s.Lifetime)
	}
	return problems
}

// usagesProblem says which usages the signer does not give, or wants besides.
func (r signerRule) usagesProblem(usages []string) string {
	var extra, missing []string
	for _, usage := range usages {
		if !slices.Contains(r.required, usage) && !slices.Contains(r.optional, usage) {
			extra = append(extra, usage)
		}
	}
	for _, usage := range r.required {
		if !slices.Contains(usages, usage) {
			missing = append(missing, usage)
		}
	}
	switch {
	case slices.Contains(extra, "client auth"):
		return fmt.Sprintf("does not give %q: it signs for servers only; use another signer for these usages, for example one of your own", extra)
	case len(extra) > 0:
		return fmt.Sprintf("does not give %q, only %q with or without %q: leave them out, or use another signer for these usages", extra, r.required, r.optional)
	case len(missing) > 0:
		return fmt.Sprintf("requires the usages %q, and %q lacks %q: add them, or use another signer for these usages", r.required, usages, missing)
	}
	return ""
}
