package crl

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
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// authority is an issuer made for a test.
type authority struct {
	name      string
	key       crypto.Signer
	algorithm x509.SignatureAlgorithm
	cert      *x509.Certificate
}

func newAuthority(tb testing.TB, subject pkix.Name, key crypto.Signer, algorithm x509.SignatureAlgorithm) authority {
	tb.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: subject,
		NotBefore: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2060, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCRLSign | x509.KeyUsageCertSign,
		SubjectKeyId: []byte{1, 2, 3, 4, 5, 6, 7, 8},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return authority{name: subject.CommonName, key: key, algorithm: algorithm, cert: cert}
}

// named is a subject with all that printing must get right.
func named(name string) pkix.Name {
	return pkix.Name{
		Country: []string{"DE"}, Organization: []string{" Example, Inc. "}, OrganizationalUnit: []string{"#a+b", "<c>\\"},
		CommonName: name, ExtraNames: []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{1, 2, 3, 4}, Value: "élan"}},
	}
}

func p256(tb testing.TB) authority {
	return newAuthority(tb, named("P-256"), ecKey(tb, elliptic.P256()), x509.ECDSAWithSHA256)
}

func ecKey(tb testing.TB, curve elliptic.Curve) crypto.Signer {
	tb.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func rsaKey(tb testing.TB) crypto.Signer {
	tb.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func ed25519Key(tb testing.TB) crypto.Signer {
	tb.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func authorities(tb testing.TB) []authority {
	key := rsaKey(tb)
	return []authority{
		p256(tb),
		newAuthority(tb, named("P-384"), ecKey(tb, elliptic.P384()), x509.ECDSAWithSHA384),
		newAuthority(tb, named("P-521"), ecKey(tb, elliptic.P521()), x509.ECDSAWithSHA512),
		newAuthority(tb, named("RSA, SHA-256"), key, x509.SHA256WithRSA),
		newAuthority(tb, named("RSA, SHA-384"), key, x509.SHA384WithRSA),
		newAuthority(tb, named("RSA, SHA-512"), key, x509.SHA512WithRSA),
		newAuthority(tb, named("PSS, SHA-256"), key, x509.SHA256WithRSAPSS),
		newAuthority(tb, named("PSS, SHA-384"), key, x509.SHA384WithRSAPSS),
		newAuthority(tb, named("PSS, SHA-512"), key, x509.SHA512WithRSAPSS),
		newAuthority(tb, named("Ed25519"), ed25519Key(tb), x509.PureEd25519),
	}
}

func (a authority) sign(tb testing.TB, template x509.RevocationList) []byte {
	tb.Helper()
	template.SignatureAlgorithm = a.algorithm
	der, err := x509.CreateRevocationList(rand.Reader, &template, a.cert, a.key)
	if err != nil {
		tb.Fatal(err)
	}
	return der
}

// listOf is a list with entries as Vault makes them: serial numbers of 20
// octets and a date each.
func listOf(entries int) x509.RevocationList {
	random := mathrand.New(mathrand.NewPCG(7, uint64(entries)))
	l := x509.RevocationList{
		Number: big.NewInt(4711), ThisUpdate: time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC), NextUpdate: time.Date(2026, 5, 4, 10, 0, 0, 0, time.UTC),
	}
	for range entries {
		serial := make([]byte, 20)
		for i := range serial {
			serial[i] = byte(random.Uint32())
		}
		serial[0] &= 0x7f
		serial[0] |= 0x40
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber:   new(big.Int).SetBytes(serial),
			RevocationTime: time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(random.Int64N(int64(89 * 24 * time.Hour)))).Truncate(time.Second),
		})
	}
	return l
}

// lists are templates that differ in shape.
func lists() map[string]x509.RevocationList {
	all := map[string]x509.RevocationList{"no entries": listOf(0), "one entry": listOf(1), "entries": listOf(50)}

	reasons := listOf(30)
	for i := range reasons.RevokedCertificateEntries {
		reasons.RevokedCertificateEntries[i].ReasonCode = []int{0, 1, 2, 3, 4, 5, 6, 8, 9, 10}[i%10]
	}
	all["reasons"] = reasons

	late := listOf(5)
	late.ThisUpdate, late.NextUpdate = time.Date(2049, 12, 31, 23, 59, 59, 0, time.UTC), time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC)
	late.RevokedCertificateEntries[2].RevocationTime = time.Date(2051, 2, 28, 1, 2, 3, 0, time.UTC)
	late.RevokedCertificateEntries[3].RevocationTime = time.Date(1950, 1, 1, 0, 0, 0, 0, time.UTC)
	all["GeneralizedTime"] = late

	extended := listOf(6)
	for i := range extended.RevokedCertificateEntries {
		extended.RevokedCertificateEntries[i].ReasonCode = 1
		extended.RevokedCertificateEntries[i].ExtraExtensions = []pkix.Extension{
			{Id: asn1.ObjectIdentifier{2, 5, 29, 24}, Value: []byte("\x18\x0f20260101000000Z")},
			{Id: asn1.ObjectIdentifier{1, 2, 3, 4, 100000 + i%2}, Critical: true, Value: bytes.Repeat([]byte{1}, 300)},
		}
	}
	extended.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 46}, Critical: true, Value: []byte{0x30, 0}}}
	all["extensions"] = extended

	delta := listOf(3)
	delta.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 2, 0x12, 0x34}}}
	all["delta"] = delta

	small := listOf(4)
	for i, n := range []int64{0, 127, 128, -5} {
		small.RevokedCertificateEntries[i].SerialNumber = big.NewInt(n)
	}
	small.Number = new(big.Int).Lsh(big.NewInt(1), 150)
	all["odd serials, long number"] = small
	return all
}

