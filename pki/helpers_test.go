package pki_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

// now is a whole hour, so that revocations at whole hours before it fall on
// edges of a histogram's buckets.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

type batch struct {
	n   int
	ago time.Duration // revoked so long before now
}

type authority struct {
	name string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t testing.TB, name string) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.AddDate(-1, 0, 0),
		NotAfter:              now.AddDate(10, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCRLSign,
		SubjectKeyId:          []byte(name),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{name, key, cert}
}

// list makes a CRL of the given age with the given entries, as measured.
func (a authority) list(t *testing.T, age time.Duration, limit int64, batches ...batch) pki.CRL {
	t.Helper()
	template := &x509.RevocationList{Number: big.NewInt(7), ThisUpdate: now.Add(-age), NextUpdate: now.Add(72 * time.Hour)}
	serial := new(big.Int).Lsh(big.NewInt(1), 158) // 20 octets
	for _, b := range batches {
		for range b.n {
			serial = new(big.Int).Add(serial, big.NewInt(1))
			template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
				x509.RevocationListEntry{SerialNumber: serial, RevocationTime: now.Add(-b.ago)})
		}
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, a.cert, a.key)
	if err != nil {
		t.Fatal(err)
	}
	summary, err := crl.Scan(bytes.NewReader(der), crl.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := pki.CRL{Mount: mount, Issuer: pki.Issuer{ID: a.name, Certificate: a.cert}, Summary: summary, MeasuredAt: now}
	if limit > 0 {
		c.Limit = crl.Limit{Backend: "raft", MaxBytes: limit, Known: true}
	}
	return c
}

var mount = pki.Mount{Path: "pki", UUID: "u-1"}

const hour = time.Hour
const days = 24 * time.Hour

// policy is config.yaml's.
func policy() pki.Policy {
	return pki.Policy{
		Enabled:      true,
		SafetyBuffer: 72 * hour,
		Trigger:      pki.Trigger{ReclaimableShare: 0.2, ReclaimableEntries: 1000, LimitShare: 0.5, AtLeastEvery: 168 * hour},
		MinInterval:  hour,
		CertStore:    true,
		Rotate:       true,
	}
}

// observation is of a well Vault, with roles of at most a day, that finished a
// run of somebody's two days ago.
func observation(lists ...pki.CRL) pki.Observation {
	return pki.Observation{
		Mount:      mount,
		CRLs:       append([]pki.CRL{}, lists...),
		LongestTTL: pki.LongestTTL{Duration: 24 * hour, Source: "max_ttl of role web"},
		CRLConfig:  &pki.CRLConfig{},
		AutoTidy:   &pki.AutoTidy{},
		Health:     pki.Health{Initialized: true, ActiveSince: now.Add(-days), ActiveAddress: "https://a:8200"},
		Status: &pki.TidyStatus{
			State: pki.TidyFinished, RevokedCerts: true, CertStore: true,
			StartedAt: now.Add(-2*days - time.Minute), FinishedAt: now.Add(-2 * days),
		},
		Record: pki.Record{Version: 1, WatchedSince: now.Add(-3 * days)},
	}
}

// fewer is n, and a tenth of it under -short: simulations run whole without the
// race detector, which slows them tenfold and finds nothing in them.
func fewer(n int) int {
	if testing.Short() {
		return max(n/10, 1)
	}
	return n
}

// byChance is how many more of few cases may miss than of many.
func byChance() int {
	if testing.Short() {
		return 5
	}
	return 0
}
