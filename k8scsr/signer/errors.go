package signer

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// callTimeout bounds one request to the API.
const callTimeout = 10 * time.Second

// call is one request to the API in the words that RBAC uses.
type call struct {
	verb, resource, namespace, name string
}

func (c call) object() string {
	out := c.resource
	if c.namespace != "" {
		out += fmt.Sprintf(" in namespace %q", c.namespace)
	}
	if c.name != "" {
		out += fmt.Sprintf(" with name %q", plain(c.name))
	}
	return out
}

// callError is a request to the API that did not succeed.
type callError struct {
	call
	err error
}

func (e *callError) Unwrap() error { return e.err }

func (e *callError) Error() string {
	if apierrors.IsForbidden(e.err) {
		return fmt.Sprintf("permission denied: needs verb %q on %s: %v", e.verb, e.object(), e.err)
	}
	return fmt.Sprintf("asking the Kubernetes API to %s %s: %v", e.verb, e.object(), e.err)
}

// do makes one request under the deadline that every request has.
func do[T any](ctx context.Context, c call, request func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	out, err := request(ctx)
	if err != nil {
		return out, &callError{c, err}
	}
	return out, nil
}

// settling is how long an API server that has just started may refuse what the
// roles allow, since it has not read them yet.
const settling = 5 * time.Second

// failed keeps a look that failed at now, and its finding beside what is known.
func (s *Signer) failed(a *authority, now time.Time, err error) {
	var refused *callError
	denied := errors.As(err, &refused) && apierrors.IsForbidden(refused.err)
	f := k8scsr.Finding{
		Rule: k8scsr.RuleSignerUnknown, Severity: k8scsr.Unknown, Subject: a.subject(),
		Summary: "its requests or its CA could not be read or answered: " + err.Error(),
		Remedy:  "see the message; pkiwarden tries again by itself",
	}
	pace := a.pace
	switch {
	case !denied:
		a.deniedAt = time.Time{}
	case a.deniedAt.IsZero() || now.Before(a.deniedAt):
		a.deniedAt = now
		fallthrough
	case now.Sub(a.deniedAt) < settling:
		pace = k8scsr.Pace{}
		f.Remedy = "wait some seconds: an API server that has just started does not know the roles yet; if it stays so, " + refused.grant(a.name())
	default:
		f.Rule, f.Severity = k8scsr.RulePermission, k8scsr.Critical
		f.Summary = fmt.Sprintf("permission denied: needs verb %q on %s", refused.verb, refused.object())
		f.Evidence, f.Remedy, f.Citation = refused.err.Error(), refused.grant(a.name()), "Kubernetes RBAC"
	}
	seconds, _ := apierrors.SuggestsClientDelay(err)
	a.pace, a.err = pace.Failed(now, time.Duration(seconds)*time.Second, s.chance()), err
	a.found = append(a.keep(), f)
}

// grant says what gives the right. The API server wants two for a status.
func (e *callError) grant(signer string) string {
	switch {
	case e.namespace != "":
		return fmt.Sprintf("grant it to pkiwarden's service account by a Role in namespace %q, which must exist", e.namespace)
	case e.resource == "certificatesigningrequests/status":
		return fmt.Sprintf("grant pkiwarden's service account, by a ClusterRole, update on certificatesigningrequests/status and sign on signers with name %q: see manifests/signer", signer)
	}
	return "grant it to pkiwarden's service account by a ClusterRole: see manifests/signer"
}