// reasonOf is RFC 5280 section 5.3.1.
var reasonOf = map[int]string{
	0: "unspecified", 1: "keyCompromise", 2: "cACompromise", 3: "affiliationChanged", 4: "superseded", 5: "cessationOfOperation",
	6: "certificateHold", 8: "removeFromCRL", 9: "privilegeWithdrawn", 10: "aACompromise",
}

// hashOf are the hashes that signature algorithms name.
var hashOf = map[x509.SignatureAlgorithm]crypto.Hash{
	x509.SHA1WithRSA: crypto.SHA1, x509.ECDSAWithSHA1: crypto.SHA1,
	x509.SHA384WithRSA: crypto.SHA384, x509.ECDSAWithSHA384: crypto.SHA384, x509.SHA384WithRSAPSS: crypto.SHA384,
	x509.SHA512WithRSA: crypto.SHA512, x509.ECDSAWithSHA512: crypto.SHA512, x509.SHA512WithRSAPSS: crypto.SHA512,
}

// compare checks a summary against what crypto/x509 makes of the same list.
func compare(t *testing.T, der []byte, s Summary) {
	t.Helper()
	want, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatalf("crypto/x509: %v", err)
	}
	var oldest, newest time.Time
	reasons := map[string]int64{}
	unnamed := 0
	for _, e := range want.RevokedCertificateEntries {
		if oldest.IsZero() || e.RevocationTime.Before(oldest) {
			oldest = e.RevocationTime
		}
		if e.RevocationTime.After(newest) {
			newest = e.RevocationTime
		}
		given := func(x pkix.Extension) bool { return x.Id.String() == "2.5.29.21" }
		switch name := reasonOf[e.ReasonCode]; {
		case !slices.ContainsFunc(e.Extensions, given):
		case name == "":
			unnamed++
		default:
			reasons[name]++
		}
	}
	check := func(what string, got, want any) {
		t.Helper()
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s = %v, crypto/x509 has %v", what, got, want)
		}
	}
	check("Bytes", s.Bytes, len(want.Raw))
	check("Version", s.Version, 2)
	// encoding/asn1 reads fewer string types than crypto/x509, and two of them
	// in another way.
	var rdns pkix.RDNSequence
	if _, err := asn1.Unmarshal(want.RawIssuer, &rdns); err == nil && !bytes.ContainsAny(want.RawIssuer, "\x14\x1e") {
		check("Issuer", s.Issuer, rdns.String())
	}
	check("RawIssuer", s.RawIssuer, want.RawIssuer)
	check("Number", s.Number, want.Number)
	check("AuthorityKeyID", s.AuthorityKeyID, want.AuthorityKeyId)
	check("ThisUpdate", s.ThisUpdate, want.ThisUpdate)
	check("NextUpdate", s.NextUpdate, want.NextUpdate)
	check("Entries", s.Entries, len(want.RevokedCertificateEntries))
	check("OldestRevocation", s.OldestRevocation, oldest)
	check("NewestRevocation", s.NewestRevocation, newest)
	check("SignatureAlgorithm", s.SignatureAlgorithm, want.SignatureAlgorithm)
	hash := hashOf[want.SignatureAlgorithm]
	if hash == 0 {
		hash = crypto.SHA256
	}
	check("DigestHash", s.DigestHash, hash)
	h := hash.New()
	h.Write(want.RawTBSRevocationList)
	check("Digest", s.Digest, h.Sum(nil))
	if !maps.Equal(s.Reasons, reasons) {
		t.Errorf("Reasons = %v, crypto/x509 has %v", s.Reasons, reasons)
	}
	check("UnnamedReasons", s.UnnamedReasons, unnamed)
	compareRepeated(t, want, s)
	if _, total := s.Revocations.Before(time.Date(10001, 1, 1, 0, 0, 0, 0, time.UTC)); total != s.Entries {
		t.Errorf("the histogram holds %d of %d entries", total, s.Entries)
	}
}

