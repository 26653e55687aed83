package k8scsr

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// aSerial has 128 bits.
var aSerial = new(big.Int).SetBytes(bytes.Repeat([]byte{0xc3}, 16))

func consulPolicy() SigningPolicy {
	return SigningPolicy{
		Signer: "pkiwarden.io/consul", MaxLifetime: 240 * time.Hour,
		Usages:      []string{"digital signature", "key encipherment", "server auth", "client auth"},
		DNSNames:    []string{"server.dc1.consul", "*.server.dc1.consul", "localhost"},
		IPAddresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("fd00::/8")},
	}
}

// signing is a request that the policy allows, before it is mutated.
type signing struct {
	policy   SigningPolicy
	ca       *authority
	template *x509.CertificateRequest
	key      crypto.Signer
	request  Request
	serial   *big.Int
	now      time.Time
}

func goodSigning(t *testing.T) *signing {
	t.Helper()
	seconds := int32(86400)
	return &signing{
		policy: consulPolicy(), ca: newAuthority(t, "consul ca", nil), key: ecKey(t), serial: aSerial, now: epoch,
		template: &x509.CertificateRequest{
			Subject:     pkix.Name{CommonName: "server.dc1.consul"},
			DNSNames:    []string{"server.dc1.consul", "node-1.server.dc1.consul", "*.server.dc1.consul"},
			IPAddresses: []net.IP{net.IPv4(10, 1, 2, 3), net.ParseIP("fd00::1")},
		},
		request: Request{
			Name: "csr-1", UID: "uid-1", ResourceVersion: "7", Signer: "pkiwarden.io/consul", Approved: true,
			Usages: []string{"digital signature", "server auth", "client auth"}, ExpirationSeconds: &seconds,
		},
	}
}

func (s *signing) authority() SigningCA {
	if s.ca == nil {
		return SigningCA{}
	}
	parents := s.ca.chain
	if len(parents) > 0 {
		parents = parents[1:] // the first is the CA itself
	}
	return SigningCA{Certificate: s.ca.cert, Parents: parents}
}

// sign is all that a signer does.
func (s *signing) sign(t *testing.T) ([]byte, error) {
	t.Helper()
	if s.request.PEM == nil {
		s.request.PEM = requestPEM(t, s.template, s.key)
	}
	template, err := s.policy.Template(s.request, s.authority(), s.serial, s.now)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, s.ca.cert, template.PublicKey, s.ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return s.authority().Answer(der, template, s.now)
}

func chainOf(t *testing.T, data []byte) []*x509.Certificate {
	t.Helper()
	certs, err := parseCertificates(data)
	if err != nil {
		t.Fatal(err)
	}
	return certs
}

func TestSigning(t *testing.T) {
	s := goodSigning(t)
	answer, err := s.sign(t)
	if err != nil {
		t.Fatal(err)
	}
	certs := chainOf(t, answer)
	if len(certs) != 1 {
		t.Fatalf("%d certificates, want the leaf alone: the CA is a root", len(certs))
	}
	leaf := certs[0]
	if leaf.Subject.String() != "CN=server.dc1.consul" || !slices.Equal(leaf.DNSNames, []string{"*.server.dc1.consul", "node-1.server.dc1.consul", "server.dc1.consul"}) {
		t.Errorf("subject %v, names %q", leaf.Subject, leaf.DNSNames)
	}
	if len(leaf.IPAddresses) != 2 || !leaf.IPAddresses[0].Equal(net.IPv4(10, 1, 2, 3)) || !leaf.IPAddresses[1].Equal(net.ParseIP("fd00::1")) {
		t.Errorf("IP addresses %v", leaf.IPAddresses)
	}
	if leaf.KeyUsage != x509.KeyUsageDigitalSignature || !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}) {
		t.Errorf("usages %v %v", leaf.KeyUsage, leaf.ExtKeyUsage)
	}
	if !leaf.BasicConstraintsValid || leaf.IsCA || leaf.Version != 3 || leaf.SerialNumber.Cmp(aSerial) != 0 {
		t.Errorf("%+v", leaf)
	}
	if !leaf.NotBefore.Equal(epoch.Add(-5*time.Minute)) || !leaf.NotAfter.Equal(epoch.Add(24*time.Hour-5*time.Minute)) {
		t.Errorf("valid %v to %v", leaf.NotBefore, leaf.NotAfter)
	}
	if len(leaf.SubjectKeyId) != 20 || !bytes.Equal(leaf.AuthorityKeyId, s.ca.cert.SubjectKeyId) || len(leaf.AuthorityKeyId) == 0 {
		t.Errorf("key identifiers %x %x", leaf.SubjectKeyId, leaf.AuthorityKeyId)
	}
	if !sameKey(leaf.PublicKey, s.key.Public()) || leaf.CheckSignatureFrom(s.ca.cert) != nil {
		t.Error("key or signature is wrong")
	}
	var ids []string
	for _, ext := range leaf.Extensions {
		ids = append(ids, ext.Id.String())
	}
	slices.Sort(ids)
	if want := []string{"2.5.29.14", "2.5.29.15", "2.5.29.17", "2.5.29.19", "2.5.29.35", "2.5.29.37"}; !slices.Equal(ids, want) {
		t.Errorf("extensions %q, want %q", ids, want)
	}
}

