package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"io"
	stdlog "log"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// TestCRLScripts runs the sessions of `crl inspect`.
func TestCRLScripts(t *testing.T) { runCRLScripts(t, "testdata/crl", writeLists) }

// writeLists makes two issuers with one name, and lists of the first.
func writeLists(l listFolder) {
	ca, key := testIssuer(l.T, newECKey(l.T))
	other, _ := testIssuer(l.T, newECKey(l.T))
	edwards, edSigner := testIssuer(l.T, newEdwardsKey(l.T))
	l.write("ca.pem", append([]byte("The issuer:\n"), pemBlock("CERTIFICATE", ca.Raw)...))
	l.write("ca.der", ca.Raw)
	l.write("other.pem", pemBlock("CERTIFICATE", other.Raw))
	l.write("edwards.pem", pemBlock("CERTIFICATE", edwards.Raw))
	l.write("key.pem", pemBlock("PUBLIC KEY", []byte("x")))

	start := time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC)
	full := x509.RevocationList{Number: new(big.Int).Lsh(big.NewInt(1), 70), ThisUpdate: start, NextUpdate: start.AddDate(100, 0, 0)}
	for i := range 30 {
		entry := x509.RevocationListEntry{SerialNumber: big.NewInt(int64(1000 + i)), RevocationTime: start.AddDate(0, 0, -i)}
		if i < 3 {
			entry.ReasonCode = 1
		} else if i < 5 {
			entry.ReasonCode = 4
		}
		full.RevokedCertificateEntries = append(full.RevokedCertificateEntries, entry)
	}
	der := l.sign("full.crl", full, ca, key)
	l.write("full.pem", append(append([]byte("Some text\n"), pemBlock("CERTIFICATE", ca.Raw)...), pemBlock("X509 CRL", der)...))
	l.write("chatty.pem", append(bytes.Repeat([]byte("Some text\n"), 150_000), pemBlock("X509 CRL", der)...))
	scoped := full
	scoped.ExtraExtensions = []pkix.Extension{caOnly(), {Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
	l.sign("scoped.crl", scoped, ca, key)
	l.write("edwards-forged.crl", flipped(l.sign("edwards.crl", full, edwards, edSigner)))
	l.write("cut.crl", der[:700])
	l.write("longer.crl", append(append([]byte{}, der...), 0))
	l.write("empty.crl", nil)
	l.write("forged.crl", flipped(der))

	delta := x509.RevocationList{Number: big.NewInt(9), ThisUpdate: start, NextUpdate: start.Add(time.Hour), ExtraExtensions: []pkix.Extension{
		extension(27, true, 2, 1, 8),
		{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}},
	}}
	l.sign("delta.crl", delta, ca, key)

	// Accepted, and not as RFC 5280 wants it.
	reason := func(code byte) []pkix.Extension { return []pkix.Extension{extension(21, false, 10, 1, code)} }
	l.unsigned("odd.crl", ca, rawList{
		Algorithm:  pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 99}},
		ThisUpdate: start.AddDate(100, 0, 0),
		Entries:    []rawEntry{{big.NewInt(1), start, reason(7)}, {big.NewInt(2), start, reason(11)}, {big.NewInt(3), start, reason(1)}},
		Extensions: []pkix.Extension{
			extension(20, false, 2, 1, 5), extension(20, false, 2, 1, 0xff), extension(27, true, append([]byte{2, 21, 1}, make([]byte, 20)...)...),
		},
	})
	l.unsigned("reversed.crl", ca, rawList{ThisUpdate: start, NextUpdate: start.AddDate(0, 0, -1)})
}

func TestRoughly(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                             "less than a second",
		time.Second:                   "1 second",
		90 * time.Second:              "1 minute 30 seconds",
		2 * time.Hour:                 "2 hours",
		53*time.Hour + 59*time.Minute: "2 days 5 hours",
		366 * 24 * time.Hour:          "1 year 1 day",
		24*time.Hour + 30*time.Second: "1 day",
	} {
		if got := roughly(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

func TestBar(t *testing.T) {
	for value, want := range map[int64]string{0: "░░░░", 12: "░░░░", 13: "█░░░", 50: "██░░", 100: "████", 1000: "████"} {
		if got := bar(value, 100, 4); got != want {
			t.Errorf("%d %%: %s, want %s", value, got, want)
		}
	}
}

func TestGrouped(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1048445: "1,048,445", -1000: "-1,000"} {
		if got := grouped(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestPrintable(t *testing.T) {
	if got := printable("CN=\x1b[31mé\u202e"); strings.ContainsAny(got, "\x1b\u202e") || !strings.Contains(got, "é") {
		t.Errorf("%q", got)
	}
}

// TestInspectInterrupted: a pipe that nobody writes to does not make the
// command deaf to the end of its context, which is what a signal is.
func TestInspectInterrupted(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	a := &app{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard, env: func(string) string { return "" }, now: time.Now, output: outputTable}
	root := newRootCmd(a)
	root.SetArgs([]string{"crl", "inspect", pipe})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if err := root.ExecuteContext(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want the context's end", err)
	}
	// The goroutine that opens the pipe ends with the process, here with this.
	if w, err := os.OpenFile(pipe, os.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
		w.Close()
	}
}

// TestInterruptedReadIsTheLast: what a read that was interrupted still brings
// goes nowhere, since what it would be kept in is closed by then.
func TestInterruptedReadIsTheLast(t *testing.T) {
	l := listFolder{t, t.TempDir()}
	cert, key := testIssuer(t, newECKey(t))
	der := l.sign("list.crl", x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}, cert, key)
	synctest.Test(t, func(t *testing.T) {
		reads, waiting, release := 0, make(chan struct{}), make(chan struct{})
		stdin := readerFunc(func(b []byte) (int, error) {
			switch reads++; reads {
			case 1:
				return copy(b, der[:100]), nil
			case 2:
				close(waiting)
				<-release
				return copy(b, der[100:]), nil
			}
			return 0, io.EOF
		})
		a := &app{stdin: stdin, stdout: io.Discard, stderr: io.Discard, env: func(string) string { return "" }, now: time.Now, output: outputTable}
		root := newRootCmd(a)
		root.SetArgs([]string{"crl", "inspect", "-"})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- root.ExecuteContext(ctx) }()
		<-waiting
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want the context's end", err)
		}
		close(release)
		synctest.Wait()
		if reads != 2 {
			t.Errorf("%d reads, want none after the one that was interrupted", reads)
		}
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// TestUnsolicitedResponse: what net/http says about a server is not on stderr.
func TestUnsolicitedResponse(t *testing.T) {
	l := listFolder{t, t.TempDir()}
	cert, key := testIssuer(t, newECKey(t))
	der := l.sign("list.crl", x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}, cert, key)
	url, gone := serveRudely(t, der)
	var said, stderr output
	stdlog.SetOutput(&said)
	if code := run([]string{"crl", "inspect", url + "/chatty"}, strings.NewReader(""), io.Discard, &stderr, func(string) string { return "" }); code != 0 {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
	<-gone // net/http closes the connection after it has complained
	if said.String() != "" || stderr.String() != "" {
		t.Errorf("said: %q%q, want nothing", said.String(), stderr.String())
	}
}
