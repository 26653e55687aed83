package crl

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// corpora is the folder of lists that nobody on this project made: that of
// PKIWARDEN_CORPORA, or shared/corpora beside the repository.
func corpora(t testing.TB) string {
	folder := os.Getenv("PKIWARDEN_CORPORA")
	if folder == "" {
		folder = filepath.Join("..", "..", "shared", "corpora")
	}
	if _, err := os.Stat(filepath.Join(folder, "manifest.jsonl")); err != nil {
		t.Skipf("no corpora: %v (PKIWARDEN_CORPORA names the folder)", err)
	}
	return folder
}

// stricter are the lists that crypto/x509 accepts and this package does not,
// with the rule that each breaks.
var stricter = map[string]string{
	"boringssl/pki/testdata/crl_unittest/invalid_garbage_after_crlentryextensions.pem": ruleNoTrailing,
	"boringssl/pki/testdata/crl_unittest/invalid_garbage_after_extensions.pem":         ruleNoTrailing,
	"boringssl/pki/testdata/crl_unittest/invalid_garbage_after_nextupdate.pem":         ruleNoTrailing,
	"boringssl/pki/testdata/crl_unittest/invalid_garbage_after_revocationdate.pem":     ruleNoTrailing,
	"boringssl/pki/testdata/crl_unittest/invalid_garbage_after_revokedcerts.pem":       ruleNoTrailing,
	"boringssl/pki/testdata/crl_unittest/invalid_garbage_after_thisupdate.pem":         ruleNoTrailing,
	"boringssl/pki/testdata/crl_unittest/invalid_idp_dpname_choice_extra_data.pem":     ruleDistributionPoint,
	"boulder/linter/lints/cpcps/testdata/crl_idp_no_fullname.pem":                      ruleDistributionPoint,
	"boulder/linter/lints/cpcps/testdata/crl_idp_no_uris.pem":                          ruleDistributionPoint,
	"boulder/linter/lints/cpcps/testdata/crl_idp_some_reasons.pem":                     ruleDistributionPoint,
	"boulder/linter/lints/rfc/testdata/crl_utctime_no_seconds.pem":                     ruleUTCTime,
	"rustls-webpki/tests/crls/crl.idp.explicit.false.bool.der":                         ruleDistributionPoint,
	"rustls-webpki/tests/crls/crl.idp.invalid.bool.der":                                ruleDistributionPoint,
	"rustls-webpki/tests/crls/crl.idp.invalid.name.der":                                ruleDistributionPoint,
	"rustls-webpki/tests/crls/crl.idp.unknown.tag.der":                                 ruleDistributionPoint,
}

// verdicts are what three parsers made of a list.
type verdicts struct {
	File           string    `json:"file"`
	Index          int       `json:"idx"`
	SHA256         string    `json:"der_sha256"`
	GoErr          string    `json:"go_err"`
	GoEntries      int64     `json:"go_entries"`
	GoThis         time.Time `json:"go_this"`
	GoNext         time.Time `json:"go_next"`
	GoNumber       string    `json:"go_number"`
	OpenSSL        bool      `json:"openssl_ok"`
	OpenSSLEntries int64     `json:"openssl_entries"`
	GnuTLS         bool      `json:"gnutls_ok"`
	GnuTLSEntries  int64     `json:"gnutls_entries"`
}

