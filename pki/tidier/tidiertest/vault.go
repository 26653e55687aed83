// Package tidiertest holds a small stateful Vault, and a state, for tests of
// what drives a tidy. The Vault keeps revocations, builds real CRLs of them
// when the real one would, and tidies by its rules and at its own pace.
package tidiertest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

// Revocation is one revoked certificate.
type Revocation struct {
	RevokedAt time.Time
	NotAfter  time.Time
	Unstored  bool // the certificate itself is gone
	serial    int64
}

// Mount is one PKI mount. Tests set its fields before they use the Vault, and
// through Vault.Change afterwards.
type Mount struct {
	pki.Mount
	Config     pki.CRLConfig
	Auto       pki.AutoTidy // zero: off, with Vault's defaults
	LongestTTL pki.LongestTTL
	Limit      crl.Limit
	Pace       time.Duration // how long a run takes

	RunError   string     // ends every run in Error, after it deleted
	RebuildErr error      // what building a CRL answers
	Enforce    bool       // a CRL over Limit, or over Config.MaxEntries, is refused, as storage and Vault do
	RefusedAt  int64      // the limit that such a refusal names; 0: none
	InForce    *crl.Limit // what Enforce goes by where Limit is not what is in force

	Revoked []Revocation
	Status  pki.TidyStatus
	Runs    int            // started
	Params  pki.TidyParams // of the latest

	Rotations int
	Reads     int // of certificates
	Cancels   int

	key    *ecdsa.PrivateKey
	cert   *x509.Certificate
	list   crl.Summary
	der    []byte
	number int64
	serial int64
	ends   time.Time // of the run that is on
	buffer time.Duration
}

// Vault is a fake of what the tidier drives. It implements tidier.Vault and
// tidier.CRLs.
type Vault struct {
	Now func() time.Time

	// Before, where set, is called before each operation, with its name (that of
	// the method) and mount; its error is the operation's. After is called after
	// it, before its answer is given.
	Before, After func(op string, m pki.Mount) error

	// Broken is what verifying a list says whose entries have been shown.
	Broken error

	Counted pki.Leases // what Leases answers

	Watched bool // Latest knows each list as it is; else it knows none

	Denied []string // paths at which the token may do nothing, as Capabilities says
	Silent bool     // the token may not ask for its capabilities

	mu     sync.Mutex
	health pki.Health
	mounts []*Mount
}

