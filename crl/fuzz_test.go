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
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// differs fails where Scan and crypto/x509 disagree on der, other than by a
// rule in which Scan is stricter. It returns what both make of a list that they
// accept, and what the spool holds.
func differs(t *testing.T, der []byte) (list *x509.RevocationList, s Summary, spooled []byte) {
	t.Helper()
	var entries []Entry
	kept := &memory{}
	s, err := Scan(bytes.NewReader(der), Options{Spool: kept, Tally: NewTally(nil, [16]byte{1}), Each: func(e Entry) error {
		e.Serial = bytes.Clone(e.Serial)
		entries = append(entries, e)
		return nil
	}})
	list, x509Err := x509.ParseRevocationList(der)
	var syntax *SyntaxError
	switch {
	case err == nil && x509Err == nil:
		compare(t, der, s)
		compareEntries(t, list, entries, s.Order)
		comparePoint(t, list, s.IDP)
		return list, s, kept.held
	case err == nil:
		t.Errorf("accepted, crypto/x509 has %v\n%x", x509Err, der)
	case errors.Is(err, ErrTooLarge) && (x509Err != nil || len(der) > maxElement):
		// A length beyond the cap is one beyond the end of the input, or not.
	case !errors.As(err, &syntax):
		t.Errorf("neither accepted nor a syntax error: %v\n%x", err, der)
	case syntax.Offset > int64(len(der)):
		t.Errorf("the error is beyond the end: %v\n%x", err, der)
	case x509Err == nil && syntax.Rule == "":
		t.Errorf("%v, crypto/x509 accepts it\n%x", err, der)
	}
	return nil, Summary{}, nil
}

// compareEntries compares what Each was shown, one by one, and their order.
func compareEntries(t *testing.T, list *x509.RevocationList, entries []Entry, order Order) {
	t.Helper()
	if len(entries) != len(list.RevokedCertificateEntries) {
		t.Fatalf("Each was shown %d of %d entries", len(entries), len(list.RevokedCertificateEntries))
	}
	var serials []*big.Int
	for i, want := range list.RevokedCertificateEntries {
		der, err := asn1.Marshal(want.SerialNumber)
		if err != nil {
			t.Fatal(err)
		}
		var serial asn1.RawValue
		if _, err := asn1.Unmarshal(der, &serial); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(entries[i].Serial, serial.Bytes) || !entries[i].RevokedAt.Equal(want.RevocationTime) {
			t.Errorf("entry %d is %x at %v, crypto/x509 has %x at %v", i, entries[i].Serial, entries[i].RevokedAt, serial.Bytes, want.RevocationTime)
		}
		serials = append(serials, want.SerialNumber)
	}
	if want := orderOf(serials); order != want {
		t.Errorf("order %+v, want %+v", order, want)
	}
}

// comparePoint compares the issuing distribution point, the last if there are
// several, with what encoding/asn1 makes of it.
func comparePoint(t *testing.T, list *x509.RevocationList, got *DistributionPoint) {
	t.Helper()
	type point struct {
		Name struct {
			Full     []asn1.RawValue `asn1:"optional,tag:0"`
			Relative asn1.RawValue   `asn1:"optional,tag:1"`
		} `asn1:"optional,tag:0"`
		User      bool           `asn1:"optional,tag:1"`
		CA        bool           `asn1:"optional,tag:2"`
		Reasons   asn1.BitString `asn1:"optional,tag:3"`
		Indirect  bool           `asn1:"optional,tag:4"`
		Attribute bool           `asn1:"optional,tag:5"`
	}
	var want *point
	for _, e := range list.Extensions {
		if e.Id.String() != "2.5.29.28" {
			continue
		}
		want = new(point)
		if rest, err := asn1.Unmarshal(e.Value, want); err != nil || len(rest) > 0 {
			t.Fatalf("accepted, encoding/asn1 has %v, %d bytes left, in %x", err, len(rest), e.Value)
		}
	}
	if want == nil || got == nil {
		if (want == nil) != (got == nil) {
			t.Errorf("distribution point %+v, want %+v", got, want)
		}
		return
	}
	names := len(want.Name.Full)
	if names == 0 && len(want.Name.Relative.FullBytes) > 0 {
		names = 1
	}
	if got.OnlyContainsUserCerts != want.User || got.OnlyContainsCACerts != want.CA || got.IndirectCRL != want.Indirect ||
		got.OnlyContainsAttributeCerts != want.Attribute || len(got.Names)+got.MoreNames != names || len(got.Names) > maxNames {
		t.Errorf("distribution point %+v, want %+v", got, want)
	}
	reasons := 0
	for i := range 9 {
		reasons += want.Reasons.At(i)
	}
	if len(got.OnlySomeReasons) != reasons {
		t.Errorf("reasons %v, want %d", got.OnlySomeReasons, reasons)
	}
}

