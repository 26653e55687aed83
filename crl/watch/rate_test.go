package watch_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/crl/watch"
	"github.com/pkiwarden/pkiwarden/pki/vaultpki"
)

// busyVault answers HTTP like a Vault with many PKI mounts of two issuers, of
// which every other mount is tuned for conditional requests, and counts what it
// is asked.
type busyVault struct {
	mounts  []byte
	issuers []byte
	certs   map[string][]byte // JSON by issuer ID
	lists   map[string][]byte
	since   time.Time // thisUpdate

	mu      sync.Mutex
	now     time.Time
	asked   map[string]int         // by kind
	seconds map[int64]int          // by second of the clock
	byList  map[string][]time.Time // requests for one list
}

func newBusyVault(t *testing.T, mounts int, now time.Time) *busyVault {
	t.Helper()
	b := &busyVault{
		certs: map[string][]byte{}, lists: map[string][]byte{}, since: now.Add(-time.Hour).Truncate(time.Second),
		now: now, asked: map[string]int{}, seconds: map[int64]int{}, byList: map[string][]time.Time{},
	}
	encode := func(data any) []byte {
		raw, err := json.Marshal(map[string]any{"data": data})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	table := map[string]any{}
	for n := range mounts {
		config := map[string]any{}
		if n%2 == 0 {
			config["passthrough_request_headers"] = []string{"if-modified-since"}
		}
		table[fmt.Sprintf("team-%d/pki/", n)] = map[string]any{"type": "pki", "uuid": fmt.Sprintf("uuid-%d", n), "config": config}
	}
	b.mounts = encode(table)
	info := map[string]any{}
	for n := range 2 {
		id := fmt.Sprintf("00000000-0000-4000-8000-%012d", n)
		info[id] = map[string]any{"issuer_name": fmt.Sprintf("issuer-%d", n), "key_id": id}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: id}, KeyUsage: x509.KeyUsageCRLSign,
			NotAfter: now.AddDate(10, 0, 0), IsCA: true, BasicConstraintsValid: true,
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: b.since, NextUpdate: b.since.Add(72 * time.Hour)}, cert, key)
		if err != nil {
			t.Fatal(err)
		}
		b.certs[id] = encode(map[string]any{"certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))})
		b.lists[id] = encode(map[string]any{"crl": string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: list}))})
	}
	b.issuers = encode(map[string]any{"key_info": info})
	return b
}

