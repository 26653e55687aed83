package k8scsr

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"testing"
	"time"
)

// answer is what an evil signer has at hand.
type answer struct {
	t       *testing.T
	want    Spec
	key     crypto.Signer
	root    *authority
	sub     *authority // intermediate under root
	other   *authority // not in the bundle
	trust   Trust
	now     time.Time
	current *x509.Certificate
}

func newAnswer(t *testing.T) *answer {
	root := newAuthority(t, "root", nil)
	a := &answer{t: t, want: wanted(t), key: ecKey(t), root: root, now: epoch,
		sub: newAuthority(t, "sub", root), other: newAuthority(t, "root", nil), trust: root.trust(t)}
	a.current = sign(t, leafTemplate(t, a.want, epoch.Add(-16*time.Hour)), root.cert, ecKey(t).Public(), root.key)
	return a
}

// by issues a certificate as wanted, but for what edit changes.
func (a *answer) by(ca *authority, edit ...func(*x509.Certificate)) []byte {
	template := leafTemplate(a.t, a.want, a.now)
	for _, f := range edit {
		f(template)
	}
	return ca.issue(a.t, template, a.key.Public())
}

func TestValidateAcceptsGoodAnswers(t *testing.T) {
	cases := map[string]func(*answer) []byte{
		"from the root":           func(a *answer) []byte { return a.by(a.root) },
		"through an intermediate": func(a *answer) []byte { return a.by(a.sub) },
		"with the root in it":     func(a *answer) []byte { return append(a.by(a.sub), toPEM(a.root.cert)...) },
		"with a cross-signed intermediate": func(a *answer) []byte {
			cross := sign(a.t, &x509.Certificate{
				SerialNumber: big.NewInt(7), Subject: a.sub.cert.Subject, NotBefore: epoch.AddDate(-1, 0, 0), NotAfter: epoch.AddDate(1, 0, 0),
				IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
			}, a.other.cert, a.sub.key.Public(), a.other.key)
			return append(a.by(a.sub), toPEM(cross)...)
		},
		"with text around it":       func(a *answer) []byte { return append([]byte("issued today\n"), a.by(a.root)...) },
		"without a current one":     func(a *answer) []byte { a.current = nil; return a.by(a.root) },
		"without trust":             func(a *answer) []byte { a.trust = Trust{}; return a.by(a.other) },
		"without trust, with chain": func(a *answer) []byte { a.trust = Trust{}; return a.by(a.sub) },
		"more key usages": func(a *answer) []byte {
			return a.by(a.root, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageKeyAgreement })
		},
		"shorter than asked": func(a *answer) []byte {
			return a.by(a.root, func(c *x509.Certificate) { c.NotAfter = a.now.Add(9 * time.Hour) })
		},
		"SAN critical for an empty subject": func(a *answer) []byte {
			a.want.CommonName, a.want.Organizations = "", nil
			return a.by(a.root)
		},
	}
	for name, make := range cases {
		t.Run(name, func(t *testing.T) {
			a := newAnswer(t)
			data := make(a)
			chain, err := Validate(data, a.key.Public(), a.want, a.trust, a.now, a.current)
			if err != nil {
				t.Fatal(err)
			}
			if !sameKey(chain.Leaf.PublicKey, a.key.Public()) {
				t.Error("the leaf is for another key")
			}
			if bytes.Contains(chain.PEM, []byte("issued")) || !bytes.HasPrefix(chain.PEM, []byte("-----BEGIN CERTIFICATE-----\n")) {
				t.Errorf("what is published is not only certificates:\n%s", chain.PEM)
			}
			if changed := a.want.Changed(chain.Leaf, a.want.Signer); len(changed) > 0 {
				t.Errorf("it would be renewed at once: %q", changed)
			}
		})
	}
}

func unknownCritical(c *x509.Certificate) {
	c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, Critical: true, Value: []byte{5, 0}}}
}

