package kube

import (
	"errors"
	"fmt"
	"net"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// gerunds of the API's verbs, as errors begin with them.
var gerunds = map[string]string{
	"get": "getting", "list": "listing", "watch": "watching", "create": "creating",
	"update": "updating", "patch": "patching", "delete": "deleting", "approve": "approving",
}

// Explain wraps an error of client-go so that it names what was done to what,
// and where that is known, the remedy: the verb and resource a role lacks, the
// namespace that does not exist, the address that does not answer. resource is
// as RBAC names it, with its group ("leases.coordination.k8s.io"); namespace is
// "" for what has none, name "" for a list. Explain(nil, …) is nil.
func Explain(err error, verb, resource, namespace, name string) error {
	if err == nil {
		return nil
	}
	doing := verb
	if g, ok := gerunds[verb]; ok {
		doing = g
	}
	doing += " " + resource
	where := " cluster-wide"
	if namespace != "" {
		doing += " in namespace " + namespace
		where = " in namespace " + namespace
	}
	if name != "" {
		doing += fmt.Sprintf(" (%s)", name)
	}
	switch {
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%s: forbidden: the role needs verb %q on resource %q%s: %w", doing, verb, resource, where, err)
	case missingNamespace(err):
		return fmt.Errorf("%s: namespace %q does not exist, create it or name another: %w", doing, namespace, err)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%s: the Kubernetes API did not accept the credentials: %w", doing, err)
	case Unreachable(err):
		return fmt.Errorf("%s: the Kubernetes API cannot be reached: %w", doing, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// missingNamespace tells an absent namespace from an absent object: the API
// reports it as what was not found when something is created in it.
func missingNamespace(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || !apierrors.IsNotFound(err) {
		return false
	}
	details := status.Status().Details
	return details != nil && details.Kind == "namespaces"
}

// Unreachable says whether err came from the way to the API and not from the
// API itself: no connection, no TLS, no answer in time.
func Unreachable(err error) bool {
	if apierrors.ReasonForError(err) != metav1.StatusReasonUnknown {
		return false
	}
	var urlErr *url.Error
	var netErr net.Error
	return errors.As(err, &urlErr) || errors.As(err, &netErr)
}
