// Package k8scsr decides how a serving certificate is obtained through the
// Kubernetes CertificateSigningRequest API: what is wanted, what the next step
// of its lifecycle is, which request may be approved, and which answer may
// replace the certificate that is being served.
//
// It is pure: observations and the current time come in as arguments, decisions
// come out as values with a reason that a person can read. Acting on them is
// the issuer package's work.
package k8scsr

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The defaults of a Spec.
const (
	DefaultSigner     = KubeletServing
	DefaultLifetime   = 8760 * time.Hour
	DefaultRenewAt    = 0.66
	DefaultAlertAt    = 0.75
	DefaultCriticalAt = 0.9
	DefaultPatience   = 15 * time.Minute
)

// The limits that the API sets on spec.expirationSeconds.
const (
	minLifetime = 600 * time.Second
	maxLifetime = (1<<31 - 1) * time.Second
)

// Spec is one certificate as it is wanted. WithDefaults fills what is empty and
// brings the rest into canonical form; everything else in this package expects
// a Spec that went through it.
type Spec struct {
	Name string // the certificate's name in configuration, logs and metrics

	CommonName    string
	Organizations []string
	DNSNames      []string
	IPAddresses   []netip.Addr
	URIs          []string
	NamesFollow   bool // names drawn from objects are still to be added: without a name of its own it is no mistake

	Usages []string // as the API names them; default digital signature, key encipherment, server auth
	Key    Key      // default ECDSA 256
	Signer string   // default kubernetes.io/kubelet-serving

	Lifetime   time.Duration // asked for, whole seconds; default 8760h
	RenewAt    float64       // share of the lifetime granted; default 0.66
	AlertAt    float64       // default 0.75
	CriticalAt float64       // default 0.9
	Patience   time.Duration // how long a request may wait for its approval or its certificate before that is a finding; default 15m

	Windows Windows // in which renewals may begin; nil: always

	Settle time.Duration // within which all who follow the published bundle have taken up a new CA; 0: at once
	Peers  []string      // host:port of those who present the certificate; none: they are not known

	Approve bool // approve our own requests under the exact-match policy
	Paused  bool // observe and report, change nothing

	Replace Replacement // the zero value: nobody asks for one

	granted time.Duration // of the certificate in use, 0 where it is not known
}

// Replacement is what a person asks for who wants a certificate replaced now, be
// it due or not. No window puts that off, nor the pause after an attempt that had
// failed before, and the new certificate may end sooner. It holds until another
// one is in its place. The hourly limit and the signer's budget hold all the same.
type Replacement struct {
	LeafID  string // of the certificate to be replaced, see LeafID; "" for none
	AskedAt time.Time
}

// What fits into a certificate: ub-common-name and ub-organization-name of
// RFC 5280 appendix A.1, and, of the largest leaf that is accepted, what
// everything but the names leaves free.
const (
	maxCommonName   = 64 // characters, as the next
	maxOrganization = 64
	maxNames        = maxLeaf - 6500 // octets
)

// WithDefaults returns a copy in which every empty field has its documented
// default, names are sorted, lower-cased and free of duplicates, and IPv4
// addresses mapped into IPv6 are plain. For kubernetes.io/kubelet-serving an
// empty subject becomes the only kind it signs: CN system:node:NAME,
// O system:nodes; beta.eks.amazonaws.com/app-serving gets the same.
func (s Spec) WithDefaults() Spec {
	if s.Signer == "" {
		s.Signer = DefaultSigner
	}
	if nodeSubject(s.Signer) && s.CommonName == "" && len(s.Organizations) == 0 {
		s.CommonName = nodePrefix + s.Name
		s.Organizations = []string{nodesGroup}
	}
	if len(s.Usages) == 0 {
		s.Usages = []string{"digital signature", "key encipherment", "server auth"}
	}
	s.Key = s.Key.withDefaults()
	if s.Lifetime == 0 {
		s.Lifetime = DefaultLifetime
	}
	if s.RenewAt == 0 {
		s.RenewAt = DefaultRenewAt
	}
	if s.AlertAt == 0 {
		s.AlertAt = DefaultAlertAt
	}
	if s.CriticalAt == 0 {
		s.CriticalAt = DefaultCriticalAt
	}
	if s.Patience == 0 {
		s.Patience = DefaultPatience
	}

	s.Organizations = sorted(s.Organizations)
	s.URIs = sorted(s.URIs)
	s.Usages = sorted(s.Usages)
	if slices.ContainsFunc(s.DNSNames, func(name string) bool { return name != strings.ToLower(name) }) {
		lower := make([]string, len(s.DNSNames))
		for i, name := range s.DNSNames {
			lower[i] = strings.ToLower(name)
		}
		s.DNSNames = lower
	}
	s.DNSNames = sorted(s.DNSNames)
	if len(s.IPAddresses) > 0 {
		ips := make([]netip.Addr, len(s.IPAddresses))
		for i, ip := range s.IPAddresses {
			ips[i] = ip.Unmap()
		}
		slices.SortFunc(ips, netip.Addr.Compare)
		s.IPAddresses = slices.Compact(ips)
	}
	return s
}