// TestCorpora: what crypto/x509 accepts is accepted with the same values, and
// what it refuses is refused, but for the rules in which this package is
// stricter.
func TestCorpora(t *testing.T) {
	folder := corpora(t)
	manifest, err := os.Open(filepath.Join(folder, "manifest.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer manifest.Close()
	counts := map[string]int{}
	lines := bufio.NewScanner(manifest)
	lines.Buffer(nil, 1<<20)
	listed := map[string]bool{}
	for lines.Scan() {
		var v verdicts
		if err := json.Unmarshal(lines.Bytes(), &v); err != nil {
			t.Fatal(err)
		}
		listed[v.File] = true
		counts[v.compare(t, listIn(t, filepath.Join(folder, v.File), v))]++
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	t.Log(counts)
	if counts["accepted by all"] < 250 || counts["refused by all"] < 100 || counts["stricter"] < len(stricter) {
		t.Errorf("too few lists of a kind: %v", counts)
	}
	for file := range stricter {
		if !listed[file] {
			t.Errorf("%s is not in the manifest", file)
		}
	}
}

// listIn is the DER that the manifest means.
func listIn(t *testing.T, file string, v verdicts) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	candidates := [][]byte{text}
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		candidates = append(candidates, block.Bytes)
	}
	for _, c := range candidates {
		if sum := sha256.Sum256(c); hex.EncodeToString(sum[:]) == v.SHA256 {
			return c
		}
	}
	t.Fatalf("%s holds no list with digest %s", v.File, v.SHA256)
	return nil
}

func (v verdicts) compare(t *testing.T, der []byte) string {
	t.Helper()
	s, err := scanWithin(t, v.File, der)
	var syntax *SyntaxError
	if err != nil && !errors.As(err, &syntax) {
		t.Errorf("%s: %v", v.File, err)
		return "neither"
	}
	switch {
	case v.GoErr == "" && err == nil:
		compare(t, der, s)
		if s.Entries != v.GoEntries || !s.ThisUpdate.Equal(v.GoThis) || !s.NextUpdate.Equal(v.GoNext) || v.GoNumber != "" && v.GoNumber != fmt.Sprint(s.Number) {
			t.Errorf("%s: %d entries, %v to %v, number %v", v.File, s.Entries, s.ThisUpdate, s.NextUpdate, s.Number)
		}
		if v.OpenSSL && v.GnuTLS {
			if v.OpenSSLEntries != s.Entries || v.GnuTLSEntries != s.Entries {
				t.Errorf("%s: %d entries, others have %d and %d", v.File, s.Entries, v.OpenSSLEntries, v.GnuTLSEntries)
			}
			return "accepted by all"
		}
		return "accepted by Go"
	case v.GoErr != "" && err == nil:
		t.Errorf("%s is accepted, Go has %s", v.File, v.GoErr)
	case v.GoErr == "":
		if syntax.Rule == "" || stricter[v.File] != syntax.Rule {
			t.Errorf("%s: %v; Go accepts it, and this rule is not listed", v.File, err)
		}
		return "stricter"
	case !v.OpenSSL && !v.GnuTLS:
		return "refused by all"
	}
	return "refused as by Go"
}

// scanWithin scans, and holds the time and the memory that it takes.
func scanWithin(t *testing.T, file string, input []byte) (Summary, error) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	from := time.Now()
	s, err := Scan(bytes.NewReader(input), Options{})
	took := time.Since(from)
	runtime.ReadMemStats(&after)
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 1<<20 || took > 5*time.Second {
		t.Errorf("%s, %d bytes: %d bytes allocated in %v", file, len(input), allocated, took)
	}
	return s, err
}

// TestCorporaBounded scans every file of the corpora as it is, whatever it
// holds.
func TestCorporaBounded(t *testing.T) {
	n := 0
	err := filepath.WalkDir(corpora(t), func(file string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		n++
		_, err = scanWithin(t, file, text)
		var syntax *SyntaxError
		if err != nil && !errors.As(err, &syntax) && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", file, err)
		}
		return nil
	})
	if err != nil || n < 1000 {
		t.Errorf("%d files, %v", n, err)
	}
}

// TestCorporaPEM reads the PEM files as they are, text and other blocks around
// the list included.
func TestCorporaPEM(t *testing.T) {
	folder := corpora(t)
	files, err := filepath.Glob(filepath.Join(folder, "boringssl", "pki", "testdata", "crl_unittest", "*.pem"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		whole, wholeErr := Scan(bytes.NewReader(text), Options{})
		for rest := text; ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				t.Errorf("%s has no list", file)
				break
			}
			if block.Type != "CRL" {
				continue
			}
			alone, err := Scan(bytes.NewReader(block.Bytes), Options{})
			if (err == nil) != (wholeErr == nil) || alone.Bytes != whole.Bytes || alone.Entries != whole.Entries {
				t.Errorf("%s: in PEM %v, in DER %v", filepath.Base(file), wholeErr, err)
			}
			break
		}
	}
}
