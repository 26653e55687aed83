package deliver

import (
	"errors"
	"fmt"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// The rules of this package.
const (
	RuleNotDelivered = "certificate-not-delivered"
	RuleNotReloaded  = "certificate-not-reloaded"
	RuleNotServed    = "certificate-not-served"
	RuleNotTrusted   = "certificate-not-trusted"
)

const maxEvidence = 500 // bytes of what a peer's certificate can put into a message

// findings is the whole current set.
func (d *Deliverer) findings(deliverError error) []k8scsr.Finding {
	subject := "certificate " + d.o.Certificate
	var found []k8scsr.Finding
	if deliverError != nil {
		found = append(found, d.notDelivered(subject, deliverError))
	}
	if d.want == nil {
		return found
	}
	if d.pending && d.reloadError != nil && !errors.Is(d.reloadError, errNoServer) {
		found = append(found, k8scsr.Finding{
			Rule:     RuleNotReloaded,
			Severity: k8scsr.Critical,
			Subject:  subject,
			Summary:  "The server was not made to load the delivered certificate",
			Evidence: cut(d.reloadError.Error()),
			Remedy:   "Correct what the evidence names; until then reload the server by hand",
			Citation: "Vault command/server.go: SIGHUP reloads the listeners' certificates",
		})
	}
	for i, o := range d.seen {
		subject := subject + ", address " + d.listeners[i].address
		switch {
		case o.err != nil:
			found = append(found, k8scsr.Finding{
				Rule:     RuleNotServed,
				Severity: k8scsr.Unknown,
				Subject:  subject,
				Summary:  "Which certificate the listener presents could not be determined",
				Evidence: cut(o.err.Error()),
				Remedy:   "See that the server runs and listens on this address, or correct deliver's verify addresses",
				Citation: "RFC 8446 section 4.4.2",
			})
		case o.served != nil && !d.matches(o):
			found = append(found, d.notServed(subject, o))
		case o.served != nil && o.served.untrusted != nil:
			found = append(found, k8scsr.Finding{
				Rule:     RuleNotTrusted,
				Severity: k8scsr.Warning,
				Subject:  subject,
				Summary:  "The listener presents the stored leaf, but its clients would not trust it",
				Evidence: cut(o.served.untrusted.Error()),
				Remedy:   "Renew the certificate, correct its names, or bring the CA that issued it into the bundle",
				Citation: "RFC 5280 section 6.1, RFC 9525 section 6",
			})
		}
	}
	return found
}

func (d *Deliverer) notDelivered(subject string, err error) k8scsr.Finding {
	f := k8scsr.Finding{
		Rule:     RuleNotDelivered,
		Severity: k8scsr.Critical,
		Subject:  subject,
		Summary:  "The stored certificate did not reach this pod",
		Evidence: cut(err.Error()),
		Remedy:   "Correct what the evidence names; what was delivered before stays in place",
		Citation: "Kubernetes, Secrets: TLS Secrets",
	}
	if errors.Is(err, ErrNotYet) {
		f.Severity = k8scsr.Warning
		f.Summary = "There is no stored certificate to deliver"
		f.Remedy = "See why the certificate was not issued: its requests, their approval and their signer"
	}
	return f
}

func (d *Deliverer) notServed(subject string, o observation) k8scsr.Finding {
	f := k8scsr.Finding{
		Rule:     RuleNotServed,
		Severity: k8scsr.Critical,
		Subject:  subject,
		Summary:  "The listener does not present the stored certificate",
		Evidence: d.difference(o),
		Remedy:   "See in the server's log why it did not load the files; that it reads these files; and that this address is its listener",
		Citation: "Vault command/server.go: a listener whose reload fails keeps its old certificate",
	}
	if errors.Is(d.reloadError, errNoServer) {
		f.Evidence += fmt.Sprintf("; no process %s that listens is visible", d.o.Reload.Process)
		f.Remedy = "Set shareProcessNamespace in the pod, and reload.process to the base name of the server's executable"
	}
	return f
}

func cut(s string) string {
	if len(s) > maxEvidence {
		return s[:maxEvidence] + "…"
	}
	return s
}