// TestSubjectKeyIdentifier holds it against RFC 7093 section 2, method 1, computed with openssl and
// sha256sum: the first 160 bits of the hash over the key's octets.
func TestSubjectKeyIdentifier(t *testing.T) {
	block, _ := pem.Decode([]byte(`-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
`))
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(keyID(key)); got != "e744c0791320c3285460eddb523f14c88d857ada" {
		t.Errorf("got %s", got)
	}
}

// TestSigningAllows: what is less than usual, and fine.
func TestSigningAllows(t *testing.T) {
	for name, edit := range map[string]func(*signing){
		"empty subject":   func(s *signing) { s.template.Subject = pkix.Name{} },
		"addresses alone": func(s *signing) { s.template.Subject, s.template.DNSNames = pkix.Name{}, nil },
		"no lifetime":     func(s *signing) { s.request.ExpirationSeconds = nil },
		"server alone":    func(s *signing) { s.request.Usages = []string{"digital signature", "server auth"} },
		"Ed25519":         func(s *signing) { s.key = newKey(t, Key{Ed25519, 0}) },
		"P-521":           func(s *signing) { s.key = newKey(t, Key{ECDSA, 521}) },
		"RSA 2048":        func(s *signing) { s.key = newKey(t, Key{RSA, 2048}) },
		"IPv4 mapped into IPv6": func(s *signing) {
			s.template.ExtraExtensions = []pkix.Extension{sanOf(t, rawName(7, false, net.ParseIP("10.0.0.1").To16()))}
		},
		"CRLF and blank lines": func(s *signing) {
			s.request.PEM = append([]byte("\n"), bytes.ReplaceAll(requestPEM(t, s.template, s.key), []byte("\n"), []byte("\r\n"))...)
		},
		"no line end": func(s *signing) { s.request.PEM = bytes.TrimSpace(requestPEM(t, s.template, s.key)) },
		"basic constraints": func(s *signing) {
			s.template.ExtraExtensions = []pkix.Extension{extension(t, oidBasicConstraints, struct{}{})}
		},
		"critical names": func(s *signing) {
			e := sanOf(t, rawName(2, false, []byte("localhost")))
			e.Critical = true
			s.template.ExtraExtensions = []pkix.Extension{e}
		},
		"its usages as extension": func(s *signing) {
			s.template.ExtraExtensions = []pkix.Extension{extension(t, oidKeyUsage, asn1.BitString{Bytes: []byte{0x80}, BitLength: 1}),
				extension(t, oidExtKeyUsage, []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 2}})}
		},
		"CA of RSA": func(s *signing) { s.ca = rsaAuthority(t, 2048) },
		"under a permitted domain": func(s *signing) {
			s.ca = newAuthority(t, "ca", nil, func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"consul", "localhost"} })
		},
	} {
		s := goodSigning(t)
		edit(s)
		if answer, err := s.sign(t); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if leaf := chainOf(t, answer)[0]; (leaf.Subject.CommonName == "") != (s.template.Subject.CommonName == "") {
			t.Errorf("%s: subject %v", name, leaf.Subject)
		}
	}
}