func TestValidateRefusesBadAnswers(t *testing.T) {
	cert := func(edit func(*x509.Certificate)) func(*answer) []byte {
		return func(a *answer) []byte { return a.by(a.root, edit) }
	}
	cases := []struct {
		name   string
		reason Reason
		answer func(*answer) []byte
	}{
		{"empty", Malformed, func(*answer) []byte { return nil }},
		{"junk", Malformed, func(*answer) []byte { return []byte("\x00\x01 junk") }},
		{"PEM of junk", Malformed, func(*answer) []byte {
			return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("junk")})
		}},
		{"truncated DER", Malformed, func(a *answer) []byte {
			block, _ := pem.Decode(a.by(a.root))
			block.Bytes = block.Bytes[:len(block.Bytes)-9]
			return pem.EncodeToMemory(block)
		}},
		{"with a private key", Malformed, func(a *answer) []byte { return append(a.by(a.root), keyPEM(a.t, a.key)...) }},
		{"a megabyte", TooLarge, func(a *answer) []byte {
			return append(a.by(a.root), bytes.Repeat([]byte("x"), 1<<20)...)
		}},
		{"a huge leaf", TooLarge, cert(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: bytes.Repeat([]byte{4}, 40_000)}}
		})},
		{"a long chain", TooLarge, func(a *answer) []byte {
			return append(a.by(a.sub), bytes.Repeat(toPEM(a.root.cert), 10)...)
		}},
		{"for another key", WrongKey, func(a *answer) []byte {
			return a.root.issue(a.t, leafTemplate(a.t, a.want, a.now), ecKey(a.t).Public())
		}},
		{"chain in the wrong order", WrongKey, func(a *answer) []byte { return append(toPEM(a.sub.cert), a.by(a.sub)...) }},
		{"the CA itself", WrongKey, func(a *answer) []byte { return toPEM(a.root.cert) }},
		{"DNS name missing", WrongContent, cert(func(c *x509.Certificate) { c.DNSNames = c.DNSNames[:1] })},
		{"DNS name added", WrongContent, cert(func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, "evil.example") })},
		{"no names", WrongContent, cert(func(c *x509.Certificate) { c.DNSNames, c.IPAddresses, c.URIs = nil, nil, nil })},
		{"IP address missing", WrongContent, cert(func(c *x509.Certificate) { c.IPAddresses = c.IPAddresses[:1] })},
		{"IP address added", WrongContent, cert(func(c *x509.Certificate) { c.IPAddresses = append(c.IPAddresses, net.IPv4(10, 0, 0, 1)) })},
		{"URI missing", WrongContent, cert(func(c *x509.Certificate) { c.URIs = nil })},
		{"e-mail address added", WrongContent, cert(func(c *x509.Certificate) { c.EmailAddresses = []string{"a@b.example"} })},
		{"name of an odd kind added", WrongContent, func(a *answer) []byte {
			return a.by(a.root, func(c *x509.Certificate) {
				c.ExtraExtensions = []pkix.Extension{sanWith(a.t, a.want, rawName(8, false, []byte{0x2a}))}
			})
		}},
		{"other common name", WrongContent, cert(func(c *x509.Certificate) { c.Subject.CommonName = "consul" })},
		{"organization added", WrongContent, cert(func(c *x509.Certificate) { c.Subject.Organization = append(c.Subject.Organization, "system:masters") })},
		{"a CA's", WrongContent, cert(func(c *x509.Certificate) { c.IsCA = true })},
		{"may sign certificates", WrongContent, cert(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign })},
		{"key usage missing", WrongContent, cert(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement })},
		{"server auth missing", WrongContent, cert(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })},
		{"code signing added", WrongContent, cert(func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageCodeSigning) })},
		{"any usage", WrongContent, cert(func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageAny) })},
		{"unknown usage added", WrongContent, cert(func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 2, 3}} })},
		{"no extended usage", WrongContent, cert(func(c *x509.Certificate) { c.ExtKeyUsage = nil })},
		{"of another CA of the same name", Untrusted, func(a *answer) []byte { return a.by(a.other) }},
		{"intermediate missing", Untrusted, func(a *answer) []byte {
			block, _ := pem.Decode(a.by(a.sub))
			return pem.EncodeToMemory(block)
		}},
		{"signed by a leaf", Untrusted, func(a *answer) []byte {
			k := ecKey(a.t)
			leaf := &authority{cert: sign(a.t, leafTemplate(a.t, a.want, a.now), a.root.cert, k.Public(), a.root.key), key: k}
			leaf.chain = []*x509.Certificate{leaf.cert}
			return a.by(leaf)
		}},
		{"under an expired intermediate", Untrusted, func(a *answer) []byte {
			return a.by(newAuthority(a.t, "old", a.root, func(c *x509.Certificate) { c.NotAfter = a.now.Add(-time.Hour) }))
		}},
		{"outside the CA's name constraints", Untrusted, func(a *answer) []byte {
			return a.by(newAuthority(a.t, "narrow", a.root, func(c *x509.Certificate) {
				c.PermittedDNSDomainsCritical, c.PermittedDNSDomains = true, []string{"only.example"}
			}))
		}},
		{"without trust, chain that does not fit", Untrusted, func(a *answer) []byte {
			a.trust = Trust{}
			return append(a.by(a.root), toPEM(a.other.cert)...)
		}},
		{"a second leaf behind it", Untrusted, func(a *answer) []byte { return append(a.by(a.root), a.by(a.root)...) }},
		{"a CA behind it that has nothing to do with it", Untrusted, func(a *answer) []byte { return append(a.by(a.root), toPEM(a.other.cert)...) }},
		{"chain with the root before the intermediate", Untrusted, func(a *answer) []byte {
			leaf, _ := pem.Decode(a.by(a.sub))
			return append(pem.EncodeToMemory(leaf), toPEM(a.root.cert, a.sub.cert)...)
		}},
		{"without trust, a second leaf behind it", Untrusted, func(a *answer) []byte {
			a.trust = Trust{}
			return append(a.by(a.root), a.by(a.root)...)
		}},
		{"critical extension that nobody knows", WrongContent, cert(unknownCritical)},
		{"without trust, critical extension that nobody knows", WrongContent, func(a *answer) []byte {
			a.trust = Trust{}
			return a.by(a.root, unknownCritical)
		}},
		{"a second common name", WrongContent, cert(func(c *x509.Certificate) {
			c.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "consul"}, {Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "vault"}}
		})},
		{"an intermediate with an enormous key", TooLarge, func(a *answer) []byte {
			modulus := new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 16384), big.NewInt(1))
			huge := sign(a.t, leafTemplate(a.t, a.want, a.now), a.root.cert, &rsa.PublicKey{N: modulus, E: 65537}, a.root.key)
			return append(a.by(a.root), toPEM(huge)...)
		}},
		{"two certificates in one block", Malformed, func(a *answer) []byte {
			block, _ := pem.Decode(a.by(a.sub))
			block.Bytes = append(block.Bytes, a.sub.cert.Raw...)
			return pem.EncodeToMemory(block)
		}},
		{"expired", Expired, cert(func(c *x509.Certificate) { c.NotAfter = epoch.Add(-time.Second) })},
		{"expiring this very second", Expired, cert(func(c *x509.Certificate) { c.NotAfter = epoch })},
		{"not yet valid", NotYetValid, cert(func(c *x509.Certificate) { c.NotBefore = epoch.Add(time.Hour) })},
		{"ending before the current one", NotLater, cert(func(c *x509.Certificate) { c.NotAfter = epoch.Add(7 * time.Hour) })},
		{"ending with the current one", NotLater, cert(func(c *x509.Certificate) { c.NotAfter = epoch.Add(8 * time.Hour) })},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			a := newAnswer(t)
			data := c.answer(a)
			_, err := Validate(data, a.key.Public(), a.want, a.trust, a.now, a.current)
			var refusal *Refusal
			if !errors.As(err, &refusal) {
				t.Fatalf("not refused, but %v", err)
			}
			if refusal.Reason != c.reason {
				t.Errorf("refused for %s, not %s: %v", refusal.Reason, c.reason, err)
			}
			if !refusal.ValidAt.IsZero() {
				t.Errorf("to be used at %v", refusal.ValidAt)
			}
		})
	}
}

