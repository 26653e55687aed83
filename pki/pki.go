// Package pki decides what Vault's PKI tidy should do, when, and why.
//
// It is pure: observations, policies and the current time come in as
// arguments, decisions come out as values with a reason that a person can read.
package pki

import (
	"crypto/x509"
	"errors"
	"strings"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
)

// ErrConflict is returned by a compare-and-swap store when what it holds is no
// longer what the caller read. Nothing was written; read again and decide anew.
var ErrConflict = errors.New("changed since it was read")

// Mount is one PKI secrets engine.
type Mount struct {
	Namespace string // Vault Enterprise namespace without slashes at its ends, "" for root
	Path      string // without slashes at its ends, for example "pki" or "team/pki"
	UUID      string // storage UUID, stable over remounts of the path
}

// Name is the mount as metrics, reports and configuration name it: its
// namespace and path.
func (m Mount) Name() string {
	if m.Namespace == "" {
		return m.Path
	}
	return strings.Trim(m.Namespace, "/") + "/" + m.Path
}

// Issuer is one issuer of a mount.
type Issuer struct {
	ID          string
	Name        string // "" when none was given
	KeyID       string
	Default     bool
	Certificate *x509.Certificate
}

// Label is the issuer's name, else its ID.
func (i Issuer) Label() string {
	if i.Name != "" {
		return i.Name
	}
	return i.ID
}

// CRL is one revocation list as it was measured: scanned whole, its signature
// verified by the issuer.
type CRL struct {
	Mount      Mount
	Issuer     Issuer
	Summary    crl.Summary
	Limit      crl.Limit
	MeasuredAt time.Time
}