// sorted does not change what it is given, and returns it where it is sorted: ten
// thousand certificates share their lists.
func sorted(in []string) []string {
	if slices.IsSortedFunc(in, func(a, b string) int {
		if a <= b {
			return -1 // also equal ones are to be sorted out
		}
		return 1
	}) {
		return in
	}
	out := slices.Clone(in)
	slices.Sort(out)
	return slices.Compact(out)
}

// Validate tells everything that makes the Spec impossible, joined, each with
// its remedy.
func (s Spec) Validate() error {
	var problems []error
	add := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("certificate %q: "+format, append([]any{s.Name}, args...)...))
	}
	if s.Name == "" {
		add("it has no name")
	}
	if len(s.DNSNames)+len(s.IPAddresses)+len(s.URIs) == 0 && !s.NamesFollow {
		add("it names nothing: give dnsNames, ipAddresses or uris")
	}
	for _, name := range s.DNSNames {
		if err := checkDNSName(name); err != nil {
			add("dnsNames: %q %w", name, err)
		}
	}
	for _, ip := range s.IPAddresses {
		if !ip.IsValid() || ip.Zone() != "" {
			add("ipAddresses: %q is not an address a certificate can carry: zones are local to one host", ip)
		}
	}
	for _, raw := range s.URIs {
		if u, err := url.Parse(raw); err != nil || u.Scheme == "" || !ascii(raw) {
			add("uris: %q is not an absolute URI in ASCII", raw)
		}
	}
	if length := utf8.RuneCountInString(s.CommonName); length > maxCommonName {
		add("subject: common name %q has %d characters, and a certificate carries %d (RFC 5280 appendix A.1): give a shorter one, or the certificate a shorter name", s.CommonName, length, maxCommonName)
	}
	for _, o := range s.Organizations {
		if o == "" || strings.ContainsFunc(o, unicode.IsControl) {
			add("subject: organization %q is empty or has control characters", o)
		}
		if length := utf8.RuneCountInString(o); length > maxOrganization {
			add("subject: organization %q has %d characters, and a certificate carries %d (RFC 5280 appendix A.1)", o, length, maxOrganization)
		}
	}
	if names, err := s.altNames(); err == nil && len(names) > maxNames {
		add("its %d names take %d octets, and the certificate has room for %d: wildcards stand for many", len(s.DNSNames)+len(s.IPAddresses)+len(s.URIs), len(names), maxNames)
	}
	if err := s.Key.validate(); err != nil {
		add("key: %w", err)
	}
	for _, usage := range s.Usages {
		if _, known := usages[usage]; !known {
			add("usages: %q is not one that a serving certificate may carry: use %s", usage, usageNames())
		}
	}
	if s.Lifetime < minLifetime || s.Lifetime > maxLifetime || s.Lifetime%time.Second != 0 {
		add("lifetime: %v is not between %v and %v in whole seconds, which is what the API accepts", s.Lifetime, minLifetime, maxLifetime)
	}
	if !(0 < s.RenewAt && s.RenewAt < s.AlertAt && s.AlertAt < s.CriticalAt && s.CriticalAt < 1) {
		add("renewAt %v, alertAt %v and criticalAt %v must rise, between 0 and 1", s.RenewAt, s.AlertAt, s.CriticalAt)
	}
	problems = append(problems, s.checkSigner()...)
	return errors.Join(problems...)
}

// checkDNSName accepts what RFC 6125 section 6.4.3 lets a client match: labels
// of letters, digits, hyphens and underscores, the first may be "*".
func checkDNSName(name string) error {
	if len(name) > 253 {
		return errors.New("is longer than 253 octets")
	}
	for i, label := range strings.Split(name, ".") {
		if i == 0 && label == "*" && strings.Contains(name, ".") {
			continue
		}
		if label == "" || len(label) > 63 {
			return errors.New("has a label that is empty or longer than 63 octets")
		}
		for _, c := range []byte(label) {
			if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
				return fmt.Errorf("is not a host name: %q does not belong there", string(rune(c)))
			}
		}
	}
	return nil
}

func ascii(s string) bool {
	for _, c := range []byte(s) {
		if c < 0x20 || c > 0x7e {
			return false
		}
	}
	return true
}

// ExpirationSeconds is the lifetime as spec.expirationSeconds carries it.
func (s Spec) ExpirationSeconds() int32 { return int32(s.Lifetime / time.Second) }

// Fingerprint identifies everything that a request made for the Spec carries:
// subject, names, usages, key type, signer and lifetime. Two Specs with the
// same fingerprint would make the same request, but for the key itself.
func (s Spec) Fingerprint() string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %q %q %q %q %q %d %q %d", s.CommonName, s.Organizations, s.DNSNames, s.IPAddresses,
		s.URIs, s.Usages, s.Key.Algorithm, s.Key.Size, s.Signer, s.ExpirationSeconds())
	return hex.EncodeToString(h.Sum(nil))
}

// subject is how findings name the certificate.
func (s Spec) subject() string { return "certificate " + s.Name }
