package k8scsr

import (
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// SigningReason is why a request is not signed. The list is closed.
type SigningReason string

// The reasons of a SigningRefusal. NotAwaiting and BadAuthority say nothing
// against the request, which is left as it is; the others are what the policy or
// the CA forbids, and hold for this request for ever.
const (
	NotAwaiting      SigningReason = "not-awaiting"  // not approved, or decided, or of another signer
	BadAuthority     SigningReason = "bad-authority" // the CA cannot sign now
	OversizeRequest  SigningReason = "too-large"
	MalformedRequest SigningReason = "malformed" // no single PKCS #10 request, or its signature is not valid
	BadKey           SigningReason = "bad-key"   // kind, strength, or the CA's own
	BadSubject       SigningReason = "bad-subject"
	BadName          SigningReason = "bad-name" // a name that is not allowed, or of a kind that is not, or none
	BadUsage         SigningReason = "bad-usage"
	BadExtension     SigningReason = "bad-extension"
	BadLifetime      SigningReason = "bad-lifetime"
	Constrained      SigningReason = "constrained" // the CA's own constraints (RFC 5280 sections 4.2.1.10 and 4.2.1.12) forbid it
)

// SigningRefusal is the error of a request that is not signed. Its detail may
// hold what the requester wrote: show it through Plain.
type SigningRefusal struct {
	Reason SigningReason
	Detail string
}

func (r *SigningRefusal) Error() string { return string(r.Reason) + ": " + r.Detail }

// Final tells that the request can never be signed under this policy, so that
// its requester is to be told.
func (r *SigningRefusal) Final() bool { return r.Reason != NotAwaiting && r.Reason != BadAuthority }

func refuseToSign(reason SigningReason, format string, args ...any) *SigningRefusal {
	return &SigningRefusal{reason, fmt.Sprintf(format, args...)}
}

// SigningPolicy says what a signer puts into certificates. Everything that it
// does not name is refused; the zero value signs nothing.
type SigningPolicy struct {
	Signer      string        // the one signer name that it is for
	MaxLifetime time.Duration // whole seconds, at least ten minutes
	Usages      []string      // as the API names them; a request has some of these and no others

	// DNSNames are what certificates may name: a name as it is, or "*.suffix",
	// which stands for the names with exactly one label before the suffix. A
	// request for the wildcard itself is granted where the list has exactly that
	// one: "*.example.com" in a certificate is good for the same names as here.
	DNSNames    []string
	IPAddresses []netip.Prefix
}

// Validate tells everything that is wrong with the policy, joined, each with its
// remedy.
func (p SigningPolicy) Validate() error {
	var problems []error
	add := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("signer %s: "+format, append([]any{p.Signer}, args...)...))
	}
	domain, path, _ := strings.Cut(p.Signer, "/")
	switch {
	case domain == "" || path == "" || !strings.Contains(domain, "."):
		add("its name is not of the form domain.example/name")
	case domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io"):
		add("the names under kubernetes.io belong to Kubernetes' own signers: use a domain of yours")
	}
	if p.MaxLifetime < minLifetime || p.MaxLifetime > maxLifetime || p.MaxLifetime%time.Second != 0 {
		add("maxLifetime: %v is not between %v and %v in whole seconds, which is what a request can ask for", p.MaxLifetime, minLifetime, maxLifetime)
	}
	for _, name := range p.Usages {
		if _, known := usages[name]; !known {
			add("usages: %q is not one that a serving or client certificate may carry: use %s", name, usageNames())
		}
	}
	if problem := unlimitedUse(p.Usages); problem != "" {
		add("usages: %s", problem)
	}
	for _, pattern := range p.DNSNames {
		if err := checkDNSName(pattern); err != nil {
			add("allow.dnsNames: %q %w; a pattern is a name, or *.suffix for one label before it", pattern, err)
		}
	}
	for _, prefix := range p.IPAddresses {
		if !prefix.IsValid() || prefix.Addr().Is4In6() || prefix != prefix.Masked() {
			add("allow.ipAddresses: %v is not a prefix such as 10.0.0.0/8", prefix)
		}
	}
	if len(p.DNSNames)+len(p.IPAddresses) == 0 {
		add("allow: it is empty, so that nothing is ever signed: list the DNS names and IP addresses that certificates may have")
	}
	return errors.Join(problems...)
}

// backdate is how far before now a certificate begins, for clients whose clock is
// late, as kube-controller-manager does (pkg/controller/certificates/signer).
const backdate = 5 * time.Minute

// shortLived is below which the backdating is added to the lifetime and not taken
// from it, as there: it would be more than a hundredth of it.
const shortLived = 8 * time.Hour

// serialBits is what fits into 20 octets as a positive number (RFC 5280 section
// 4.1.2.2); fewer than leastSerialBits were not drawn as they should have been.
const (
	serialBits      = 159
	leastSerialBits = 64
)