// signers are keys by what they sign with.
var signers = sync.OnceValue(func() map[x509.PublicKeyAlgorithm]crypto.Signer {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return map[x509.PublicKeyAlgorithm]crypto.Signer{x509.ECDSA: p256, x509.RSA: rsaKey, x509.Ed25519: edKey}
})

// compareSignature compares the verdicts on the list's signature, which is
// wrong, and on that of the same list signed anew.
func compareSignature(t *testing.T, list *x509.RevocationList, s Summary, spooled []byte) {
	t.Helper()
	kind, options := x509.ECDSA, crypto.SignerOpts(hashOf[list.SignatureAlgorithm])
	switch list.SignatureAlgorithm {
	case x509.ECDSAWithSHA384, x509.ECDSAWithSHA512:
	case x509.ECDSAWithSHA256:
		options = crypto.SHA256
	case x509.SHA384WithRSA, x509.SHA512WithRSA:
		kind = x509.RSA
	case x509.SHA256WithRSA:
		kind, options = x509.RSA, crypto.SHA256
	case x509.SHA256WithRSAPSS:
		kind, options = x509.RSA, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
	case x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS:
		kind, options = x509.RSA, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: options.HashFunc()}
	case x509.PureEd25519:
		kind = x509.Ed25519
	default: // crypto/x509 does not verify these, SHA-1 among them
		return
	}
	if want := list.RawTBSRevocationList; (kind == x509.Ed25519) != bytes.Equal(spooled, want) {
		t.Errorf("%d of %d bytes in the spool", len(spooled), len(want))
	}
	key := signers()[kind]
	issuer := &x509.Certificate{Version: 3, IsCA: true, BasicConstraintsValid: true, PublicKey: key.Public(), PublicKeyAlgorithm: kind, RawSubject: list.RawIssuer}
	if ours, theirs := s.Verify(issuer), list.CheckSignatureFrom(issuer); (ours == nil) != (theirs == nil) || errors.Is(ours, ErrNotVerifiable) {
		t.Errorf("verified: %v, crypto/x509 has %v", ours, theirs)
	}

	var parts struct {
		TBS, Algorithm asn1.RawValue
		Signature      asn1.BitString
	}
	if _, err := asn1.Unmarshal(list.Raw, &parts); err != nil {
		t.Fatal(err)
	}
	signature, err := crypto.SignMessage(key, rand.Reader, list.RawTBSRevocationList, options)
	if err != nil {
		t.Fatal(err)
	}
	parts.Signature = asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	der, err := asn1.Marshal(parts)
	if err != nil {
		t.Fatal(err)
	}
	anew, err := Scan(bytes.NewReader(der), Options{Spool: &memory{}})
	if err != nil {
		t.Fatalf("signed anew: %v\n%x", err, der)
	}
	if err := anew.Verify(issuer); err != nil {
		t.Errorf("signed anew: %v\n%x", err, der)
	}
}