// TestValidateWaitsForASignersClock: a signer whose clock runs ahead by up to
// five minutes is waited for, beyond that it is refused.
func TestValidateWaitsForASignersClock(t *testing.T) {
	for ahead, waits := range map[time.Duration]bool{time.Second: true, 5 * time.Minute: true, 5*time.Minute + time.Second: false} {
		a := newAnswer(t)
		data := a.by(a.root, func(c *x509.Certificate) { c.NotBefore = epoch.Add(ahead) })
		_, err := Validate(data, a.key.Public(), a.want, a.trust, a.now, a.current)
		var refusal *Refusal
		if !errors.As(err, &refusal) || refusal.Reason != NotYetValid {
			t.Fatalf("%v ahead: %v", ahead, err)
		}
		if waits != refusal.ValidAt.Equal(epoch.Add(ahead)) || waits == refusal.ValidAt.IsZero() {
			t.Errorf("%v ahead: to be used at %v", ahead, refusal.ValidAt)
		}
	}
}

func TestParseTrust(t *testing.T) {
	a, b := newAuthority(t, "a", nil), newAuthority(t, "b", nil)
	trust, err := ParseTrust(append([]byte("# two CAs\n"), toPEM(a.cert, b.cert)...))
	if err != nil || len(trust.Roots) != 2 || !bytes.Equal(trust.PEM, toPEM(a.cert, b.cert)) {
		t.Fatalf("%d roots, %v:\n%s", len(trust.Roots), err, trust.PEM)
	}
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"empty":     {nil, "parsing trust bundle: no PEM block of type CERTIFICATE in 0 octets"},
		"with key":  {append(toPEM(a.cert), keyPEM(t, a.key)...), `parsing trust bundle: a PEM block of type "PRIVATE KEY" among the certificates`},
		"too large": {bytes.Repeat([]byte("\n"), 330_001), "parsing trust bundle: it has 330001 octets, more than 330000"},
	} {
		if _, err := ParseTrust(c.data); err == nil || err.Error() != c.want {
			t.Errorf("%s: %v, not %s", name, err, c.want)
		}
	}
}

