package vault

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/wire"
)

// rejected says whether Vault refused the token itself: a token that is gone
// is forbidden everything, and one that may no longer be renewed is a bad
// request.
func rejected(err error) bool {
	var answer *api.ResponseError
	return errors.As(err, &answer) && (answer.StatusCode == http.StatusForbidden || answer.StatusCode == http.StatusBadRequest)
}

// explain says which state Vault is in. What Vault answered is quoted without
// the token, in case that it is repeated there.
func (s *Session) explain(doing string, err error, secrets ...wire.Secret) error {
	var answer *api.ResponseError
	if !errors.As(err, &answer) {
		var redirect *wire.RedirectError
		if errors.As(err, &redirect) {
			return fmt.Errorf("%s: %w", doing, redirect)
		}
		return fmt.Errorf("%s: Vault at %s cannot be reached: %w", doing, s.o.Address, err)
	}
	said := said(answer, append(secrets, s.current())...)
	switch {
	case answer.StatusCode == http.StatusServiceUnavailable && strings.Contains(strings.ToLower(said), "sealed"):
		return fmt.Errorf("%s: Vault at %s is sealed", doing, s.o.Address)
	case answer.StatusCode == http.StatusTooManyRequests:
		return fmt.Errorf("%s: Vault limits our rate (429): %s", doing, said)
	}
	return fmt.Errorf("%s: Vault answered %d: %s", doing, answer.StatusCode, said)
}

func (s *Session) explainLogin(err error, jwt wire.Secret) error {
	const doing = "logging in to Vault"
	var answer *api.ResponseError
	if !errors.As(err, &answer) {
		return s.explain(doing, err, jwt)
	}
	said := said(answer, jwt)
	mount := "auth/" + s.o.Auth.Mount
	switch {
	case answer.StatusCode == http.StatusBadRequest && strings.Contains(said, "invalid role name"):
		return fmt.Errorf("%s: %s has no role %q, create it or set vault.auth.role: %s", doing, mount, s.o.Auth.Role, said)
	case answer.StatusCode == http.StatusNotFound || strings.Contains(said, "no handler for route"):
		return fmt.Errorf("%s: no auth method is mounted at %s, enable it or set vault.auth.mount: %s", doing, mount, said)
	case answer.StatusCode == http.StatusForbidden:
		return fmt.Errorf("%s: the JWT in %s was rejected for role %q at %s, look at the role's bound service account, namespace and audience, and at Vault's right to review tokens: %s",
			doing, s.o.Auth.TokenFile, s.o.Auth.Role, mount, said)
	}
	return s.explain(doing, err, jwt)
}

func said(answer *api.ResponseError, secrets ...wire.Secret) string {
	return wire.Scrub(strings.Join(answer.Errors, "; "), secrets...)
}