func rsaAuthority(t *testing.T, bits int) *authority {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "rsa ca"}, NotBefore: epoch.AddDate(-1, 0, 0), NotAfter: epoch.AddDate(9, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	return &authority{key: key, cert: sign(t, template, template, key.Public(), key)}
}

func sanOf(t *testing.T, names ...asn1.RawValue) pkix.Extension {
	t.Helper()
	return extension(t, oidSubjectAltName, names)
}

func TestSigningRefuses(t *testing.T) {
	csr := func(edit func(*x509.CertificateRequest)) func(*signing) {
		return func(s *signing) { edit(s.template) }
	}
	request := func(edit func(*Request)) func(*signing) { return func(s *signing) { edit(&s.request) } }
	written := func(edit func([]byte) []byte) func(*signing) {
		return func(s *signing) { s.request.PEM = edit(requestPEM(t, s.template, s.key)) }
	}
	ext := func(id asn1.ObjectIdentifier, value any) func(*signing) {
		return func(s *signing) { s.template.ExtraExtensions = []pkix.Extension{extension(t, id, value)} }
	}
	extra := func(kind asn1.ObjectIdentifier, value any) func(*signing) {
		return csr(func(c *x509.CertificateRequest) {
			c.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: kind, Value: value}}
		})
	}
	san := func(names ...asn1.RawValue) func(*signing) {
		return func(s *signing) { s.template.ExtraExtensions = []pkix.Extension{sanOf(t, names...)} }
	}
	ca := func(edit func(*x509.Certificate)) func(*signing) {
		return func(s *signing) { s.ca = newAuthority(t, "consul ca", nil, edit) }
	}
	i32 := func(n int32) *int32 { return &n }
	for _, c := range []struct {
		name string
		want SigningReason
		edit func(*signing)
	}{
		{"not approved", NotAwaiting, request(func(r *Request) { r.Approved = false })},
		{"denied", NotAwaiting, request(func(r *Request) { r.Denied = true })},
		{"failed", NotAwaiting, request(func(r *Request) { r.Failed = true })},
		{"answered", NotAwaiting, request(func(r *Request) { r.Certificate = []byte("x") })},
		{"other signer", NotAwaiting, request(func(r *Request) { r.Signer = "pkiwarden.io/consul2" })},
		{"no signer", NotAwaiting, func(s *signing) { s.request.Signer, s.policy.Signer = "", "" }},
		{"no version", NotAwaiting, request(func(r *Request) { r.ResourceVersion = "" })},
		{"no UID", NotAwaiting, request(func(r *Request) { r.UID = "" })},
		{"zero policy", NotAwaiting, func(s *signing) { s.policy = SigningPolicy{} }},

		{"no serial", BadAuthority, func(s *signing) { s.serial = nil }},
		{"zero serial", BadAuthority, func(s *signing) { s.serial = new(big.Int) }},
		{"negative serial", BadAuthority, func(s *signing) { s.serial = new(big.Int).Neg(aSerial) }},
		{"short serial", BadAuthority, func(s *signing) { s.serial = big.NewInt(1 << 40) }},
		{"serial of 160 bits", BadAuthority, func(s *signing) { s.serial = new(big.Int).Lsh(big.NewInt(1), 159) }},
		{"no CA", BadAuthority, func(s *signing) { s.ca = nil }},
		{"CA is no CA", BadAuthority, ca(func(c *x509.Certificate) { c.IsCA = false })},
		{"CA without cert sign", BadAuthority, ca(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })},
		{"CA without key usage", BadAuthority, ca(func(c *x509.Certificate) { c.KeyUsage = 0 })},
		{"CA without subject", BadAuthority, ca(func(c *x509.Certificate) { c.Subject = pkix.Name{} })},
		{"CA expired", BadAuthority, ca(func(c *x509.Certificate) { c.NotAfter = epoch })},
		{"CA not yet valid", BadAuthority, ca(func(c *x509.Certificate) { c.NotBefore = epoch.Add(time.Second) })},
		{"CA about to end", BadAuthority, ca(func(c *x509.Certificate) { c.NotAfter = epoch.Add(599 * time.Second) })},
		{"CA with a weak key", BadAuthority, func(s *signing) { s.ca = rsaAuthority(t, 1024) }},

		{"too large", OversizeRequest, written(func(p []byte) []byte { return append(p, bytes.Repeat([]byte("\n"), 64<<10)...) })},
		{"empty", MalformedRequest, written(func([]byte) []byte { return []byte{} })},
		{"not PEM", MalformedRequest, written(func([]byte) []byte { return []byte("hello") })},
		{"two blocks", MalformedRequest, written(func(p []byte) []byte { return append(p, p...) })},
		{"text before", MalformedRequest, written(func(p []byte) []byte { return append([]byte("hello\n"), p...) })},
		{"text behind", MalformedRequest, written(func(p []byte) []byte { return append(p, "hello\n"...) })},
		{"header", MalformedRequest, written(func(p []byte) []byte { return bytes.Replace(p, []byte("-----\n"), []byte("-----\nA: b\n\n"), 1) })},
		{"block of another type", MalformedRequest, written(func(p []byte) []byte {
			return bytes.ReplaceAll(p, []byte("CERTIFICATE REQUEST"), []byte("CERTIFICATE"))
		})},
		{"octets behind", MalformedRequest, written(func(p []byte) []byte {
			block, _ := pem.Decode(p)
			block.Bytes = append(block.Bytes, 0)
			return pem.EncodeToMemory(block)
		})},
		{"broken signature", MalformedRequest, written(flipLastOctet)},
		{"signature of another key", MalformedRequest, written(func(p []byte) []byte { return resignedBy(t, p, ecKey(t)) })},

		{"P-224", BadKey, func(s *signing) { s.key = newKey(t, Key{ECDSA, 224}) }},
		{"RSA 1024", BadKey, func(s *signing) { s.key = newKey(t, Key{RSA, 1024}) }},
		{"RSA of exponent 3", BadKey, func(s *signing) { s.request.PEM = []byte(smallExponent) }},
		{"the CA's own key", BadKey, func(s *signing) { s.key = s.ca.key }},

		{"CN not allowed", BadSubject, csr(func(c *x509.CertificateRequest) { c.Subject.CommonName = "vault" })},
		{"CN of a deeper name", BadSubject, csr(func(c *x509.CertificateRequest) { c.Subject.CommonName = "a.b.server.dc1.consul" })},
		{"CN in upper case", BadSubject, csr(func(c *x509.CertificateRequest) { c.Subject.CommonName = "SERVER.dc1.consul" })},
		{"CN with NUL", BadSubject, csr(func(c *x509.CertificateRequest) { c.Subject.CommonName = "server.dc1.consul\x00" })},
		{"the CA's subject", BadSubject, func(s *signing) { s.ca = newAuthority(t, "server.dc1.consul", nil) }},
		{"organization", BadSubject, csr(func(c *x509.CertificateRequest) { c.Subject.Organization = []string{"system:masters"} })},
		{"unit", BadSubject, csr(func(c *x509.CertificateRequest) { c.Subject.OrganizationalUnit = []string{"x"} })},
		{"serial number", BadSubject, csr(func(c *x509.CertificateRequest) { c.Subject.SerialNumber = "1" })},
		{"second CN", BadSubject, csr(func(c *x509.CertificateRequest) {
			cn := pkix.AttributeTypeAndValue{Type: oidCommonName, Value: "server.dc1.consul"}
			c.Subject.ExtraNames = []pkix.AttributeTypeAndValue{cn, cn}
		})},
		{"e-mail attribute", BadSubject, extra(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}, "a@b.example")},
		{"attribute that is no text", BadSubject, extra(asn1.ObjectIdentifier{1, 2, 3}, 7)},

		{"name not allowed", BadName, csr(func(c *x509.CertificateRequest) { c.DNSNames = append(c.DNSNames, "vault.example") })},
		{"name below a pattern's label", BadName, csr(func(c *x509.CertificateRequest) { c.DNSNames[1] = "a.b.server.dc1.consul" })},
		{"the pattern's suffix alone", BadName, csr(func(c *x509.CertificateRequest) { c.DNSNames[1] = "dc1.consul" })},
		{"suffix without its dot", BadName, csr(func(c *x509.CertificateRequest) { c.DNSNames[1] = "evilserver.dc1.consul" })},
		{"wildcard that is not listed", BadName, csr(func(c *x509.CertificateRequest) { c.DNSNames[1] = "*.dc1.consul" })},
		{"wildcard below a pattern", BadName, csr(func(c *x509.CertificateRequest) { c.DNSNames[1] = "*.a.server.dc1.consul" })},
		{"wildcard in a label", BadName, csr(func(c *x509.CertificateRequest) { c.DNSNames[1] = "n*.server.dc1.consul" })},
		{"wildcard as second label", BadName, csr(func(c *x509.CertificateRequest) { c.DNSNames[1] = "a.*.dc1.consul" })},
		{"bare wildcard", BadName, csr(func(c *x509.CertificateRequest) { c.DNSNames[1] = "*" })},
		{"trailing dot", BadName, csr(func(c *x509.CertificateRequest) { c.DNSNames[1] = "server.dc1.consul." })},
		{"name in upper case", BadName, csr(func(c *x509.CertificateRequest) { c.DNSNames[1] = "Server.dc1.consul" })},
		{"name with NUL", BadName, san(rawName(2, false, []byte("server.dc1.consul\x00")))},
		{"name that is empty", BadName, san(rawName(2, false, nil))},
		{"name with a line end", BadName, san(rawName(2, false, []byte("server.dc1.consul\nx")))},
		{"address as name", BadName, csr(func(c *x509.CertificateRequest) { c.DNSNames = append(c.DNSNames, "10.1.2.3") })},
		{"address not allowed", BadName, csr(func(c *x509.CertificateRequest) { c.IPAddresses = append(c.IPAddresses, net.IPv4(11, 0, 0, 1)) })},
		{"address beside a prefix of one", BadName, csr(func(c *x509.CertificateRequest) { c.IPAddresses = append(c.IPAddresses, net.IPv4(127, 0, 0, 2)) })},
		{"IPv6 not allowed", BadName, csr(func(c *x509.CertificateRequest) { c.IPAddresses = append(c.IPAddresses, net.ParseIP("2001:db8::1")) })},
		{"address of eight octets", MalformedRequest, san(rawName(7, false, []byte{10, 0, 0, 0, 255, 0, 0, 0}))},
		{"no names", BadName, csr(func(c *x509.CertificateRequest) { c.DNSNames, c.IPAddresses = nil, nil })},
		{"URI", BadName, csr(func(c *x509.CertificateRequest) { c.URIs = []*url.URL{{Scheme: "spiffe", Host: "x"}} })},
		{"e-mail address", BadName, csr(func(c *x509.CertificateRequest) { c.EmailAddresses = []string{"a@b.example"} })},
		{"directory name", BadName, san(rawName(2, false, []byte("localhost")), rawName(4, true, []byte{0x30, 0}))},
		{"other name", BadName, san(rawName(2, false, []byte("localhost")), rawName(0, true, []byte{6, 1, 42, 0xa0, 3, 0x0c, 1, 'x'}))},
		{"registered ID", BadName, san(rawName(2, false, []byte("localhost")), rawName(8, false, []byte{42}))},
		{"empty allow list", BadName, func(s *signing) { s.template.Subject, s.policy.DNSNames, s.policy.IPAddresses = pkix.Name{}, nil, nil }},

		{"usage not configured", BadUsage, request(func(r *Request) { r.Usages = append(r.Usages, "key agreement") })},
		{"usage of signing code", BadUsage, request(func(r *Request) { r.Usages = append(r.Usages, "code signing") })},
		{"usage any", BadUsage, request(func(r *Request) { r.Usages = append(r.Usages, "any") })},
		{"usage cert sign", BadUsage, request(func(r *Request) { r.Usages = append(r.Usages, "cert sign") })},
		{"usage by its other name", BadUsage, request(func(r *Request) { r.Usages = []string{"signing", "server auth"} })},
		{"no usages", BadUsage, request(func(r *Request) { r.Usages = nil })},
		{"no key usage", BadUsage, request(func(r *Request) { r.Usages = []string{"server auth"} })},
		{"no extended usage", BadUsage, request(func(r *Request) { r.Usages = []string{"digital signature"} })},
		{"policy with a usage it must not have", BadUsage, func(s *signing) {
			s.policy.Usages, s.request.Usages = append(s.policy.Usages, "cert sign"), append(s.request.Usages, "cert sign")
		}},
		{"client usage where the signer has none", BadUsage, func(s *signing) { s.policy.Usages = []string{"digital signature", "server auth"} }},
		{"key usage beyond", BadUsage, ext(oidKeyUsage, asn1.BitString{Bytes: []byte{0xa0}, BitLength: 3})},
		{"key usage cert sign", BadUsage, ext(oidKeyUsage, asn1.BitString{Bytes: []byte{0x04}, BitLength: 6})},
		{"key usage decipher only", BadUsage, ext(oidKeyUsage, asn1.BitString{Bytes: []byte{0, 0x80}, BitLength: 9})},
		{"extended usage beyond", BadUsage, ext(oidExtKeyUsage, []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 3}})},
		{"extended usage any", BadUsage, ext(oidExtKeyUsage, []asn1.ObjectIdentifier{{2, 5, 29, 37, 0}})},

		{"asks to be a CA", BadExtension, ext(oidBasicConstraints, struct{ CA bool }{true})},
		{"path length", BadExtension, ext(oidBasicConstraints, struct{ Len int }{0})},
		{"unknown extension", BadExtension, ext(asn1.ObjectIdentifier{1, 2, 3}, "x")},
		{"name constraints", BadExtension, ext(asn1.ObjectIdentifier{2, 5, 29, 30}, struct{}{})},
		{"subject key identifier", BadExtension, ext(asn1.ObjectIdentifier{2, 5, 29, 14}, []byte("x"))},
		{"must staple", BadExtension, ext(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}, []int{5})},
		{"octets behind the key usage", BadExtension, func(s *signing) {
			e := extension(t, oidKeyUsage, asn1.BitString{Bytes: []byte{0x80}, BitLength: 1})
			e.Value = append(e.Value, 5, 0)
			s.template.ExtraExtensions = []pkix.Extension{e}
		}},

		{"negative lifetime", BadLifetime, request(func(r *Request) { r.ExpirationSeconds = i32(-1) })},
		{"lifetime of nothing", BadLifetime, request(func(r *Request) { r.ExpirationSeconds = i32(0) })},
		{"lifetime too short", BadLifetime, request(func(r *Request) { r.ExpirationSeconds = i32(599) })},

		{"outside the CA's permitted names", Constrained, ca(func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"example.com"} })},
		{"inside the CA's excluded names", Constrained, ca(func(c *x509.Certificate) { c.ExcludedDNSDomains = []string{"dc1.consul"} })},
		{"outside the CA's addresses", Constrained, ca(func(c *x509.Certificate) {
			c.PermittedIPRanges = []*net.IPNet{{IP: net.IPv4(192, 168, 0, 0).To4(), Mask: net.CIDRMask(16, 32)}}
		})},
		{"usage that the CA may not give", Constrained, ca(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			s := goodSigning(t)
			c.edit(s)
			answer, err := s.sign(t)
			var refusal *SigningRefusal
			if !errors.As(err, &refusal) || refusal.Reason != c.want || answer != nil {
				t.Fatalf("got %v, want %s", err, c.want)
			}
			if refusal.Detail == "" || strings.Contains(refusal.Detail, "%!") {
				t.Errorf("the detail is not readable: %q", refusal.Detail)
			}
			if refusal.Final() != (c.want != NotAwaiting && c.want != BadAuthority) {
				t.Errorf("final: %t", refusal.Final())
			}
		})
	}
	if _, err := goodSigning(t).sign(t); err != nil {
		t.Fatalf("the unchanged request is not signed: %v", err)
	}
}

