// Package pki decides what Vault's PKI tidy should do, when, and why.
//
// It is pure: observations, policies and the current time come in as
// arguments, decisions come out as values with a reason that a person can read.
package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

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
// namespace and path. It is quoted where it holds what is not printed.
func (m Mount) Name() string {
	name := m.Path
	if m.Namespace != "" {
		name = strings.Trim(m.Namespace, "/") + "/" + m.Path
	}
	if !utf8.ValidString(name) || strings.IndexFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0 {
		return strconv.QuoteToASCII(name)
	}
	return name
}

// StateKey is the key of what is kept about the mount, a record of the given
// kind: the Vault cluster's ID and the mount's UUID, in lower-case letters,
// digits, and dashes only.
func (m Mount) StateKey(kind, clusterID string) string {
	id := m.UUID
	if id == "" { // a Vault that does not tell: then the name has to do
		sum := sha256.Sum256([]byte(m.Name()))
		id = "name-" + hex.EncodeToString(sum[:8])
	}
	return kind + "-" + strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			return c
		}
		return '-'
	}, strings.ToLower(clusterID+"-"+id))
}

// Issuer is one issuer of a mount.
type Issuer struct {
	ID          string
	Name        string // "" when none was given
	KeyID       string // "" where Vault has no key for it; UnknownKey where it does not tell
	Default     bool
	Certificate *x509.Certificate
}

// UnknownKey is the KeyID of an issuer of a Vault that does not tell in its list
// of issuers (1.13 and before): it may have a key and so a CRL, or not.
const UnknownKey = "unknown"

// Label is the issuer's name, else its ID.
func (i Issuer) Label() string {
	if i.Name != "" {
		return i.Name
	}
	return i.ID
}

// Discovery is what one look at a namespace's mounts found.
type Discovery struct {
	Mounts []Mount // those of the PKI, by path

	// Conditional holds the mounts that are tuned to let the header
	// If-Modified-Since through (passthrough_request_headers).
	Conditional map[Mount]bool

	// Refused are mounts that nothing is asked of: their paths could make a
	// request mean something else, or a log line two.
	Refused []RefusedMount
}

// RefusedMount is a mount that is left alone.
type RefusedMount struct {
	Name   string // quoted
	Reason string
}

// CRLRequest asks for one list of an issuer.
type CRLRequest struct {
	IssuerID string
	Form     string // "json", PEM within JSON, or "der"
	Delta    bool   // the delta CRL, in place of the full one

	// IfModifiedSince, unless zero, asks Vault to say only that the list has not
	// changed since. It is sent to whole seconds.
	IfModifiedSince time.Time
}

// CRL is one revocation list as it was measured: scanned whole, its signature
// verified by the issuer.
type CRL struct {
	Mount      Mount
	Issuer     Issuer
	Summary    crl.Summary
	Limit      crl.Limit
	MeasuredAt time.Time

	// What history says of it; zero in a one-shot command, which has none.
	Projection crl.Projection   // when the limit is reached
	Growth     crl.SteadyInputs // what its steady state follows from
}
