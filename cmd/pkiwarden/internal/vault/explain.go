package vault

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/wire"
	"github.com/pkiwarden/pkiwarden/pki"
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
		var redirect *pki.RedirectError
		if errors.As(err, &redirect) {
			return refusal{fmt.Errorf("%s: %w", doing, redirect)}
		}
		return away{fmt.Errorf("%s: %w", doing, wire.NoAnswer("Vault", "vault", s.o.Address, err))}
	}
	said := said(answer, append(secrets, s.current())...)
	switch {
	case answer.StatusCode == http.StatusServiceUnavailable && strings.Contains(strings.ToLower(said), "sealed"):
		return away{fmt.Errorf("%s: Vault at %s is sealed", doing, s.o.Address)}
	case strings.Contains(said, "no active Vault instance found"), strings.Contains(said, "active cluster node not found"), strings.Contains(said, "node is not active"):
		return away{fmt.Errorf("%s: Vault at %s has no active node: %s", doing, s.o.Address, said)}
	case answer.StatusCode == http.StatusTooManyRequests:
		return away{fmt.Errorf("%s: Vault limits our rate (429): %s", doing, said)}
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
		return refusal{fmt.Errorf("%s: %s has no role %q, create it or set vault.auth.role: %s", doing, mount, s.o.Auth.Role, said)}
	case answer.StatusCode == http.StatusNotFound || strings.Contains(said, "no handler for route"):
		return refusal{fmt.Errorf("%s: no auth method is mounted at %s, enable it or set vault.auth.mount: %s", doing, mount, said)}
	case answer.StatusCode == http.StatusForbidden && strings.Contains(said, "not authorized"):
		return refusal{fmt.Errorf("%s: role %q at %s does not take this service account, look at its bound names and namespaces: %s", doing, s.o.Auth.Role, mount, said)}
	case answer.StatusCode == http.StatusForbidden:
		// Vault says the same in both cases, and to a stranger no more.
		return refusal{fmt.Errorf("%s: either no auth method is mounted at %s (see vault.auth.mount), or Vault rejected the JWT in %s: it has expired, has another audience than role %q wants, or Vault may not review tokens: %s",
			doing, mount, s.o.Auth.TokenFile, s.o.Auth.Role, said)}
	}
	return s.explain(doing, err, jwt)
}

func said(answer *api.ResponseError, secrets ...wire.Secret) string {
	return wire.Scrub(strings.Join(answer.Errors, "; "), secrets...)
}