func TestReadLive(t *testing.T) {
	ca := newAuthority(t, "ca", nil)
	want := wanted(t)
	for _, kind := range []Key{{ECDSA, 256}, {RSA, 2048}, {Ed25519, 0}} {
		k := newKey(t, kind)
		live := ReadLive(ca.issue(t, leafTemplate(t, want, epoch), k.Public()), keyPEM(t, k))
		if live.Problem != "" || live.Leaf == nil || !live.Usable(epoch) || live.Usable(epoch.Add(want.Lifetime)) {
			t.Errorf("%v: %+v", kind, live.Problem)
		}
	}
	k := newKey(t, Key{ECDSA, 256})
	good := ca.issue(t, leafTemplate(t, want, epoch), k.Public())
	ec, _ := x509.MarshalECPrivateKey(k.(*ecdsa.PrivateKey))
	sec1 := append([]byte("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: ec})...)
	if live := ReadLive(good, sec1); live.Problem != "" {
		t.Errorf("SEC 1 with parameters: %s", live.Problem)
	}
	for name, c := range map[string]struct {
		cert, key []byte
		problem   string
	}{
		"nothing":      {nil, nil, ""},
		"no key":       {good, nil, "its key is unusable: parsing private key: no PEM private key in 0 octets"},
		"damaged key":  {good, []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), `its key is unusable: parsing private key: its block "PRIVATE KEY" is damaged, encrypted or of an unknown kind`},
		"large key":    {good, bytes.Repeat([]byte("x"), 13_001), "its key is unusable: parsing private key: it has 13001 octets, more than 13000"},
		"other key":    {good, keyPEM(t, ecKey(t)), "its key does not belong to its certificate"},
		"no cert":      {nil, sec1, "its certificate does not parse: no PEM block of type CERTIFICATE in 0 octets"},
		"large cert":   {bytes.Repeat([]byte("x"), 95_001), sec1, "its certificate has 95001 octets, more than 95000"},
		"swapped pair": {sec1, good, `its certificate does not parse: a PEM block of type "EC PARAMETERS" among the certificates`},
	} {
		live := ReadLive(c.cert, c.key)
		if live.Problem != c.problem || live.Usable(epoch) || !live.Exists {
			t.Errorf("%s: problem %q, not %q", name, live.Problem, c.problem)
		}
	}
}
