package pki

import (
	"errors"
	"fmt"
	"time"
)

// What stands between a caller and Vault, as far as callers tell it apart.
var (
	// ErrSealed: Vault answers and is sealed. Nothing works until it is unsealed.
	ErrSealed = errors.New("vault is sealed")
	// ErrNoActiveNode: a standby answers and knows of no active node.
	ErrNoActiveNode = errors.New("vault has no active node")
	// ErrUnreachable: nothing that speaks for Vault answered.
	ErrUnreachable = errors.New("vault is unreachable")
	// ErrNotVault: something answered in a way in which Vault does not, a proxy's
	// page for instance.
	ErrNotVault = errors.New("not Vault's answer")
	// ErrNoCRL: Vault answered and has no list for the issuer (status 204 or an
	// empty body).
	ErrNoCRL = errors.New("vault has no CRL for this issuer")
	// ErrNotModified: Vault answered that the list has not changed since the
	// time that was named (status 304).
	ErrNotModified = errors.New("the CRL has not changed")
)

// PermissionError says what Vault's policy lacks.
type PermissionError struct {
	Path         string `json:"path"`                   // as a policy names it, for example "pki/tidy"
	Capability   string `json:"capability"`             // read, list, update
	InvalidToken bool   `json:"invalidToken,omitempty"` // the token itself is not valid, so that no policy would help
}

// Error names capability and path.
func (e *PermissionError) Error() string {
	if e.InvalidToken {
		return fmt.Sprintf("permission denied on path %q: the token is not valid (expired or revoked); log in again", e.Path)
	}
	return fmt.Sprintf("permission denied: needs capability %q on path %q", e.Capability, e.Path)
}

// RedirectError says that a standby sent the request elsewhere. Redirects are
// not followed: the address to configure is Location.
type RedirectError struct {
	Address  string // the address that was asked
	Location string // the address that it named
}

// Error names both addresses and the remedy.
func (e *RedirectError) Error() string {
	return fmt.Sprintf("%s redirects to %s: set vault.address to the active node's Service (redirects are not followed)", e.Address, e.Location)
}

// TooLargeError says that Vault built a CRL that its storage or its own
// max_crl_entries refuses. The revocations are kept; the old list is still
// served.
type TooLargeError struct {
	Limit   int64  // the limit in the units of Message, 0 when it does not say
	Message string // Vault's own words
}

// Error quotes Vault.
func (e *TooLargeError) Error() string {
	return "CRL over the limit of Vault's storage: " + e.Message
}

// RefusedError says that Vault understood a request and refused it (a status
// of the 400s other than a missing permission). What was asked did not happen.
type RefusedError struct {
	Path    string
	Status  int
	Message string // Vault's own words
}

// Error quotes Vault.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("vault refused %s with status %d: %s", e.Path, e.Status, e.Message)
}

// FailingError says that Vault, or what stands before it, could not answer now: a
// status of 429 or of the 500s other than those of a sealed Vault or one without
// an active node. What was asked may have happened all the same, unless it was
// 429. It may pass by itself.
type FailingError struct {
	Status     int
	RetryAfter time.Duration // as was asked for, 0 where it was not
	Message    string
}

// Error quotes the answer.
func (e *FailingError) Error() string { return fmt.Sprintf("status %d: %s", e.Status, e.Message) }
