package issuer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
		out += fmt.Sprintf(" with name %q", c.name)
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
	switch {
	case apierrors.IsForbidden(e.err):
		return fmt.Sprintf("permission denied: needs verb %q on %s: %v", e.verb, e.object(), e.err)
	case apierrors.IsUnauthorized(e.err):
		return fmt.Sprintf("the Kubernetes API does not know our token, to %s %s: %v", e.verb, e.object(), e.err)
	case unreachable(e.err):
		return fmt.Sprintf("the Kubernetes API cannot be reached, to %s %s: %v", e.verb, e.object(), e.err)
	}
	return fmt.Sprintf("asking the Kubernetes API to %s %s: %v", e.verb, e.object(), e.err)
}

// unreachable tells a connection that failed, and an answer that does not come in
// time, from an answer that says no and from a request that was never sent.
func unreachable(err error) bool {
	var status apierrors.APIStatus
	var network net.Error
	return !errors.As(err, &status) && errors.As(err, &network)
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

// errNamespace is a Secret that cannot be created because its namespace does
// not exist, or is being deleted.
type errNamespace struct{ namespace, state string }

func (e *errNamespace) Error() string {
	return fmt.Sprintf("namespace %q %s: create it, or correct secret.namespace", e.namespace, e.state)
}

// namespaceOf tells where reading or creating a Secret failed for its namespace.
// Nobody has a Role in a namespace that does not exist, so its absence looks
// like a missing permission; then the namespace itself is asked for, and without
// the right to do so the permission stays the answer.
func (i *Issuer) namespaceOf(ctx context.Context, namespace string, err error) error {
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return &errNamespace{namespace, "is being deleted"}
	case apierrors.IsNotFound(err):
		return &errNamespace{namespace, "does not exist"}
	case apierrors.IsForbidden(err):
		_, absent := do(ctx, call{"get", "namespaces", "", namespace}, func(ctx context.Context) (*corev1.Namespace, error) {
			return i.client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		})
		if apierrors.IsNotFound(absent) {
			return &errNamespace{namespace, "does not exist"}
		}
	}
	return err
}

// Undetermined tells an error that leaves open how things are: the API was not
// asked in time, gave no answer, or one that says it cannot give one now (429, 5xx).
func Undetermined(err error) bool {
	return unreachable(err) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnfinished) || apierrors.IsTooManyRequests(err) || apierrors.IsInternalError(err) ||
		apierrors.IsServiceUnavailable(err) || apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err)
}

// denied tells a right that is missing, which trying again does not give.
func denied(err error) bool {
	var failed *callError
	return errors.As(err, &failed) && apierrors.IsForbidden(failed.err)
}

// errChanged is an observation whose parts are not of one time.
var errChanged = errors.New("changed while it was observed")

// changedMeanwhile tells an observation or a write that lost against somebody
// else's write: observe again and decide anew.
func changedMeanwhile(err error) bool {
	return errors.Is(err, errChanged) || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err)
}

// tooFull tells that a Secret was refused for its size: of its annotations or
// data, by validation; of the whole, by the API server or by etcd.
func tooFull(e *callError) bool {
	if e.resource != "secrets" || e.verb != "create" && e.verb != "update" {
		return false
	}
	return apierrors.IsRequestEntityTooLargeError(e.err) || apierrors.IsInvalid(e.err) && strings.Contains(e.err.Error(), "Too long") ||
		strings.Contains(e.err.Error(), "request is too large")
}

// findingOf is an error as a finding. What could not be determined is unknown,
// never well.
func findingOf(c *Certificate, err error) k8scsr.Finding {
	f := k8scsr.Finding{
		Rule: k8scsr.RuleUnknown, Severity: k8scsr.Unknown, Subject: "certificate " + c.Spec.Name,
		Summary: "its state could not be determined or changed: " + err.Error(),
		Remedy:  "see the message; pkiwarden tries again by itself",
	}
	var missing *errNamespace
	var failed *callError
	var flooded *errFlooded
	switch {
	case errors.As(err, &flooded):
		f.Remedy = flooded.remedy()
	case errors.As(err, new(*errPanic)):
		f.Remedy = "report it, with the stack that the log has at level debug; see what is unusual about the Secrets of this certificate"
	case errors.As(err, &failed) && tooFull(failed):
		f.Summary = fmt.Sprintf("Secret %s/%s cannot be written: with what others keep there it is larger than the API allows", failed.namespace, failed.name)
		f.Evidence = failed.err.Error()
		f.Remedy = fmt.Sprintf("remove the annotations and entries that are not pkiwarden's (see kubectl -n %s get secret %s -o yaml, and find out who writes them), or name another Secret in the configuration", failed.namespace, failed.name)
		f.Citation = "Kubernetes API v1, ObjectMeta and Secret: annotations of 256 KiB, 1 MiB of data"
	case errors.As(err, &missing):
		f.Rule, f.Severity, f.Summary = k8scsr.RuleNamespace, k8scsr.Critical, fmt.Sprintf("namespace %q %s", missing.namespace, missing.state)
		f.Remedy = "create the namespace, or correct secret.namespace"
	case errors.As(err, &failed) && apierrors.IsForbidden(failed.err):
		f.Rule, f.Severity = k8scsr.RulePermission, k8scsr.Critical
		f.Summary = fmt.Sprintf("permission denied: needs verb %q on %s", failed.verb, failed.object())
		f.Evidence = failed.err.Error()
		f.Remedy = "grant it to pkiwarden's service account by a ClusterRole"
		f.Citation = "Kubernetes RBAC"
		if failed.namespace != "" {
			f.Remedy = fmt.Sprintf("grant it to pkiwarden's service account by a Role in namespace %q, which must exist", failed.namespace)
		}
	}
	return f
}
