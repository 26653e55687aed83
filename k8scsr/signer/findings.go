package signer

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

func (a *authority) subject() string { return "signer " + a.name() }

func (a *authority) secret() string { return a.Namespace + "/" + a.Secret }

// unusable is a CA with which nothing can be signed.
func (a *authority) unusable(problem string) k8scsr.Finding {
	return k8scsr.Finding{
		Rule: k8scsr.RuleSignerCAUnusable, Severity: k8scsr.Critical, Subject: a.subject(),
		Summary:  fmt.Sprintf("nothing is signed, since the CA in Secret %s cannot be used: %s", a.secret(), problem),
		Evidence: fmt.Sprintf("entries %q and %q", a.CertificateKey, a.KeyKey),
		Remedy:   fmt.Sprintf("put a CA's certificate and its key there (kubectl -n %s create secret tls %s --cert=… --key=…), or correct caSecret; approved requests wait for it", a.Namespace, a.Secret),
		Citation: "RFC 5280 sections 4.2.1.3, 4.2.1.9 and 6.1",
	}
}

// ends is a CA that is to be replaced.
func (a *authority) ends(ca *loaded, now time.Time) *k8scsr.Finding {
	severity, reason := ca.Ends(a.Policy.MaxLifetime, now)
	if severity == "" {
		return nil
	}
	return &k8scsr.Finding{
		Rule: k8scsr.RuleSignerCAExpires, Severity: severity, Subject: a.subject(),
		Summary:  fmt.Sprintf("the CA in Secret %s %s", a.secret(), reason),
		Evidence: fmt.Sprintf("valid %s to %s; certificates of up to %v", stamp(ca.Certificate.NotBefore), stamp(ca.Certificate.NotAfter), a.Policy.MaxLifetime),
		Remedy:   "make a new CA; have all who trust this one trust both; then put the new one into the Secret, wait until every certificate is renewed under it, and take the old one out of the trust bundles",
		Citation: "RFC 5280 section 4.1.2.5",
	}
}

// refused are requests that somebody approved and that get no certificate.
func (a *authority) refused() *k8scsr.Finding {
	t := a.scan.done
	if t.failed+t.unwell == 0 {
		return nil
	}
	summary := fmt.Sprintf("%d approved requests were refused", t.failed)
	if t.unwell > 0 {
		summary += fmt.Sprintf(", and %d more could not be answered", t.unwell)
	}
	return &k8scsr.Finding{
		Rule: k8scsr.RuleSignerRefused, Severity: k8scsr.Warning, Subject: a.subject(), Summary: summary,
		Evidence: strings.Join(t.examples, "; "),
		Remedy:   "see the reason on each request (kubectl describe csr NAME): either its approver lets through what the signer must not sign, or allow, usages or maxLifetime of the signer are too narrow; the cluster removes such a request after an hour",
		Citation: "Kubernetes API certificates.k8s.io/v1, CertificateSigningRequest, condition Failed",
	}
}

// keep are the findings that a look which failed does not settle: all but those
// about looking.
func (a *authority) keep() []k8scsr.Finding {
	return slices.DeleteFunc(slices.Clone(a.found), func(f k8scsr.Finding) bool {
		return f.Rule == k8scsr.RuleSignerUnknown || f.Rule == k8scsr.RulePermission
	})
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