func (b *busyVault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/v1/"), "/")
	kind, status, body := "other", http.StatusNotFound, []byte(`{"errors":[]}`)
	switch {
	case r.URL.Path == "/v1/sys/mounts":
		kind, status, body = "sys/mounts", http.StatusOK, b.mounts
	case len(parts) == 3 && parts[2] == "issuers":
		kind, status, body = "LIST issuers", http.StatusOK, b.issuers
	case len(parts) == 5 && parts[4] == "json":
		kind, status, body = "issuer's certificate", http.StatusOK, b.certs[parts[3]]
	case len(parts) == 5 && parts[4] == "crl":
		kind, status, body = "CRL", http.StatusOK, b.lists[parts[3]]
		var n int
		fmt.Sscanf(parts[0], "team-%d", &n)
		if at, err := http.ParseTime(r.Header.Get("If-Modified-Since")); err == nil && n%2 == 0 && at.After(b.since) {
			kind, status, body = "CRL, not modified", http.StatusNotModified, nil
		}
	case len(parts) == 4 && parts[3] == "crl": // config/crl
		kind, status, body = "config/crl", http.StatusOK, []byte(`{"data":{"auto_rebuild":true,"expiry":"72h"}}`)
	case len(parts) == 3 && parts[2] == "tidy-status":
		kind, status, body = "tidy-status", http.StatusOK, []byte(`{"data":{"state":"Inactive"}}`)
	}
	b.mu.Lock()
	b.asked[kind]++
	b.seconds[b.now.Unix()]++
	if strings.HasPrefix(kind, "CRL") {
		b.byList[r.URL.Path] = append(b.byList[r.URL.Path], b.now)
	}
	b.mu.Unlock()
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func (b *busyVault) clock() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

// TestRequestsAreEven counts what half an hour costs Vault with 150 mounts of
// two issuers, and how evenly it comes.
func TestRequestsAreEven(t *testing.T) {
	const mounts, issuers = 150, 300
	minutes := 30
	if testing.Short() {
		minutes = 12
	}
	start := time.Date(2026, 3, 1, 12, 0, 7, 0, time.UTC)
	vault := newBusyVault(t, mounts, start)
	server := httptest.NewServer(vault)
	defer server.Close()
	config := api.DefaultConfig()
	config.Address = server.URL
	client, err := api.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	client.SetToken("t")
	adapter, err := vaultpki.New(vaultpki.Options{Client: client})
	if err != nil {
		t.Fatal(err)
	}
	chance := mathrand.New(mathrand.NewPCG(1, 2))
	w, err := watch.New(watch.Options{
		Vault: adapter, Limits: fixedLimit{&bench{limit: crl.Limit{Known: true}}}, Thresholds: thresholds,
		Now: vault.clock, Random: chance.Float64,
	})
	if err != nil {
		t.Fatal(err)
	}
	for end := start.Add(time.Duration(minutes) * time.Minute); vault.clock().Before(end); {
		next, err := w.OnceUntil(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		vault.mu.Lock()
		if soonest := vault.now.Add(time.Second); next.Before(soonest) { // as the loop has it
			next = soonest
		}
		vault.now = next
		vault.mu.Unlock()
	}

	total := 0
	for kind, n := range vault.asked {
		t.Logf("%-22s %6d, %.2f for each issuer and hour", kind, n, float64(n)/issuers*60/float64(minutes))
		total += n
	}
	t.Logf("%-22s %6d, %.2f for each issuer and hour", "together", total, float64(total)/issuers*60/float64(minutes))
	if whole := vault.asked["CRL"] + vault.asked["CRL, not modified"]; whole < issuers*(minutes-4) || whole > issuers*(minutes+4) {
		t.Errorf("%d requests for lists, want about one a minute for each of %d", whole, issuers)
	}
	// Read twice at the start, where tuned once more within the hour; the others each time.
	if n := vault.asked["CRL, not modified"]; n < issuers/2*(minutes-6) {
		t.Errorf("%d answers 304", n)
	}
	if n := vault.asked["LIST issuers"]; n > mounts*(minutes+2) {
		t.Errorf("%d LIST issuers", n)
	}
	if n := vault.asked["sys/mounts"]; n > minutes+4 {
		t.Errorf("%d sys/mounts", n)
	}
	even := func(window int64, from time.Time, most float64) {
		t.Helper()
		counts := map[int64]int{}
		sum := 0
		for at, n := range vault.seconds {
			if at >= from.Unix() && at < start.Unix()+60*int64(minutes) {
				counts[(at-start.Unix())/window] += n
				sum += n
			}
		}
		highest := 0
		for _, n := range counts {
			highest = max(highest, n)
		}
		mean := float64(sum) / float64((start.Unix()+60*int64(minutes)-from.Unix())/window)
		t.Logf("windows of %d s from %s on: at most %d requests, %.2f times the mean", window, from.Sub(start), highest, float64(highest)/mean)
		if float64(highest) > most*mean {
			t.Errorf("windows of %d s: up to %d requests, %.2f times the mean of %.0f, want at most %.1f", window, highest, float64(highest)/mean, mean, most)
		}
	}
	even(60, start, 2.6) // with the start, where certificates and settings are read once
	even(60, start.Add(2*time.Minute), 1.3)
	even(10, start.Add(2*time.Minute), 1.8)
	for list, times := range vault.byList {
		for i := 1; i < len(times); i++ {
			if gap := times[i].Sub(times[i-1]); i > 1 && (gap < 45*time.Second || gap > 75*time.Second) {
				t.Fatalf("%s: %s between two requests", list, gap)
			}
		}
	}
}