// FuzzSigning: whatever is in a request, nothing breaks, and nothing is in a
// template that the policy does not name.
func FuzzSigning(f *testing.F) {
	block, _ := pem.Decode([]byte(smallExponent))
	f.Add(block.Bytes)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	for _, c := range []*x509.CertificateRequest{
		{DNSNames: []string{"localhost"}},
		{Subject: pkix.Name{CommonName: "localhost", Organization: []string{"x"}}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}, EmailAddresses: []string{"a@b"}},
	} {
		der, err := x509.CreateCertificateRequest(rand.Reader, c, key)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		csr, err := x509.ParseCertificateRequest(der)
		if err != nil {
			return
		}
		w := wish{usages: []string{"digital signature", "server auth"}, key: key.Public()}
		w.readSubject(csr)
		if w.readExtensions(csr) != nil || consulPolicy().refusal(w) != nil {
			return
		}
		got := w.certificate() // the signature, which no mutation leaves valid, is left out
		for _, name := range append([]string{got.Subject.CommonName}, got.DNSNames...) {
			if name != "" && name != "localhost" && !strings.HasSuffix(name, "server.dc1.consul") {
				t.Errorf("it names %q", name)
			}
		}
		if got.IsCA || got.KeyUsage != x509.KeyUsageDigitalSignature || len(got.ExtraExtensions)+len(got.URIs)+len(got.EmailAddresses) > 0 || len(got.Subject.Organization) > 0 {
			t.Errorf("%+v", got)
		}
	})
}

