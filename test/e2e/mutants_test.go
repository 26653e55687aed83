package e2e

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"net"
	"net/url"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// mutant is a good request with one thing changed.
type mutant struct {
	name string
	way  route
	edit func(*forged) error
	// invalid: the API server itself does not take it.
	invalid bool
}

// longest sorts what takes longest first: those that pkiwarden cannot deny, and
// asks again a minute after.
func (m *mutant) longest() string {
	for _, begin := range []string{"key-", "pem-", "another-name", "signer-"} {
		if strings.HasPrefix(m.name, begin) {
			return "1"
		}
	}
	if m.way == swapped {
		return "2"
	}
	return "0"
}

// read takes the content of a PEM request apart.
func (f *forged) read(text []byte) error {
	block, _ := pem.Decode(text)
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return err
	}
	f.content = &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: parsed.Subject.CommonName, Organization: parsed.Subject.Organization},
		DNSNames: parsed.DNSNames, IPAddresses: parsed.IPAddresses, URIs: parsed.URIs,
		RawTBSCertificateRequest: parsed.RawTBSCertificateRequest,
	}
	return nil
}

// sign makes the PEM request of the content.
func (f *forged) sign(key crypto.Signer) error {
	der, err := x509.CreateCertificateRequest(rand.Reader, f.content, key)
	if err != nil {
		return err
	}
	f.csr.Spec.Request = requestPEM(der)
	return nil
}

func requestPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// The kinds of edits.

func spec(edit func(*certificatesv1.CertificateSigningRequestSpec)) func(*forged) error {
	return func(f *forged) error { edit(&f.csr.Spec); return nil }
}

func by(edit func(*identity)) func(*forged) error {
	return func(f *forged) error { edit(&f.who); return nil }
}

func content(edit func(*x509.CertificateRequest)) func(*forged) error {
	return func(f *forged) error { edit(f.content); return f.sign(f.key) }
}

func subject(edit func(*pkix.Name)) func(*forged) error {
	return content(func(c *x509.CertificateRequest) { edit(&c.Subject) })
}

func extension(oid asn1.ObjectIdentifier, critical bool, value any) func(*forged) error {
	der, err := asn1.Marshal(value)
	return func(f *forged) error {
		if err != nil {
			return err
		}
		f.content.ExtraExtensions = append(f.content.ExtraExtensions, pkix.Extension{Id: oid, Critical: critical, Value: der})
		return f.sign(f.key)
	}
}

func otherKey(make func() (crypto.Signer, error)) func(*forged) error {
	return func(f *forged) error {
		key, err := make()
		if err != nil {
			return err
		}
		return f.sign(key)
	}
}

func encoded(edit func([]byte) []byte) func(*forged) error {
	return func(f *forged) error { f.csr.Spec.Request = edit(f.csr.Spec.Request); return nil }
}

// info is a CertificationRequestInfo (RFC 2986 section 4.1).
type info struct {
	Version    int
	Subject    asn1.RawValue
	Key        asn1.RawValue
	Attributes []asn1.RawValue `asn1:"tag:0"`
}

// octets changes what crypto/x509 has no field for. It is signed again, with
// SHA-256.
func octets(edit func(*info) error) func(*forged) error {
	return func(f *forged) error {
		var i info
		if _, err := asn1.Unmarshal(f.content.RawTBSCertificateRequest, &i); err != nil {
			return err
		}
		if err := edit(&i); err != nil {
			return err
		}
		tbs, err := asn1.Marshal(i)
		if err != nil {
			return err
		}
		return f.signOctets(tbs, crypto.SHA256, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2})
	}
}

func (f *forged) signOctets(tbs []byte, hash crypto.Hash, algorithm asn1.ObjectIdentifier) error {
	h := hash.New()
	h.Write(tbs)
	signature, err := f.key.Sign(rand.Reader, h.Sum(nil), hash)
	if err != nil {
		return err
	}
	der, err := asn1.Marshal(struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{asn1.RawValue{FullBytes: tbs}, pkix.AlgorithmIdentifier{Algorithm: algorithm}, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}})
	if err != nil {
		return err
	}
	f.csr.Spec.Request = requestPEM(der)
	return nil
}

