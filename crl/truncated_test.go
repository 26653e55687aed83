package crl

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// refusedWhenCut scans the list cut at every octet, in DER and in PEM.
func refusedWhenCut(t *testing.T, name string, der []byte) {
	t.Helper()
	if _, err := Scan(bytes.NewReader(der), Options{}); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	step := 10 / fewer(10)
	for n := 0; n < len(der); n += step {
		_, err := Scan(bytes.NewReader(der[:n]), Options{})
		var syntax *SyntaxError
		if !errors.As(err, &syntax) {
			t.Fatalf("%s, cut at byte %d of %d: %v", name, n, len(der), err)
		}
		if syntax.Offset > int64(n) {
			t.Fatalf("%s, cut at byte %d: the error is at byte %d", name, n, syntax.Offset)
		}
	}
	text := "text\n" + pemBlock("X509 CRL", der)
	for n := 0; n < len(text)-1; n += step { // the last newline is not missed
		if _, err := Scan(strings.NewReader(text[:n]), Options{}); err == nil {
			t.Fatalf("%s: PEM cut at byte %d of %d is accepted", name, n, len(text))
		}
	}
}

// TestScanTruncated cuts lists of all shapes and of three kinds of signature.
func TestScanTruncated(t *testing.T) {
	t.Parallel()
	samples := 0
	for _, a := range []authority{
		p256(t),
		newAuthority(t, named("PSS, SHA-384"), rsaKey(t), x509.SHA384WithRSAPSS),
		newAuthority(t, named("P-521"), ecKey(t, elliptic.P521()), x509.ECDSAWithSHA512),
	} {
		for name, template := range lists() {
			template.RevokedCertificateEntries = template.RevokedCertificateEntries[:min(6, len(template.RevokedCertificateEntries))]
			refusedWhenCut(t, fmt.Sprintf("%s/%s", a.name, name), a.sign(t, template))
			samples++
		}
	}
	refusedWhenCut(t, "with a distribution point", pointOf(tlv(0x30, []byte{0x81, 1, 0xff, 0x83, 2, 5, 0x60})))
	if samples < 20 {
		t.Errorf("%d samples", samples)
	}
}

// TestCorporaTruncated cuts a few lists of each folder of the corpora.
func TestCorporaTruncated(t *testing.T) {
	t.Parallel()
	folder := corpora(t)
	counts := map[string]int{}
	err := filepath.WalkDir(folder, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		der, err := os.ReadFile(file)
		if err != nil || len(der) > 1500 || counts[filepath.Dir(file)] == 6 {
			return err
		}
		if _, err := x509.ParseRevocationList(der); err != nil {
			return nil
		}
		if s, err := Scan(bytes.NewReader(der), Options{}); err == nil && s.Format == FormatDER {
			refusedWhenCut(t, file, der)
			counts[filepath.Dir(file)]++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	samples := 0
	for _, n := range counts {
		samples += n
	}
	if samples < 20 {
		t.Errorf("%d samples: %v", samples, counts)
	}
}
