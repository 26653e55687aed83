package config

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
)

const signerExample = "pkiwarden.io/consul"

// givenUsages are those that a signer of ours gives: what a server or a client
// needs.
var givenUsages = []string{"digital signature", "content commitment", "key encipherment", "key agreement", "data encipherment", "server auth", "client auth"}

// checkSigners checks each signer, and that its CA is nobody else's Secret. What
// the policy comes to is the domain's to check.
func (d *decoder) checkSigners(signers []Signer, certificates Certificates) {
	names := map[string]int{}
	for i := range signers {
		s, at := &signers[i], fmt.Sprintf("signers[%d]", i)
		d.checkSignerName(at+".name", s.Name)
		if first, twice := names[s.Name]; twice && s.Name != "" {
			d.bad(at+".name", "signers[%d] has the name %s already", first, quote(s.Name))
		} else {
			names[s.Name] = i
		}
		d.checkCASecret(at+".caSecret", &s.CASecret, certificates)
		const least, most = 600 * time.Second, math.MaxInt32 * time.Second
		if d.sound(at+".maxLifetime") && (s.MaxLifetime < least || s.MaxLifetime > most) {
			d.bad(at+".maxLifetime", "expected 600s to %ds, which is what a Kubernetes request can ask for, found %s", math.MaxInt32, Span(s.MaxLifetime))
		}
		d.checkGivenUsages(at+".usages", s.Usages)
		d.checkAllow(at+".allow", &s.Allow)
	}
}

func (d *decoder) checkSignerName(at, name string) {
	if !d.require(at, name, signerExample) || !d.sound(at) {
		return
	}
	domain, path, _ := strings.Cut(name, "/")
	switch {
	case domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io"):
		d.bad(at, "names under kubernetes.io belong to Kubernetes' own signers, found %s; use a domain of yours, such as %s", quote(name), signerExample)
	case !strings.Contains(domain, ".") || len(validation.IsDNS1123Subdomain(domain)) > 0 || len(validation.IsDNS1123Subdomain(path)) > 0:
		d.bad(at, "expected a signer name, DOMAIN/NAME such as %s, found %s", signerExample, quote(name))
	}
}

// checkCASecret holds a CA apart from what certificates are written to: its own
// key would be overwritten by a leaf's. Where one of the two names its namespace
// and the other leaves it to the pod, that is told as soon as the pod's is known.
func (d *decoder) checkCASecret(at string, s *CASecret, certificates Certificates) {
	if s.Namespace != "" {
		d.name(at+".namespace", s.Namespace, "consul", validation.IsDNS1123Label)
	}
	d.name(at+".name", s.Name, "consul-ca", validation.IsDNS1123Subdomain)
	d.name(at+".certificate", s.Certificate, "tls.crt", validation.IsConfigMapKey)
	d.name(at+".key", s.Key, "tls.key", validation.IsConfigMapKey)
	if s.Certificate == s.Key && d.sound(at+".certificate", at+".key") {
		d.bad(at, "expected two different keys, found %q for certificate and key", s.Key)
	}
	secret := s.Namespace + "/" + s.Name
	if s.Namespace == "" {
		secret = s.Name + " of the pod's own namespace"
	}
	for i, c := range certificates.All() {
		if s.Namespace != c.Secret.Namespace || s.Name == "" {
			continue
		}
		switch s.Name {
		case c.Secret.Name:
			d.bad(at, "the Secret %s is where certificates[%d] is written to; a CA needs one of its own", secret, i)
		case c.Secret.Name + "-next":
			d.bad(at, "the Secret %s holds the next key of certificates[%d]; a CA needs one of its own", secret, i)
		}
	}
}

func (d *decoder) checkGivenUsages(at string, list []string) {
	if !d.sound(at) {
		return
	}
	if len(list) == 0 {
		d.bad(at, "expected at least one usage, found none")
	}
	for i, usage := range list {
		here := fmt.Sprintf("%s[%d]", at, i)
		if !slices.Contains(givenUsages, usage) {
			hint := ""
			if meant := Closest(usage, givenUsages); meant != "" {
				hint = fmt.Sprintf("; did you mean %q?", meant)
			}
			d.bad(here, "expected a usage of servers and clients, one of %s, found %s%s", strings.Join(givenUsages, ", "), quote(usage), hint)
		} else if slices.Index(list, usage) < i {
			d.bad(here, "%q is listed twice", usage)
		}
	}
}

func (d *decoder) checkAllow(at string, a *Allow) {
	if !d.sound(at, at+".dnsNames", at+".ipAddresses") {
		return
	}
	if len(a.DNSNames)+len(a.IPAddresses) == 0 {
		d.bad(at, "expected dnsNames or ipAddresses, found neither: what is not allowed is not signed, so that nothing would be")
	}
	for i, pattern := range a.DNSNames {
		here := fmt.Sprintf("%s.dnsNames[%d]", at, i)
		rule := validation.IsDNS1123Subdomain
		if strings.HasPrefix(pattern, "*") {
			rule = validation.IsWildcardDNS1123Subdomain
		}
		if len(rule(pattern)) > 0 {
			d.bad(here, "expected a DNS name such as server.dc1.consul, or *.SUFFIX for one label before it, in lower case, found %s", quote(pattern))
		} else if slices.Index(a.DNSNames, pattern) < i {
			d.bad(here, "%q is listed twice", pattern)
		}
	}
	for i, prefix := range a.IPAddresses {
		if here := fmt.Sprintf("%s.ipAddresses[%d]", at, i); slices.Index(a.IPAddresses, prefix) < i && d.sound(here) {
			d.bad(here, "%s is listed twice", prefix)
		}
	}
}