// Template is the certificate to be signed for the request: what the policy
// allows of what is asked, and nothing that the requester encoded. The serial is
// drawn by the caller, 128 to 159 random bits.
//
// It ends at the earliest of what is asked, MaxLifetime and the end of the CA or of one above it. It
// begins five minutes before now, but not before the CA; where it is for less
// than eight hours, these minutes come on top.
//
// An error is a *SigningRefusal.
func (p SigningPolicy) Template(r Request, ca SigningCA, serial *big.Int, now time.Time) (*x509.Certificate, error) {
	switch {
	case r.Signer != p.Signer || p.Signer == "":
		return nil, refuseToSign(NotAwaiting, "its signer is %q, not %q", r.Signer, p.Signer)
	case !r.AwaitsSigner():
		return nil, refuseToSign(NotAwaiting, "it is not approved, or decided already")
	case r.UID == "" || r.ResourceVersion == "":
		return nil, refuseToSign(NotAwaiting, "the version that was looked at is not known")
	case serial == nil || serial.Sign() <= 0 || serial.BitLen() > serialBits || serial.BitLen() < leastSerialBits:
		return nil, refuseToSign(BadAuthority, "the serial number drawn is no random one of at most %d bits", serialBits)
	}
	if err := ca.Usable(now); err != nil {
		return nil, refuseToSign(BadAuthority, "%v", err)
	}
	wish, refusal := readWish(r)
	if refusal == nil {
		refusal = p.refusal(wish)
	}
	if refusal == nil {
		refusal = ca.refusal(wish)
	}
	if refusal != nil {
		return nil, refusal
	}
	lifetime := p.MaxLifetime
	if s := r.ExpirationSeconds; s != nil {
		asked := time.Duration(*s) * time.Second
		if asked < minLifetime {
			return nil, refuseToSign(BadLifetime, "it asks for %v, less than the %v that the API accepts", asked, minLifetime)
		}
		lifetime = min(lifetime, asked)
	}
	template := wish.certificate()
	template.SerialNumber = new(big.Int).Set(serial)
	template.NotBefore, template.NotAfter = ca.validity(lifetime, now)
	template.AuthorityKeyId = ca.keyID()
	return template, nil
}

// AwaitsSigner tells whether the request is approved and nothing else yet.
func (r Request) AwaitsSigner() bool { return r.Approved && r.Open() }

func (a SigningCA) validity(lifetime time.Duration, now time.Time) (from, to time.Time) {
	now = now.UTC().Truncate(time.Second)
	from, to = now.Add(-backdate), now.Add(lifetime)
	if lifetime >= shortLived {
		to = to.Add(-backdate)
	}
	if ca := a.Certificate; from.Before(ca.NotBefore) {
		from = ca.NotBefore
	}
	if end := a.NotAfter(); to.After(end) {
		to = end
	}
	return from, to
}

// certificate is the wish as a certificate, encoded anew.
func (w wish) certificate() *x509.Certificate {
	out := &x509.Certificate{
		Subject: pkix.Name{CommonName: w.commonName}, DNSNames: w.dnsNames,
		BasicConstraintsValid: true, IsCA: false,
		PublicKey: w.key, SubjectKeyId: keyID(w.key),
	}
	for _, ip := range w.ips {
		out.IPAddresses = append(out.IPAddresses, net.IP(ip.AsSlice()))
	}
	out.KeyUsage, out.ExtKeyUsage = Spec{Usages: sorted(w.usages)}.wantedUsages()
	return out
}

// keyID is the first 160 bits of the SHA-256 of the key's bits (RFC 7093 section
// 2, method 1), nil for a key that cannot be encoded.
func keyID(public any) []byte {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil
	}
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		return nil
	}
	sum := sha256.Sum256(info.Key.Bytes)
	return sum[:20]
}

// Refuses tells, in words, everything for which a signer with this policy would
// not sign what the Spec asks for, or would not give it in full. Names that are
// drawn from objects are not known here.
func (p SigningPolicy) Refuses(s Spec) []string {
	w := wish{commonName: s.CommonName, dnsNames: s.DNSNames, ips: s.IPAddresses, usages: s.Usages, namesFollow: s.NamesFollow}
	for _, o := range s.Organizations {
		w.otherSubject = append(w.otherSubject, "organization "+o)
	}
	for _, uri := range s.URIs {
		w.otherNames = append(w.otherNames, "URI "+uri)
	}
	var out []string
	for _, refusal := range p.refusals(w) {
		out = append(out, refusal.Detail)
	}
	if s.Lifetime > p.MaxLifetime {
		out = append(out, fmt.Sprintf("it asks for a lifetime of %v, and the signer grants %v at most", s.Lifetime, p.MaxLifetime))
	}
	return slices.Compact(out)
}