// smallExponent is a request for an RSA key of exponent 3, made with openssl,
// since Go makes none.
const smallExponent = `-----BEGIN CERTIFICATE REQUEST-----
MIICjjCCAXYCAQAwHDEaMBgGA1UEAwwRc2VydmVyLmRjMS5jb25zdWwwggEgMA0G
CSqGSIb3DQEBAQUAA4IBDQAwggEIAoIBAQDQqPzrvX4cnjkhwW1VExYfd5PDSQki
iQge6LT4co/SJprWXMAZORG7j9BUenDDiOVoqmrjGNOCONL19RV06Vqj4ojD8jn7
fGKMsb9NazB5awS0apr3cirr2zgt0i1/HucHReBHWsoXsiekQu8+2j/I/MfGtMv7
qF8FUIXKJsF1rJh3QjCmRfRlcwwkC0rOGukREsSmsSzLN7PZ6+iC9hNZ/M4h5HC9
wDHgCzxP4wTLzWGYSfR8x4EQb9ewTI9zLe8FXoo3bjMVDrdA2gwMEJXLhXh6tXye
UWTQNJmmMeYCyjlGKJ7TwgcR9en4R5C2qW8oe24qNY4Drx8dFny7MQg1AgEDoC8w
LQYJKoZIhvcNAQkOMSAwHjAcBgNVHREEFTATghFzZXJ2ZXIuZGMxLmNvbnN1bDAN
BgkqhkiG9w0BAQsFAAOCAQEAnabznO3oeu+/VaJd6QoLJE+lJ/Nlx9Tadf111mLF
d3azeB9YkkT5xSMC1SdhJQUVjzWRpA/mFYOHXuzqIfTwrMsQTYbe19RDl/EzZdZl
NyLybrZo3H9iAWuVLFKz1ABXvNRlJ1DC5KtAqHNtKETEuOVDe204MDaP4aqAkRDv
0QYLLyZrQvN8AVeVMezheUFDLaLN2ucVJJP7umIVVWsJXb8u9ZgMHqVjLMA7VKtG
tAk31AxxtJE5FJ/iG46sosK6hmGxLsyrOuIaDeeqFwtC7fRUOcmElR8k8KrM9b9d
MtjK5HC+l7fiSeKkSywJJiFz5PwJAuHbx5W6mnxIdmcgDQ==
-----END CERTIFICATE REQUEST-----
`