// names changes the list of alternative names as it is encoded.
func names(critical bool, edit func([]asn1.RawValue) []asn1.RawValue) func(*forged) error {
	return func(f *forged) error {
		parsed, err := x509.ParseCertificateRequest(pemBytes(f.csr.Spec.Request))
		if err != nil {
			return err
		}
		var list []asn1.RawValue
		if _, err := asn1.Unmarshal(parsed.Extensions[0].Value, &list); err != nil {
			return err
		}
		return extension(parsed.Extensions[0].Id, critical, edit(list))(f)
	}
}

func pemBytes(text []byte) []byte {
	block, _ := pem.Decode(text)
	return block.Bytes
}

func name(tag int, compound bool, value []byte) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, IsCompound: compound, Bytes: value}
}

func addName(n asn1.RawValue) func(*forged) error {
	return names(false, func(list []asn1.RawValue) []asn1.RawValue { return append(list, n) })
}

var (
	commonName   = asn1.ObjectIdentifier{2, 5, 4, 3}
	organization = asn1.ObjectIdentifier{2, 5, 4, 10}
)

// rdnSequence is a subject, octet for octet.
func rdnSequence(sets ...pkix.RelativeDistinguishedNameSET) (asn1.RawValue, error) {
	der, err := asn1.Marshal(pkix.RDNSequence(sets))
	return asn1.RawValue{FullBytes: der}, err
}

func rdn(pairs ...pkix.AttributeTypeAndValue) pkix.RelativeDistinguishedNameSET { return pairs }

func pair(oid asn1.ObjectIdentifier, value any) pkix.AttributeTypeAndValue {
	return pkix.AttributeTypeAndValue{Type: oid, Value: value}
}

func setSubject(sets ...pkix.RelativeDistinguishedNameSET) func(*forged) error {
	return octets(func(i *info) (err error) {
		i.Subject, err = rdnSequence(sets...)
		return err
	})
}

func utf8String(s string) asn1.RawValue {
	return asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(s)}
}

// attribute adds an attribute to the request that is no list of extensions.
func attribute(oid asn1.ObjectIdentifier, value any) func(*forged) error {
	return octets(func(i *info) error {
		der, err := asn1.Marshal(struct {
			Type   asn1.ObjectIdentifier
			Values []any `asn1:"set"`
		}{oid, []any{value}})
		i.Attributes = append(i.Attributes, asn1.RawValue{FullBytes: der})
		return err
	})
}

func weakHash(f *forged) error {
	return f.signOctets(f.content.RawTBSCertificateRequest, crypto.SHA1, asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 1})
}

func ecdsaOn(curve elliptic.Curve) func() (crypto.Signer, error) {
	return func() (crypto.Signer, error) { return ecdsa.GenerateKey(curve, rand.Reader) }
}

func rsaOf(bits int) func() (crypto.Signer, error) {
	return func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, bits) }
}

