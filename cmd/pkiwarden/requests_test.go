package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/config"
	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier/tidiertest"
)

// quietVault answers as a Vault whose PKI mounts have one issuer each, of which
// nothing is to be tidied, and counts what it is asked. It is its own transport,
// without a network, so that hours pass at once.
type quietVault struct {
	answers map[string][]byte // data by path; what is not here is not found

	mu    sync.Mutex
	asked map[string]int // by kind of request
	begin time.Time      // what was asked before does not count
	busy  map[int64]int  // by minute
}

func newQuietVault(t *testing.T, mounts int) *quietVault {
	t.Helper()
	v := &quietVault{answers: map[string][]byte{}, asked: map[string]int{}, busy: map[int64]int{}}
	put := func(path string, data any) {
		raw, err := json.Marshal(data)
		if err != nil {
			t.Fatal(err)
		}
		v.answers[path] = raw
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, KeyUsage: x509.KeyUsageCRLSign,
		NotBefore: now, NotAfter: now.AddDate(10, 0, 0), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	// Revoked a month ago, of certificates that live for two: they are in
	// question, and a sample tells that none has expired.
	leaf := &x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: now.AddDate(0, -1, 0), NotAfter: now.AddDate(0, 1, 0)}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, issuer, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	var entries []x509.RevocationListEntry
	for i := range 300 {
		entries = append(entries, x509.RevocationListEntry{SerialNumber: big.NewInt(int64(1<<20 + i)), RevocationTime: now.AddDate(0, -1, 0)})
	}
	list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(71 * time.Hour), RevokedCertificateEntries: entries,
	}, issuer, key)
	if err != nil {
		t.Fatal(err)
	}
	text := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}

	put("sys/health", map[string]any{"initialized": true, "version": "1.21.1", "cluster_id": "c"})
	put("sys/seal-status", map[string]any{"version": "1.21.1", "cluster_id": "c", "storage_type": "raft"})
	put("sys/leader", map[string]any{"ha_enabled": true, "is_self": true, "active_time": now.Add(-24 * time.Hour)})
	data := func(path string, d any) { put(path, map[string]any{"data": d}) }
	data("sys/config/state/sanitized", map[string]any{"storage": map[string]any{"type": "raft", "raft": map[string]any{}}})
	table := map[string]any{}
	for n := range mounts {
		m := fmt.Sprintf("pki-%d", n)
		table[m+"/"] = map[string]any{"type": "pki", "uuid": fmt.Sprintf("u-%d", n)}
		id := fmt.Sprintf("00000000-0000-4000-8000-%012d", n)
		data(m+"/issuers", map[string]any{"keys": []string{id}, "key_info": map[string]any{id: map[string]any{"issuer_name": "root", "key_id": id, "is_default": true}}})
		data(m+"/issuer/"+id+"/json", map[string]any{"certificate": text("CERTIFICATE", der)})
		data(m+"/issuer/"+id, map[string]any{"usage": "read-only,issuing-certificates,crl-signing,ocsp-signing"})
		data(m+"/issuer/"+id+"/crl", map[string]any{"crl": text("X509 CRL", list)})
		data(m+"/config/crl", map[string]any{"auto_rebuild": true, "expiry": "72h"})
		data(m+"/config/auto-tidy", map[string]any{"enabled": false, "interval_duration": 43200})
		data(m+"/tidy-status", map[string]any{
			"state": "Finished", "time_started": now.Add(-time.Hour), "time_finished": now.Add(-time.Hour),
			"tidy_cert_store": true, "tidy_revoked_certs": true, "safety_buffer": 259200,
		})
		data(m+"/roles", map[string]any{"keys": []string{"pod"}})
		data(m+"/roles/pod", map[string]any{"max_ttl": 60 * 24 * 3600})
		data(m+"/cert/", map[string]any{"certificate": text("CERTIFICATE", leafDER), "revocation_time": now.AddDate(0, -1, 0).Unix()})
	}
	data("sys/mounts", table)
	return v
}

var (
	serialPart = regexp.MustCompile(`/cert/.*`)
	idPart     = regexp.MustCompile(`/issuer/[^/]*`)
	mountPart  = regexp.MustCompile(`^pki-\d+`)
)