// TestScanMutations changes, drops and repeats single octets.
func TestScanMutations(t *testing.T) {
	t.Parallel()
	a := p256(t)
	random := mathrand.New(mathrand.NewPCG(3, 5))
	for name, template := range lists() {
		t.Run(name, func(t *testing.T) {
			der := a.sign(t, template)
			if len(der) > 700 {
				template.RevokedCertificateEntries = template.RevokedCertificateEntries[:4]
				der = a.sign(t, template)
			}
			for at := 0; at < len(der); at += 10 / fewer(10) {
				for _, value := range []byte{0, 1, 0x30, 0x7f, 0x80, 0xff, der[at] ^ 1, der[at] ^ 0x80, der[at] + 1, der[at] - 1, byte(random.Uint32())} {
					changed := bytes.Clone(der)
					changed[at] = value
					differs(t, changed)
				}
				differs(t, append(bytes.Clone(der[:at]), der[at+1:]...))
				differs(t, append(append(bytes.Clone(der[:at+1]), der[at]), der[at+1:]...))
			}
			// Two at once: a length and what it covers.
			for range fewer(1000) {
				changed := bytes.Clone(der)
				changed[random.IntN(len(der))] += byte(random.IntN(5)) - 2
				changed[random.IntN(len(der))] += byte(random.IntN(5)) - 2
				differs(t, changed)
			}
		})
	}
}

func FuzzScan(f *testing.F) {
	for _, a := range authorities(f) {
		for _, template := range lists() {
			if len(template.RevokedCertificateEntries) > 6 {
				template.RevokedCertificateEntries = template.RevokedCertificateEntries[:6]
			}
			f.Add(a.sign(f, template))
		}
	}
	f.Add(small().der())
	f.Add(pointOf(tlv(0x30, tlv(0xa0, tlv(0xa0, tlv(0x86, []byte("http://ca.example/crl")), tlv(0xa4, issuerOf(tlv(0x0c, []byte("CA")))))),
		[]byte{0x81, 1, 0xff, 0x83, 2, 5, 0x60, 0x84, 1, 0xff})))
	eachOfCorpora(f, func(text []byte) {
		f.Add(text)
		for rest := text; ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				return
			}
			f.Add(block.Bytes)
		}
	})
	f.Fuzz(func(t *testing.T, der []byte) {
		if !(&window{src: bytes.NewReader(der), buf: make([]byte, windowSize)}).looksLikeDER() {
			t.Skip("PEM or nothing")
		}
		if list, s, spooled := differs(t, der); list != nil {
			compareSignature(t, list, s, spooled)
		}
	})
}

// eachOfCorpora calls seed with each file of the corpora, if they are there,
// that is short enough to be changed often.
func eachOfCorpora(f *testing.F, seed func([]byte)) {
	folder := os.Getenv("PKIWARDEN_CORPORA")
	if folder == "" {
		folder = filepath.Join("..", "..", "shared", "corpora")
	}
	if _, err := os.Stat(folder); err != nil {
		return
	}
	err := filepath.WalkDir(folder, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(file)
		if err == nil && len(text) < 4096 {
			seed(text)
		}
		return err
	})
	if err != nil {
		f.Fatal(err)
	}
}

// FuzzScanPEM holds that PEM never panics, and that what is accepted is the one
// list that encoding/pem finds.
func FuzzScanPEM(f *testing.F) {
	a := p256(f)
	block := pemBlock("X509 CRL", a.sign(f, listOf(2)))
	f.Add([]byte(block))
	f.Add([]byte("text\n" + pemBlock("CERTIFICATE", []byte("x")) + block + "text"))
	f.Add([]byte(strings.Replace(block, "M", "\r\fM", 1)))
	f.Add([]byte("-----BEGIN CRL-----\nA: b\n\nMA==\n-----END CRL-----"))
	eachOfCorpora(f, func(text []byte) {
		if bytes.Contains(text, []byte(pemBegin)) {
			f.Add(text)
		}
	})
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := Scan(bytes.NewReader(text), Options{})
		if err != nil || s.Format != FormatPEM {
			return
		}
		for rest := text; ; {
			var found *pem.Block
			if found, rest = pem.Decode(rest); found == nil {
				t.Fatalf("accepted, encoding/pem finds no list in %q", text)
			}
			if found.Type == "X509 CRL" || found.Type == "CRL" {
				if int64(len(found.Bytes)) != s.Bytes {
					t.Fatalf("%d bytes, encoding/pem finds %d", s.Bytes, len(found.Bytes))
				}
				compare(t, found.Bytes, s)
				return
			}
		}
	})
}

// fewer is n, and a tenth of it under -short: simulations run whole without the
// race detector, which slows them tenfold and finds nothing in them.
func fewer(n int) int {
	if testing.Short() {
		return max(n/10, 1)
	}
	return n
}