// compareRepeated compares the extensions that are there more than once, as far
// as there are not too many to be compared.
func compareRepeated(t *testing.T, list *x509.RevocationList, s Summary) {
	t.Helper()
	all := [][]pkix.Extension{list.Extensions}
	for _, e := range list.RevokedCertificateEntries {
		all = append(all, e.Extensions)
	}
	var want []string
	for _, extensions := range all {
		times := map[string]int{}
		for _, e := range extensions {
			times[e.Id.String()]++
		}
		for id, n := range times {
			if len(times) > 16 || len(id) > 32 { // its octets are no more than its characters
				return
			}
			if n > 1 && !slices.Contains(want, id) {
				want = append(want, id)
			}
		}
	}
	got := slices.Sorted(slices.Values(s.RepeatedExtensions))
	if slices.Sort(want); len(want) <= 16 && !slices.Equal(got, want) {
		t.Errorf("RepeatedExtensions = %v, crypto/x509 has %v", got, want)
	}
}

func TestScanAgreesWithX509(t *testing.T) {
	for _, a := range authorities(t) {
		for name, template := range lists() {
			t.Run(a.name+"/"+name, func(t *testing.T) {
				der := a.sign(t, template)
				s, err := Scan(bytes.NewReader(der), Options{})
				if err != nil {
					t.Fatal(err)
				}
				if s.Format != FormatDER {
					t.Errorf("Format = %q", s.Format)
				}
				compare(t, der, s)
				err = s.Verify(a.cert)
				if a.algorithm == x509.PureEd25519 {
					if !errors.Is(err, ErrNotVerifiable) {
						t.Errorf("Verify = %v, want ErrNotVerifiable", err)
					}
				} else if err != nil {
					t.Error(err)
				}

				text := "some text\n" + pemBlock("CERTIFICATE", []byte("x")) + pemBlock("X509 CRL", der) + "more text"
				s, err = Scan(strings.NewReader(text), Options{})
				if err != nil {
					t.Fatal(err)
				}
				if s.Format != FormatPEM {
					t.Errorf("Format = %q", s.Format)
				}
				compare(t, der, s)
			})
		}
	}
}

func pemBlock(label string, b []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: label, Bytes: b}))
}

func TestScanFields(t *testing.T) {
	a := p256(t)
	all := lists()
	scan := func(name string) Summary {
		t.Helper()
		s, err := Scan(bytes.NewReader(a.sign(t, all[name])), Options{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if s := scan("delta"); !s.Delta() || s.BaseNumber.String() != "4660" || s.UnhandledCritical != nil {
		t.Errorf("delta: base %v, unhandled %v", s.BaseNumber, s.UnhandledCritical)
	}
	if s := scan("entries"); s.Delta() || s.UnhandledCritical != nil || s.Reasons != nil {
		t.Errorf("entries: base %v, unhandled %v, reasons %v", s.BaseNumber, s.UnhandledCritical, s.Reasons)
	}
	want := "[1.2.3.4.100000 1.2.3.4.100001 2.5.29.46]"
	if s := scan("extensions"); fmt.Sprint(s.UnhandledCritical) != want {
		t.Errorf("extensions: unhandled %v, want %s", s.UnhandledCritical, want)
	}
}

// TestScanReaders reads through readers that return little, data with the end,
// or fail.
func TestScanReaders(t *testing.T) {
	a := p256(t)
	der := a.sign(t, listOf(3000))
	for name, input := range map[string][]byte{"der": der, "pem": []byte(pemBlock("X509 CRL", der))} {
		t.Run(name, func(t *testing.T) {
			one, err := Scan(iotest.OneByteReader(bytes.NewReader(input)), Options{})
			if err != nil {
				t.Fatal(err)
			}
			compare(t, der, one)
			if err := one.Verify(a.cert); err != nil {
				t.Error(err)
			}
			last, err := Scan(iotest.DataErrReader(bytes.NewReader(input)), Options{})
			if err != nil {
				t.Fatal(err)
			}
			if err := last.Verify(a.cert); err != nil {
				t.Error(err)
			}
			broken := errors.New("the line went dead")
			for _, n := range []int{0, 1, 5, 1000, 40000, len(input) - 1} {
				_, err := Scan(io.MultiReader(bytes.NewReader(input[:n]), iotest.ErrReader(broken)), Options{})
				var syntax *SyntaxError
				if !errors.Is(err, broken) || errors.As(err, &syntax) {
					t.Errorf("after %d bytes: %v", n, err)
				}
			}
		})
	}
}
