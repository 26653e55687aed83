package tidiertest

import (
	"context"
	"crypto/x509"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

// Rescued is a Vault with what a rescue asks besides. It implements
// tidier.RescueVault and tidier.ListReader. Certificates are numbered from 1 in
// the order of Mount.Revoke.
type Rescued struct {
	*Vault

	Unstored func(n int64) bool  // certificates that Vault no longer stores
	Extra    map[int64]time.Time // certificates that Vault stores although they are not revoked, with their ends
	Reads    int                 // of certificates
}

// Issuers implements tidier.RescueVault.
func (r *Rescued) Issuers(ctx context.Context, m pki.Mount) ([]pki.Issuer, error) {
	known, err := r.enter(ctx, "Issuers", m)
	if err != nil {
		return nil, err
	}
	issuer := known.issuer()
	return []pki.Issuer{issuer}, r.leave("Issuers", m)
}

func (m *Mount) issuer() pki.Issuer {
	return pki.Issuer{ID: "id-of-" + m.Path, KeyID: "key", Default: true, Certificate: m.cert}
}

// Revoked implements tidier.RescueVault.
func (r *Rescued) Revoked(ctx context.Context, m pki.Mount, each func(string) error) error {
	known, err := r.enter(ctx, "Revoked", m)
	if err != nil {
		return err
	}
	revoked := slices.Clone(known.Revoked)
	if err := r.leave("Revoked", m); err != nil {
		return err
	}
	for _, one := range revoked {
		if err := each(Serial(one.serial)); err != nil {
			return err
		}
	}
	return nil
}

// Serial is the serial number of the nth certificate, as Vault writes it.
func Serial(n int64) string {
	digits := fmt.Sprintf("%x", serialNumber(n))
	var octets []string
	for i := 0; i < len(digits); i += 2 {
		octets = append(octets, digits[i:i+2])
	}
	return strings.Join(octets, ":")
}

// Certificate implements tidier.RescueVault.
func (r *Rescued) Certificate(ctx context.Context, m pki.Mount, serial string) (*x509.Certificate, time.Time, error) {
	known, err := r.enter(ctx, "Certificate", m)
	if err != nil {
		return nil, time.Time{}, err
	}
	r.Reads++
	octets := strings.ReplaceAll(serial, ":", "")
	n, err := strconv.ParseInt(octets[len(octets)-8:], 16, 64)
	if err != nil {
		r.mu.Unlock()
		return nil, time.Time{}, err
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(n), RawIssuer: known.cert.RawSubject, AuthorityKeyId: known.cert.SubjectKeyId}
	var revokedAt time.Time
	if at := slices.IndexFunc(known.Revoked, func(o Revocation) bool { return o.serial == n }); at >= 0 {
		cert.NotAfter, revokedAt = known.Revoked[at].NotAfter, known.Revoked[at].RevokedAt
	} else if end, ok := r.Extra[n]; ok {
		cert.NotAfter = end
	} else {
		cert = nil
	}
	if r.Unstored != nil && r.Unstored(n) {
		cert = nil
	}
	return cert, revokedAt, r.leave("Certificate", m)
}