// mutants are all of the request that [rich] declares. Those who make them are
// given by name: the tenants are real accounts with tokens of their own.
func mutants(tenants map[string]identity) []*mutant {
	type list = []string
	usages := func(edit func([]certificatesv1.KeyUsage) []certificatesv1.KeyUsage) func(*forged) error {
		return spec(func(s *certificatesv1.CertificateSigningRequestSpec) { s.Usages = edit(s.Usages) })
	}
	exchange := func(old, with certificatesv1.KeyUsage) func(*forged) error {
		return usages(func(u []certificatesv1.KeyUsage) []certificatesv1.KeyUsage {
			u[slices.Index(u, old)] = with
			return u
		})
	}
	add := func(with certificatesv1.KeyUsage) func(*forged) error {
		return usages(func(u []certificatesv1.KeyUsage) []certificatesv1.KeyUsage { return append(u, with) })
	}
	signedBy := func(name string) func(*forged) error {
		return spec(func(s *certificatesv1.CertificateSigningRequestSpec) { s.SignerName = name })
	}
	lasting := func(seconds *int32) func(*forged) error {
		return spec(func(s *certificatesv1.CertificateSigningRequestSpec) { s.ExpirationSeconds = seconds })
	}
	seconds := func(n int32) *int32 { return &n }
	tenant := func(name string) func(*forged) error {
		return by(func(i *identity) { *i = tenants[name] })
	}
	dns := func(edit func(list) list) func(*forged) error {
		return content(func(c *x509.CertificateRequest) { c.DNSNames = edit(slices.Clone(c.DNSNames)) })
	}
	dnsAdd := func(name string) func(*forged) error { return dns(func(l list) list { return append(l, name) }) }
	dnsSet := func(n int, name string) func(*forged) error {
		return dns(func(l list) list { l[n] = name; return l })
	}
	ips := func(edit func([]net.IP) []net.IP) func(*forged) error {
		return content(func(c *x509.CertificateRequest) { c.IPAddresses = edit(slices.Clone(c.IPAddresses)) })
	}
	uris := func(raw ...string) func(*forged) error {
		return content(func(c *x509.CertificateRequest) {
			c.URIs = nil
			for _, r := range raw {
				u, _ := url.Parse(r)
				c.URIs = append(c.URIs, u)
			}
		})
	}
	extra := func(oid asn1.ObjectIdentifier, value string) func(*forged) error {
		return subject(func(n *pkix.Name) { n.ExtraNames = []pkix.AttributeTypeAndValue{{Type: oid, Value: value}} })
	}
	upn, _ := asn1.Marshal(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3})

	all := []*mutant{
		// Who asks.
		{name: "by-another-account", way: taken, edit: tenant("tenant")},
		{name: "by-the-account-of-another-namespace", way: taken, edit: tenant("namesake")},
		{name: "by-our-account-in-another-pod", way: taken, edit: tenant("intruder")},
		{name: "by-our-account-in-no-pod", way: taken, edit: tenant("podless")},
		{name: "by-the-administrator", way: taken, edit: by(func(i *identity) { *i = identity{user: "admin", groups: []string{"system:masters"}} })},
		{name: "by-our-account-made-anew", way: taken, edit: by(func(i *identity) { i.uid = "5c0ffee5-0000-4000-8000-000000000000" })},
		{name: "by-our-account-without-uid", way: taken, edit: by(func(i *identity) { i.uid = "" })},
		{name: "by-an-account-of-a-longer-name", way: taken, edit: by(func(i *identity) { i.user += "2" })},
		{name: "by-a-user-of-our-accounts-name", way: taken, edit: by(func(i *identity) { i.user = "pkiwarden" })},
		{name: "by-a-node", way: taken, edit: by(func(i *identity) {
			i.user, i.groups = "system:node:a", []string{"system:nodes", "system:authenticated"}
		})},
		{name: "from-a-pod-of-another-case", way: taken, edit: by(func(i *identity) { i.pods = []string{strings.ToUpper(i.pods[0])} })},
		{name: "from-two-pods", way: taken, edit: by(func(i *identity) { i.pods = []string{i.pods[0], "5c0ffee5-0000-4000-8000-000000000000"} })},
		{name: "from-our-pod-twice", way: taken, edit: by(func(i *identity) { i.pods = []string{i.pods[0], i.pods[0]} })},

		// What is asked for, around the PKCS #10 request.
		{name: "signer-of-nodes", way: taken, edit: signedBy("kubernetes.io/kubelet-serving")},
		{name: "signer-of-clients", way: inFlight, edit: signedBy("kubernetes.io/kube-apiserver-client")},
		{name: "signer-of-kubelets", way: taken, edit: signedBy("kubernetes.io/kube-apiserver-client-kubelet")},
		{name: "signer-next-to-ours", way: inFlight, edit: signedBy("example.com/serving2")},
		{name: "signer-of-the-name-elsewhere", way: taken, edit: signedBy("example.org/serving")},
		{name: "usage-added", way: inFlight, edit: add(certificatesv1.UsageKeyEncipherment)},
		{name: "usage-any-added", way: taken, edit: add(certificatesv1.UsageAny)},
		{name: "usage-cert-sign-added", way: inFlight, edit: add(certificatesv1.UsageCertSign)},
		{name: "usage-crl-sign-added", way: taken, edit: add(certificatesv1.UsageCRLSign)},
		{name: "usage-missing", way: inFlight, edit: usages(func(u []certificatesv1.KeyUsage) []certificatesv1.KeyUsage { return u[:len(u)-1] })},
		{name: "usage-exchanged", way: taken, edit: exchange(certificatesv1.UsageClientAuth, certificatesv1.UsageCodeSigning)},
		{name: "usage-of-another-word", way: taken, edit: exchange(certificatesv1.UsageDigitalSignature, certificatesv1.UsageSigning)},
		{name: "lifetime-longer", way: inFlight, edit: lasting(seconds(3601))},
		{name: "lifetime-shorter", way: taken, edit: lasting(seconds(600))},
		{name: "lifetime-longest", way: taken, edit: lasting(seconds(1<<31 - 1))},
		{name: "lifetime-left-to-the-signer", way: inFlight, edit: lasting(nil)},
		{name: "another-name", way: inFlight, edit: func(f *forged) error { f.csr.Name += "x"; return nil }},
		{name: "only-our-label", way: labelled},
		{name: "only-our-label-by-a-tenant", way: labelled, edit: tenant("tenant")},

		// The subject.
		{name: "cn-other", way: inFlight, edit: subject(func(n *pkix.Name) { n.CommonName = "root" })},
		{name: "cn-of-another-case", way: taken, edit: subject(func(n *pkix.Name) { n.CommonName = "Vault" })},
		{name: "cn-absent", way: taken, edit: subject(func(n *pkix.Name) { n.CommonName = "" })},
		{name: "cn-of-a-node", way: taken, edit: subject(func(n *pkix.Name) { n.CommonName = "system:node:vault" })},
		{name: "cn-with-a-space", way: taken, edit: subject(func(n *pkix.Name) { n.CommonName = "vault " })},
		{name: "cn-twice", way: taken, edit: extra(commonName, "root")},
		{name: "cn-of-another-encoding", way: taken, edit: setSubject(rdn(pair(organization, "ops"), pair(organization, "security")), rdn(pair(commonName, utf8String("vault"))))},
		{name: "o-added", way: inFlight, edit: subject(func(n *pkix.Name) { n.Organization = append(n.Organization, "system:masters") })},
		{name: "o-missing", way: taken, edit: subject(func(n *pkix.Name) { n.Organization = list{"ops"} })},
		{name: "o-none", way: taken, edit: subject(func(n *pkix.Name) { n.Organization = nil })},
		{name: "o-twice", way: taken, edit: subject(func(n *pkix.Name) { n.Organization = list{"ops", "ops", "security"} })},
		{name: "o-of-another-case", way: taken, edit: subject(func(n *pkix.Name) { n.Organization = list{"OPS", "security"} })},
		{name: "o-apart", way: taken, edit: setSubject(rdn(pair(organization, "ops")), rdn(pair(organization, "security")), rdn(pair(commonName, "vault")))},
		{name: "o-behind-cn", way: taken, edit: setSubject(rdn(pair(commonName, "vault")), rdn(pair(organization, "ops"), pair(organization, "security")))},
		{name: "ou-added", way: taken, edit: subject(func(n *pkix.Name) { n.OrganizationalUnit = list{"x"} })},
		{name: "country-added", way: taken, edit: subject(func(n *pkix.Name) { n.Country = list{"DE"} })},
		{name: "serial-number-added", way: taken, edit: subject(func(n *pkix.Name) { n.SerialNumber = "1" })},
		{name: "e-mail-in-the-subject", way: taken, edit: extra(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}, "a@b.example")},
		{name: "subject-empty", way: taken, edit: subject(func(n *pkix.Name) { *n = pkix.Name{} })},

		// The names.
		{name: "dns-added", way: inFlight, edit: dnsAdd("evil.example")},
		{name: "dns-missing", way: inFlight, edit: dns(func(l list) list { return l[:1] })},
		{name: "dns-none", way: taken, edit: dns(func(list) list { return nil })},
		{name: "dns-wildcard-for-a-name", way: taken, edit: dnsSet(1, "*.vault.svc")},
		{name: "dns-bare-wildcard", way: taken, edit: dnsSet(0, "*")},
		{name: "dns-higher-wildcard", way: taken, edit: dnsSet(0, "*.svc")},
		{name: "dns-second-label-wild", way: taken, edit: dnsSet(0, "*.*.vault-internal")},
		{name: "dns-of-another-case", way: taken, edit: dns(func(l list) list { l[1] = strings.ToUpper(l[1]); return l })},
		{name: "dns-with-a-dot", way: taken, edit: dns(func(l list) list { l[1] += "."; return l })},
		{name: "dns-with-nul", way: taken, edit: dns(func(l list) list { l[1] += "\x00.evil.example"; return l })},
		{name: "dns-twice", way: taken, edit: dns(func(l list) list { return append(l, l[1]) })},
		{name: "dns-in-another-order", way: taken, edit: dns(func(l list) list { slices.Reverse(l); return l })},
		{name: "dns-that-is-an-address", way: taken, edit: dnsAdd("10.0.0.1")},
		{name: "ip-added", way: inFlight, edit: ips(func(l []net.IP) []net.IP { return append(l, net.IPv4(10, 0, 0, 1)) })},
		{name: "ip-missing", way: taken, edit: ips(func(l []net.IP) []net.IP { return l[:1] })},
		{name: "ip-other", way: taken, edit: ips(func(l []net.IP) []net.IP { l[0] = net.IPv4(127, 0, 0, 2); return l })},
		{name: "ip-in-another-order", way: taken, edit: ips(func(l []net.IP) []net.IP { slices.Reverse(l); return l })},
		{name: "ip-in-sixteen-octets", way: taken, edit: names(false, func(l []asn1.RawValue) []asn1.RawValue {
			l[2].Bytes, l[2].FullBytes = net.IPv4(127, 0, 0, 1).To16(), nil
			return l
		})},
		{name: "uri-added", way: inFlight, edit: uris("spiffe://example/vault", "spiffe://example/root")},
		{name: "uri-missing", way: taken, edit: uris()},
		{name: "uri-other-path", way: taken, edit: uris("spiffe://example/root")},
		{name: "uri-other-scheme", way: taken, edit: uris("https://example/vault")},
		{name: "uri-of-another-case", way: taken, edit: uris("spiffe://EXAMPLE/vault")},
		{name: "e-mail-added", way: taken, edit: content(func(c *x509.CertificateRequest) { c.EmailAddresses = list{"a@b.example"} })},
		{name: "directory-name-added", way: taken, edit: addName(name(4, true, []byte{0x30, 0}))},
		{name: "other-name-added", way: taken, edit: addName(name(0, true, append(upn, 0xa0, 3, 0x0c, 1, 'x')))},
		{name: "registered-id-added", way: taken, edit: addName(name(8, false, []byte{0x2a}))},
		{name: "names-critical", way: taken, edit: names(true, func(l []asn1.RawValue) []asn1.RawValue { return l })},

		// Extensions and attributes.
		{name: "ca-true", way: inFlight, edit: extension(asn1.ObjectIdentifier{2, 5, 29, 19}, true, struct{ CA bool }{true})},
		{name: "ca-false", way: taken, edit: extension(asn1.ObjectIdentifier{2, 5, 29, 19}, true, struct{}{})},
		{name: "key-usage", way: taken, edit: extension(asn1.ObjectIdentifier{2, 5, 29, 15}, true, asn1.BitString{Bytes: []byte{0x80}, BitLength: 1})},
		{name: "extended-key-usage", way: taken, edit: extension(asn1.ObjectIdentifier{2, 5, 29, 37}, false, []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 3}})},
		{name: "unknown-extension", way: taken, edit: extension(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, false, "x")},
		{name: "challenge-password", way: taken, edit: attribute(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}, "secret")},
		{name: "version-2", way: taken, edit: octets(func(i *info) error { i.Version = 1; return nil })},

		// The key and the signature.
		{name: "key-other", way: taken, edit: otherKey(ecdsaOn(elliptic.P256()))},
		{name: "key-of-another-curve", way: inFlight, edit: otherKey(ecdsaOn(elliptic.P384()))},
		{name: "key-of-a-small-curve", way: taken, edit: otherKey(ecdsaOn(elliptic.P224()))},
		{name: "key-rsa", way: taken, edit: otherKey(rsaOf(2048))},
		{name: "key-rsa-weak", way: taken, edit: otherKey(rsaOf(1024))},
		{name: "key-ed25519", way: taken, edit: otherKey(func() (crypto.Signer, error) {
			_, key, err := ed25519.GenerateKey(rand.Reader)
			return key, err
		})},
		{name: "signed-with-sha1", way: taken, edit: weakHash},

		// The PEM around it.
		{name: "pem-header", way: inFlight, edit: encoded(func(b []byte) []byte {
			return bytes.Replace(b, []byte("-----\n"), []byte("-----\nX-Request: 4\n\n"), 1)
		})},
		{name: "pem-text-before", way: taken, edit: encoded(func(b []byte) []byte { return append([]byte("hello\n"), b...) })},
		{name: "pem-text-behind", way: taken, edit: encoded(func(b []byte) []byte { return append(slices.Clone(b), "hello\n"...) })},
		{name: "pem-two-blocks", way: inFlight, edit: encoded(func(b []byte) []byte { return append(slices.Clone(b), b...) })},

		// Between check and approval.
		{name: "swapped-for-the-same", way: swapped},
		{name: "swapped-cn", way: swapped, edit: subject(func(n *pkix.Name) { n.CommonName = "root" })},
		{name: "swapped-dns", way: swapped, edit: dnsAdd("evil.example")},
		{name: "swapped-ca", way: swapped, edit: extension(asn1.ObjectIdentifier{2, 5, 29, 19}, true, struct{ CA bool }{true})},
		{name: "swapped-key", way: swapped, edit: otherKey(ecdsaOn(elliptic.P256()))},
		{name: "swapped-signer", way: swapped, edit: signedBy("kubernetes.io/kube-apiserver-client")},
		{name: "swapped-usage", way: swapped, edit: add(certificatesv1.UsageCertSign)},
		{name: "swapped-by-a-tenant", way: swapped, edit: tenant("tenant")},

		// What the API server does not take.
		{name: "invalid-usage-twice", edit: add(certificatesv1.UsageServerAuth)},
		{name: "invalid-usage-unknown", edit: add("serving")},
		{name: "invalid-usages-none", edit: usages(func([]certificatesv1.KeyUsage) []certificatesv1.KeyUsage { return nil })},
		{name: "invalid-lifetime-short", edit: lasting(seconds(599))},
		{name: "invalid-lifetime-negative", edit: lasting(seconds(-1))},
		{name: "invalid-signer-legacy", edit: signedBy("kubernetes.io/legacy-unknown")},
		{name: "invalid-signer-no-path", edit: signedBy("example.com")},
		{name: "invalid-signer-empty", edit: signedBy("")},
		{name: "invalid-signature", edit: encoded(func(b []byte) []byte {
			der := pemBytes(b)
			der[len(der)-1] ^= 1
			return requestPEM(der)
		})},
		{name: "invalid-der-longer", edit: encoded(func(b []byte) []byte { return requestPEM(append(pemBytes(b), 0)) })},
		{name: "invalid-pem-type", edit: encoded(func(b []byte) []byte {
			return bytes.ReplaceAll(b, []byte("CERTIFICATE REQUEST"), []byte("NEW CERTIFICATE REQUEST"))
		})},
		{name: "invalid-der-for-pem", edit: encoded(pemBytes)},
		{name: "invalid-empty", edit: encoded(func([]byte) []byte { return nil })},
		{name: "invalid-names-twice", edit: func(f *forged) error {
			parsed, err := x509.ParseCertificateRequest(pemBytes(f.csr.Spec.Request))
			if err != nil {
				return err
			}
			f.content.ExtraExtensions = append(parsed.Extensions, parsed.Extensions...)
			return f.sign(f.key)
		}},
		{name: "invalid-ip-of-five-octets", edit: addName(name(7, false, []byte{1, 2, 3, 4, 5}))},
		{name: "invalid-masters-for-clients", edit: func(f *forged) error {
			f.csr.Spec.SignerName = "kubernetes.io/kube-apiserver-client"
			return subject(func(n *pkix.Name) { n.Organization = append(n.Organization, "system:masters") })(f)
		}},
	}
	for _, m := range all {
		m.invalid = m.way == ""
	}
	return all
}
