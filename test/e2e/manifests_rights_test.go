package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Rights are written "verb[,verb] resource[/subresource] [namespace/name]"; an
// empty namespace is the cluster, an empty name is all names.
var (
	rightsOnState = []string{
		"get,update configmaps pkiwarden/pkiwarden",
		"get,update configmaps pkiwarden/any",
		"get,update configmaps pkiwarden/kube-root-ca.crt",
		"create configmaps pkiwarden/",
	}
	rightsOfTheLeader = append([]string{
		"get,update leases pkiwarden/pkiwarden",
		"create leases pkiwarden/",
		"get,update secrets vault/vault-server-tls",
		"get,update secrets vault/vault-server-tls-next",
		"create secrets vault/",
		"get configmaps vault/kube-root-ca.crt",
		"create events vault/",
		"patch events vault/any",
		"create,list,watch certificatesigningrequests",
		"get certificatesigningrequests /any",
		"get namespaces /vault",
	}, rightsOnState...)
	// everybody has what system:basic-user gives the authenticated.
	rightsOfEverybody = []string{"create selfsubjectreviews", "create selfsubjectaccessreviews", "create selfsubjectrulesreviews"}
)

// asked is what the matrix asks about: every verb on each of these.
var asked = []struct {
	group, resource string
	names           []string // besides all of them
	cluster         bool
	verbs           []string // besides the usual ones
}{
	{group: "", resource: "secrets", names: []string{"vault-server-tls", "vault-server-tls-next", "vault-unseal-keys", "consul-ca"}},
	{group: "", resource: "configmaps", names: []string{"kube-root-ca.crt", "pkiwarden", "any"}},
	{group: "", resource: "pods", names: []string{"vault-0"}},
	{group: "", resource: "pods/exec", names: []string{"vault-0"}},
	{group: "", resource: "pods/ephemeralcontainers", names: []string{"vault-0"}},
	{group: "", resource: "serviceaccounts", names: []string{"vault"}, verbs: []string{"impersonate"}},
	{group: "", resource: "serviceaccounts/token", names: []string{"vault"}},
	{group: "", resource: "services", names: []string{"vault", "vault-active", "any"}},
	{group: "", resource: "events", names: []string{"any"}},
	{group: "", resource: "namespaces", names: []string{"vault", "any"}, cluster: true},
	{group: "", resource: "nodes", names: []string{"any"}, cluster: true},
	{group: "", resource: "users", names: []string{"any"}, cluster: true, verbs: []string{"impersonate"}},
	{group: "apps", resource: "statefulsets", names: []string{"vault", "any"}},
	{group: "apps", resource: "deployments", names: []string{"pkiwarden"}},
	{group: "networking.k8s.io", resource: "ingresses", names: []string{"vault", "any"}},
	{group: "batch", resource: "cronjobs", names: []string{"pkiwarden-tidy"}},
	{group: "coordination.k8s.io", resource: "leases", names: []string{"pkiwarden", "any"}},
	{group: "rbac.authorization.k8s.io", resource: "roles", names: []string{"any"}, verbs: []string{"bind", "escalate"}},
	{group: "rbac.authorization.k8s.io", resource: "rolebindings", names: []string{"any"}},
	{group: "rbac.authorization.k8s.io", resource: "clusterroles", names: []string{"any"}, cluster: true, verbs: []string{"bind", "escalate"}},
	{group: "rbac.authorization.k8s.io", resource: "clusterrolebindings", names: []string{"any"}, cluster: true},
	{group: "certificates.k8s.io", resource: "certificatesigningrequests", names: []string{"any"}, cluster: true},
	{group: "certificates.k8s.io", resource: "certificatesigningrequests/approval", names: []string{"any"}, cluster: true},
	{group: "certificates.k8s.io", resource: "certificatesigningrequests/status", names: []string{"any"}, cluster: true},
	{group: "certificates.k8s.io", resource: "signers", cluster: true, verbs: []string{"approve", "sign", "attest"},
		names: []string{"kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client", "kubernetes.io/kube-apiserver-client-kubelet", "pkiwarden.io/consul"}},
	{group: "certificates.k8s.io", resource: "clustertrustbundles", names: []string{"any"}, cluster: true},
	{group: "authentication.k8s.io", resource: "tokenreviews", cluster: true},
	{group: "authentication.k8s.io", resource: "selfsubjectreviews", cluster: true},
	{group: "authorization.k8s.io", resource: "subjectaccessreviews", cluster: true},
	{group: "authorization.k8s.io", resource: "selfsubjectaccessreviews", cluster: true},
	{group: "authorization.k8s.io", resource: "selfsubjectrulesreviews", cluster: true},
	{group: "admissionregistration.k8s.io", resource: "mutatingwebhookconfigurations", names: []string{"any"}, cluster: true},
}

var (
	verbsOnNames = []string{"get", "update", "patch", "delete"}
	verbsOnAll   = []string{"create", "list", "watch", "deletecollection"}
)

// checkRights asks the API server about every combination for one service
// account. What it allows must be exactly the given rights and everybody's: a
// right too few and a right too many are both found.
func (c *cluster) checkRights(t *testing.T, ctx context.Context, namespace, account string, want []string) {
	t.Helper()
	wanted := map[string]bool{}
	for _, right := range append(rightsOfEverybody, want...) {
		verbs, object, _ := strings.Cut(right, " ")
		for verb := range strings.SplitSeq(verbs, ",") {
			wanted[verb+" "+object] = true
		}
	}
	for _, a := range asked {
		namespaces := []string{"vault", "pkiwarden", "kube-system"}
		if a.cluster {
			namespaces = []string{""}
		}
		for _, ns := range namespaces {
			for _, verb := range verbsOnAll {
				c.checkRight(t, ctx, wanted, namespace, account, a.group, a.resource, ns, "", verb)
			}
			for _, name := range a.names {
				for _, verb := range slices.Concat(verbsOnNames, a.verbs) {
					c.checkRight(t, ctx, wanted, namespace, account, a.group, a.resource, ns, name, verb)
				}
			}
		}
	}
	for right := range wanted {
		t.Errorf("%s/%s: the right %q is wanted and was not among what was asked", namespace, account, right)
	}
}

func (c *cluster) checkRight(t *testing.T, ctx context.Context, wanted map[string]bool, namespace, account, group, resource, ns, name, verb string) {
	t.Helper()
	main, sub, _ := strings.Cut(resource, "/")
	review, err := c.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User:   "system:serviceaccount:" + namespace + ":" + account,
			Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"},
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Group: group, Resource: main, Subresource: sub, Namespace: ns, Name: name, Verb: verb,
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	right := fmt.Sprintf("%s %s", verb, resource)
	if ns != "" || name != "" {
		right += " " + ns + "/" + name
	}
	if allowed := review.Status.Allowed; allowed != wanted[right] {
		t.Errorf("%s/%s: %q is allowed: %t, want %t", namespace, account, right, allowed, wanted[right])
	}
	delete(wanted, right)
}
