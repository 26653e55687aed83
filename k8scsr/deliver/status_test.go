package deliver

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func sha256Of(t *testing.T, p Pair) string {
	t.Helper()
	block, _ := pem.Decode(p.Certificate)
	sum := sha256.Sum256(block.Bytes)
	return hex.EncodeToString(sum[:])
}

// What is delivered and served is known without waiting for a pass: before
// there is anything, while the server is away, after a bad pair.
func TestStatus(t *testing.T) {
	ca := newAuthority(t)
	good, other := ca.issue(t, time.Hour), ca.issue(t, time.Hour)
	address := freeAddress(t)
	b := newBench(t, vaultAt(address))
	if s := b.Status(); !s.LookedAt.IsZero() || s.Delivered || s.Fingerprint != "" || s.Certificate != "vault-server" {
		t.Errorf("before the first pass: %+v", s)
	}
	want := func(what string, delivered bool, problem string, of *Pair, served Served) {
		t.Helper()
		_ = b.Once(t.Context())
		s := b.Status()
		fingerprint := ""
		if of != nil {
			fingerprint = sha256Of(t, *of)
		}
		if s.LookedAt.IsZero() || s.Delivered != delivered || s.Fingerprint != fingerprint || s.NotAfter.IsZero() != (of == nil) ||
			(s.Err == nil) != (problem == "") || s.Err != nil && !strings.Contains(s.Err.Error(), problem) {
			t.Errorf("%s: %+v", what, s)
		}
		if len(s.Addresses) != 1 {
			t.Fatalf("%s: %d addresses", what, len(s.Addresses))
		}
		got := s.Addresses[0]
		if got.Address != address || got.Served != served.Served || got.Known != served.Known || !strings.Contains(got.Err, served.Err) || served.Err == "" && got.Err != "" {
			t.Errorf("%s: %+v, want %+v", what, got, served)
		}
	}
	want("no certificate", false, "no certificate yet", nil, Served{})
	b.source.put(good, nil)
	want("no server", true, "", &good, Served{Err: "connection refused"})
	b.startServer(t, address, "ignore")
	b.skew += 2 * time.Minute
	want("served", true, "", &good, Served{Served: true, Known: true})
	b.source.put(Pair{good.Certificate, other.Key, nil}, nil)
	want("a bad pair", true, "private key does not match", &good, Served{Served: true, Known: true})
	b.source.put(Pair{}, errors.New("connection refused"))
	want("no source", true, "connection refused", &good, Served{Served: true, Known: true})
	b.source.put(other, nil)
	b.o.Timeout = 100 * time.Millisecond
	want("another leaf", true, "", &other, Served{Known: true, Err: "and not the stored"})
	if text := fmt.Sprintf("%+v", b.Status()); strings.Contains(text, "PRIVATE") {
		t.Error("it holds a key")
	}
}
