package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pkiwarden/pkiwarden/crl"
)

// TestCRLDiffScripts runs the sessions of `crl diff`.
func TestCRLDiffScripts(t *testing.T) { runCRLScripts(t, "testdata/crl-diff", writeStates) }

// list writes the list of a day, in DER.
func (l listFolder) list(name string, cert *x509.Certificate, key crypto.Signer, number int64, at time.Time, serials []*big.Int, extra ...pkix.Extension) []byte {
	l.Helper()
	list := x509.RevocationList{Number: big.NewInt(number), ThisUpdate: at, NextUpdate: at.AddDate(100, 0, 0), ExtraExtensions: extra}
	for _, serial := range serials {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: at.AddDate(0, 0, -1)})
	}
	return l.sign(name, list, cert, key)
}

// writeStates makes two states of a list, and lists that are none.
func writeStates(l listFolder) {
	ca, key := testIssuer(l.T, newECKey(l.T))
	other, otherKey := testIssuer(l.T, newECKey(l.T))
	edwards, edSigner := testIssuer(l.T, newEdwardsKey(l.T))
	l.write("ca.pem", pemBlock("CERTIFICATE", ca.Raw))
	l.write("other.pem", pemBlock("CERTIFICATE", other.Raw))
	l.write("edwards.pem", pemBlock("CERTIFICATE", edwards.Raw))

	day := time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC)
	later := day.Add(25 * time.Hour)
	var before, after []*big.Int
	for i := range int64(33) {
		if i < 30 {
			before = append(before, big.NewInt(1029-i)) // from 03:e8 on
		}
		if i >= 3 {
			after = append(after, big.NewInt(1000+i))
		}
	}
	after = append(after, big.NewInt(0xff01), big.NewInt(0x7f0102))
	l.list("before.crl", ca, key, 7, day, before)
	der := l.list("after.crl", ca, key, 8, later, after)
	l.write("after.pem", append([]byte("The next day:\n"), pemBlock("X509 CRL", der)...))
	l.write("cut.crl", der[:700])
	l.write("forged.crl", flipped(der))
	l.list("twice.crl", ca, key, 9, later, []*big.Int{before[0], big.NewInt(5), before[0]})
	l.list("samenumber.crl", ca, key, 7, day, before[:1])
	l.list("redated.crl", ca, key, 7, later, before)
	l.list("otherkey.crl", other, otherKey, 8, later, after)
	l.list("edwards.crl", edwards, edSigner, 7, day, before)
	l.list("delta.crl", ca, key, 9, later, before[:1], extension(27, true, 2, 1, 8))
	l.list("shard.crl", ca, key, 8, later, after, caOnly())
	l.unsigned("numberless.crl", ca, rawList{ThisUpdate: day, NextUpdate: later})

	var long [2][]*big.Int
	const n = 122_400
	for i := range uint64(n) {
		at := i * 7919 % n // in no order
		if at%102 < 100 {
			long[0] = append(long[0], serialOf(at))
		}
		if at%102 != 50 {
			long[1] = append(long[1], serialOf(at))
		}
	}
	l.list("long-before.crl", ca, key, 70, day, long[0])
	l.list("long-after.crl", ca, key, 71, later, long[1])
}

// serialOf is a serial number of 20 octets.
func serialOf(i uint64) *big.Int {
	serial := make([]byte, 20)
	serial[0] = 0x40
	binary.BigEndian.PutUint64(serial[3:], i*0x9e3779b97f4a7c15)
	return new(big.Int).SetBytes(serial)
}

// TestDiffInterrupted: the end of the command's context, which is what a signal
// is, ends the comparison itself.
func TestDiffInterrupted(t *testing.T) {
	l := listFolder{t, t.TempDir()}
	ca, key := testIssuer(t, newECKey(t))
	var lists [2][]*big.Int // with nothing in common, so that much is printed
	for i := range uint64(20_000) {
		lists[i%2] = append(lists[i%2], serialOf(i))
	}
	l.list("before.crl", ca, key, 7, time.Now(), lists[0])
	l.list("after.crl", ca, key, 8, time.Now(), lists[1])
	ctx, cancel := context.WithCancel(t.Context())
	stdout := writerFunc(func(b []byte) (int, error) { cancel(); return len(b), nil })
	a := &app{stdin: strings.NewReader(""), stdout: stdout, stderr: io.Discard, env: func(string) string { return "" }, now: time.Now, output: outputTable}
	root := newRootCmd(a)
	root.SetArgs([]string{"crl", "diff", "--serials", filepath.Join(l.folder, "before.crl"), filepath.Join(l.folder, "after.crl")})
	if err := root.ExecuteContext(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want the context's end", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// TestDiffNoSpace: a temporary folder that is full is named, with what helps.
func TestDiffNoSpace(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	var scratch scratchFiles
	defer scratch.close()
	serials := crl.NewSerials(func() (crl.Scratch, error) {
		opened, err := scratch.open()
		f, ok := opened.(scratchFile)
		if !ok {
			t.Fatalf("%T, %v", opened, err)
		}
		f.File = full
		return f, err
	})
	for i := uint64(0); err == nil && i < 1_000_000; i++ {
		err = serials.Add(crl.Entry{Serial: serialOf(i).Bytes()})
	}
	if !errors.Is(err, unix.ENOSPC) || !strings.HasSuffix(err.Error(), "no space left on device (free space there, or set TMPDIR to a folder with more)") {
		t.Errorf("%v", err)
	}
}