// RoundTrip implements http.RoundTripper. Each answer takes a millisecond.
func (v *quietVault) RoundTrip(r *http.Request) (*http.Response, error) {
	select {
	case <-time.After(time.Millisecond):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	path := serialPart.ReplaceAllString(strings.TrimPrefix(r.URL.Path, "/v1/"), "/cert/")
	kind := r.Method
	if r.URL.Query().Get("list") == "true" {
		kind = "LIST"
	}
	kind += " " + mountPart.ReplaceAllString(idPart.ReplaceAllString(path, "/issuer/ID"), "PKI")
	v.mu.Lock()
	if now := time.Now(); !now.Before(v.begin) {
		v.asked[kind]++
		v.busy[now.Unix()/60]++
	}
	v.mu.Unlock()
	rec := httptest.NewRecorder()
	if body, ok := v.answers[path]; ok {
		_, _ = rec.Write(body)
	} else {
		rec.WriteHeader(http.StatusNotFound)
		_, _ = rec.WriteString(`{"errors":[]}`)
	}
	return rec.Result(), nil
}

// hours runs the leader's work on v with the default configuration and returns
// how much was asked in an hour of the steady state, by kind.
func (v *quietVault) hours(t *testing.T) map[string]float64 {
	t.Helper()
	const warm, counted = 1, 2
	c := api.DefaultConfig()
	c.Address = "http://vault.invalid"
	c.HttpClient.Transport = v
	client, err := api.NewClient(c)
	if err != nil {
		t.Fatal(err)
	}
	client.SetToken("t")
	cfg := config.Default()
	cfg.Tidy.Enabled = true
	of := &cluster{cfg: cfg, state: new(tidiertest.State), identity: "test"}
	log := slog.New(slog.DiscardHandler)
	var found []string
	work, err := of.workOn(client, vaultWorkOptions{
		log: log, registry: prometheus.NewRegistry(),
		reportCRL: func([]crl.Finding) {},
		reportPKI: func(list []pki.Finding) {
			for _, f := range list {
				found = append(found, f.Rule)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	run, err := work.loops(cfg.CRL.Interval, log, nil)
	if err != nil {
		t.Fatal(err)
	}
	v.begin = time.Now().Add(warm * time.Hour)
	ctx, cancel := context.WithTimeout(t.Context(), (warm+counted)*time.Hour)
	defer cancel()
	if err := run(ctx); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(found, "tidy-would-run") {
		t.Errorf("findings %v: this is no steady state", found)
	}
	hourly := map[string]float64{}
	for kind, n := range v.asked {
		hourly[kind] = float64(n) / counted
	}
	return hourly
}

// TestRequestsAnHour counts at the HTTP layer what a leader with the default
// configuration asks of Vault, CRLs and tidy together, when nothing happens. The
// README quotes it.
func TestRequestsAnHour(t *testing.T) {
	const many = 4
	totals := map[int]float64{}
	for _, mounts := range []int{1, many} {
		synctest.Test(t, func(t *testing.T) {
			v := newQuietVault(t, mounts)
			hourly := v.hours(t)
			for _, kind := range slices.Sorted(maps.Keys(hourly)) {
				t.Logf("%3d mounts: %-32s %8.1f an hour", mounts, kind, hourly[kind])
				totals[mounts] += hourly[kind]
			}
			highest, sum := 0, 0
			for _, n := range v.busy {
				highest, sum = max(highest, n), sum+n
			}
			t.Logf("%3d mounts: %.0f an hour; the busiest minute has %.2f times the mean", mounts, totals[mounts], float64(highest)*float64(len(v.busy))/float64(sum))
			for _, method := range []string{"POST ", "PUT ", "DELETE "} {
				for kind := range hourly {
					if strings.HasPrefix(kind, method) {
						t.Errorf("%s in a steady state", kind)
					}
				}
			}
		})
	}
	each := (totals[many] - totals[1]) / (many - 1)
	t.Logf("each mount of one issuer: %.0f an hour; everything else: %.0f", each, totals[1]-each)
	if each > 190 || totals[1]-each > 230 {
		t.Errorf("%.0f and %.0f, want no more than the README says", each, totals[1]-each)
	}
}