// New makes an unsealed Vault, active for a day, with the given mounts, whose
// lists it builds.
func New(now func() time.Time, mounts ...*Mount) (*Vault, error) {
	v := &Vault{
		Now:    now,
		health: pki.Health{Initialized: true, ActiveSince: now().Add(-24 * time.Hour), ClusterID: "0F3A-cluster", Version: "1.21.1"},
		mounts: mounts,
	}
	for i, m := range mounts {
		if m.UUID == "" {
			m.UUID = fmt.Sprintf("uuid-%d", i)
		}
		if m.Status.State == "" {
			m.Status.State = pki.TidyInactive
		}
		if err := m.issue(now()); err != nil {
			return nil, err
		}
		if err := m.rebuild(now()); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// Change lets f change Vault's health and mounts.
func (v *Vault) Change(f func(health *pki.Health, mounts []*Mount)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.progress()
	f(&v.health, v.mounts)
}

// Revoke adds n revocations, of certificates that expire at notAfter, and
// rebuilds the list unless the mount does so by time.
func (m *Mount) Revoke(n int, at, notAfter time.Time) {
	for range n {
		m.serial++
		m.Revoked = append(m.Revoked, Revocation{RevokedAt: at, NotAfter: notAfter, serial: m.serial})
	}
}

// Forget makes Vault forget its runs, as a failover does; one that is on ends
// there. What it deleted stays deleted.
func (m *Mount) Forget() {
	m.ends = time.Time{}
	m.Status = pki.TidyStatus{State: pki.TidyInactive}
}

// Stopping makes a run that was cancelled take its time to stop.
func (m *Mount) Stopping(takes time.Duration) {
	m.Status.State, m.ends = pki.TidyCancelling, m.Status.FinishedAt.Add(takes)
}

// enter begins an operation.
func (v *Vault) enter(ctx context.Context, op string, m pki.Mount) (*Mount, error) {
	if v.Before != nil {
		if err := v.Before(op, m); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	v.mu.Lock()
	v.progress()
	if m == (pki.Mount{}) {
		return nil, nil
	}
	for _, known := range v.mounts {
		if known.Mount == m {
			return known, nil
		}
	}
	v.mu.Unlock()
	return nil, &pki.RefusedError{Path: m.Path, Status: 404, Message: "no handler for route"}
}

// leave ends an operation.
func (v *Vault) leave(op string, m pki.Mount) error {
	v.mu.Unlock()
	if v.After != nil {
		return v.After(op, m)
	}
	return nil
}

// progress ends the runs whose time has come.
func (v *Vault) progress() {
	now := v.Now()
	for _, m := range v.mounts {
		if m.Status.State.Active() && !now.Before(m.ends) {
			m.finish()
		}
	}
}

// finish does what a run does at its end: delete, and rebuild where Vault does.
func (m *Mount) finish() {
	if m.Status.State == pki.TidyCancelling {
		m.Status.State, m.Status.FinishedAt, m.Status.Error = pki.TidyCancelled, m.ends, "tidy operation cancelled"
		return
	}
	before := len(m.Revoked)
	m.Revoked = slices.DeleteFunc(m.Revoked, func(r Revocation) bool {
		return m.Params.RevokedCerts && m.ends.Sub(r.NotAfter) > m.buffer
	})
	m.Status.RevokedDeleted = int64(before - len(m.Revoked))
	m.Status.FinishedAt = m.ends
	m.Status.State = pki.TidyFinished
	if m.RunError != "" {
		m.Status.State, m.Status.Error = pki.TidyError, m.RunError
		return
	}
	if m.Status.RevokedDeleted > 0 && !m.Config.AutoRebuild {
		if err := m.rebuild(m.ends); err != nil {
			m.Status.State, m.Status.Error = pki.TidyError, err.Error()
		}
	}
}

// issue makes the mount's issuer.
func (m *Mount) issue(now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "issuer of " + m.Path},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.AddDate(50, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCRLSign,
		SubjectKeyId:          []byte(m.UUID),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	m.key = key
	m.cert, err = x509.ParseCertificate(der)
	return err
}

// rebuild builds the list from what is revoked.
func (m *Mount) rebuild(now time.Time) error {
	if m.RebuildErr != nil {
		return m.RebuildErr
	}
	if most := m.Config.MaxEntries; m.Enforce && most > 0 && int64(len(m.Revoked)) > most {
		return &pki.TooLargeError{Limit: most, Message: fmt.Sprintf("error building CRL: revocation list size (%d) exceeds configured maximum (%d)", len(m.Revoked), most)}
	}
	m.number++
	template := &x509.RevocationList{Number: big.NewInt(m.number), ThisUpdate: now, NextUpdate: now.Add(72 * time.Hour)}
	for _, r := range m.Revoked {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: serialNumber(r.serial), RevocationTime: r.RevokedAt})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, m.cert, m.key)
	if err != nil {
		return err
	}
	limit := m.Limit
	if m.InForce != nil {
		limit = *m.InForce
	}
	if used, known := limit.Used(int64(len(der)), int64(len(m.Revoked))); m.Enforce && known && used > 1 {
		return &pki.TooLargeError{Limit: m.RefusedAt, Message: fmt.Sprintf("put failed due to value being too large: %d bytes", len(der))}
	}
	m.der = der
	m.list, err = crl.Scan(bytes.NewReader(der), crl.Options{})
	return err
}

// serialNumber takes 20 octets, as almost all of Vault's do.
func serialNumber(n int64) *big.Int {
	high := new(big.Int).Lsh(big.NewInt(1), 158)
	return high.Add(high, big.NewInt(n))
}

// Health implements tidier.Vault.
func (v *Vault) Health(ctx context.Context) (pki.Health, error) {
	if _, err := v.enter(ctx, "Health", pki.Mount{}); err != nil {
		return pki.Health{}, err
	}
	h := v.health
	return h, v.leave("Health", pki.Mount{})
}

// ClusterID implements tidier.Vault.
func (v *Vault) ClusterID(ctx context.Context) (string, error) {
	h, err := v.Health(ctx)
	return h.ClusterID, err
}

// Mounts implements tidier.Vault.
func (v *Vault) Mounts(ctx context.Context) ([]pki.Mount, error) {
	if _, err := v.enter(ctx, "Mounts", pki.Mount{}); err != nil {
		return nil, err
	}
	var mounts []pki.Mount
	for _, m := range v.mounts {
		mounts = append(mounts, m.Mount)
	}
	return mounts, v.leave("Mounts", pki.Mount{})
}

// CRLConfig implements tidier.Vault.
func (v *Vault) CRLConfig(ctx context.Context, m pki.Mount) (pki.CRLConfig, error) {
	known, err := v.enter(ctx, "CRLConfig", m)
	if err != nil {
		return pki.CRLConfig{}, err
	}
	c := known.Config
	return c, v.leave("CRLConfig", m)
}

// AutoTidy implements tidier.Vault.
func (v *Vault) AutoTidy(ctx context.Context, m pki.Mount) (pki.AutoTidy, error) {
	known, err := v.enter(ctx, "AutoTidy", m)
	if err != nil {
		return pki.AutoTidy{}, err
	}
	a := known.Auto
	a.Interval, a.SafetyBuffer = cmp.Or(a.Interval, 12*time.Hour), cmp.Or(a.SafetyBuffer, 72*time.Hour)
	return a, v.leave("AutoTidy", m)
}

// DisableAutoTidy implements tidier.Vault.
func (v *Vault) DisableAutoTidy(ctx context.Context, m pki.Mount) error {
	known, err := v.enter(ctx, "DisableAutoTidy", m)
	if err != nil {
		return err
	}
	known.Auto.Enabled = false
	return v.leave("DisableAutoTidy", m)
}

// LongestTTL implements tidier.Vault.
func (v *Vault) LongestTTL(ctx context.Context, m pki.Mount) (pki.LongestTTL, error) {
	known, err := v.enter(ctx, "LongestTTL", m)
	if err != nil {
		return pki.LongestTTL{}, err
	}
	t := known.LongestTTL
	return t, v.leave("LongestTTL", m)
}

// TidyStatus implements tidier.Vault.
func (v *Vault) TidyStatus(ctx context.Context, m pki.Mount) (pki.TidyStatus, error) {
	known, err := v.enter(ctx, "TidyStatus", m)
	if err != nil {
		return pki.TidyStatus{}, err
	}
	s := known.Status
	return s, v.leave("TidyStatus", m)
}

// StartTidy implements tidier.Vault.
func (v *Vault) StartTidy(ctx context.Context, m pki.Mount, p pki.TidyParams) (bool, error) {
	known, err := v.enter(ctx, "StartTidy", m)
	if err != nil {
		return false, err
	}
	started := !known.Status.State.Active()
	if started {
		known.Runs++
		known.buffer, known.Params = p.SafetyBuffer, p
		known.ends = v.Now().Add(known.Pace)
		known.Status = pki.TidyStatus{
			State:        pki.TidyRunning,
			StartedAt:    v.Now(),
			SafetyBuffer: p.SafetyBuffer,
			CertStore:    p.CertStore,
			RevokedCerts: p.RevokedCerts,
		}
	}
	return started, v.leave("StartTidy", m)
}

// CancelTidy implements tidier.Vault. A run ends at its mount's next entry:
// half of what it would have deleted is gone by then.
func (v *Vault) CancelTidy(ctx context.Context, m pki.Mount) (bool, error) {
	known, err := v.enter(ctx, "CancelTidy", m)
	if err != nil {
		return false, err
	}
	asked := known.Status.State.Active()
	if asked {
		known.Cancels++
		known.cancel(v.Now())
	}
	return asked, v.leave("CancelTidy", m)
}

// cancel ends a run without rebuilding the list.
func (m *Mount) cancel(now time.Time) {
	var ripe int
	for _, r := range m.Revoked {
		if now.Sub(r.NotAfter) > m.buffer {
			ripe++
		}
	}
	deleted := 0
	m.Revoked = slices.DeleteFunc(m.Revoked, func(r Revocation) bool {
		if now.Sub(r.NotAfter) > m.buffer && deleted < ripe/2 {
			deleted++
			return true
		}
		return false
	})
	m.Status.RevokedDeleted = int64(deleted)
	m.Status.FinishedAt, m.Status.State = now, pki.TidyCancelled
	m.Status.Error = "tidy operation cancelled"
}

// Capabilities implements tidier.Vault.
func (v *Vault) Capabilities(ctx context.Context, m pki.Mount, paths []string) (map[string][]string, error) {
	if _, err := v.enter(ctx, "Capabilities", m); err != nil {
		return nil, err
	}
	granted := make(map[string][]string)
	for _, path := range paths {
		granted[path] = []string{"list", "read", "update"}
		if slices.Contains(v.Denied, path) {
			granted[path] = []string{"deny"}
		}
	}
	silent := v.Silent
	if err := v.leave("Capabilities", m); err != nil {
		return nil, err
	}
	if silent {
		return nil, &pki.PermissionError{Path: "sys/capabilities-self", Capability: "update"}
	}
	return granted, nil
}

// Leases implements tidier.Vault.
func (v *Vault) Leases(ctx context.Context) (pki.Leases, error) {
	if _, err := v.enter(ctx, "Leases", pki.Mount{}); err != nil {
		return pki.Leases{}, err
	}
	l := v.Counted
	return l, v.leave("Leases", pki.Mount{})
}

// Rotate implements tidier.Vault.
func (v *Vault) Rotate(ctx context.Context, m pki.Mount) error {
	known, err := v.enter(ctx, "Rotate", m)
	if err != nil {
		return err
	}
	known.Rotations++
	rebuilt := known.rebuild(v.Now())
	if err := v.leave("Rotate", m); err != nil {
		return err
	}
	return rebuilt
}

// Measure implements tidier.CRLs.
func (v *Vault) Measure(ctx context.Context, m pki.Mount) ([]pki.CRL, error) {
	known, err := v.enter(ctx, "Measure", m)
	if err != nil {
		return nil, err
	}
	c := known.measured(v.Now())
	return []pki.CRL{c}, v.leave("Measure", m)
}

// measured is the list as it is measured.
func (m *Mount) measured(now time.Time) pki.CRL {
	return pki.CRL{
		Mount:      m.Mount,
		Issuer:     pki.Issuer{ID: "id-of-" + m.Path, Default: true, Certificate: m.cert},
		Summary:    m.list,
		Limit:      m.Limit,
		MeasuredAt: now,
	}
}

// Latest implements tidier.CRLs: what is served now where it is Watched.
func (v *Vault) Latest(m pki.Mount) ([]pki.CRL, bool) {
	if !v.Watched {
		return nil, false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, known := range v.mounts {
		if known.Mount == m {
			return []pki.CRL{known.measured(v.Now())}, true
		}
	}
	return nil, false
}

// Entries implements tidier.CRLs.
func (v *Vault) Entries(ctx context.Context, m pki.Mount, begin func(pki.Issuer) func(crl.Entry) error) ([]pki.CRL, error) {
	known, err := v.enter(ctx, "Entries", m)
	if err != nil {
		return nil, err
	}
	c := known.measured(v.Now())
	der := known.der
	if err := v.leave("Entries", m); err != nil {
		return nil, err
	}
	if c.Summary, err = crl.Scan(bytes.NewReader(der), crl.Options{Each: begin(c.Issuer)}); err != nil {
		return nil, err
	}
	if v.Broken != nil {
		return nil, v.Broken
	}
	return []pki.CRL{c}, nil
}

// Certificate implements tidier.Vault.
func (v *Vault) Certificate(ctx context.Context, m pki.Mount, serial string) (*x509.Certificate, time.Time, error) {
	known, err := v.enter(ctx, "Certificate", m)
	if err != nil {
		return nil, time.Time{}, err
	}
	known.Reads++
	i := slices.IndexFunc(known.Revoked, func(r Revocation) bool {
		return serial == strings.ReplaceAll(fmt.Sprintf("% x", serialNumber(r.serial).Bytes()), " ", ":")
	})
	if i < 0 || known.Revoked[i].Unstored {
		return nil, time.Time{}, v.leave("Certificate", m)
	}
	r := known.Revoked[i]
	return &x509.Certificate{SerialNumber: serialNumber(r.serial), NotAfter: r.NotAfter}, r.RevokedAt, v.leave("Certificate", m)
}
