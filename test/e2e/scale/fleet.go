package scale

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

const (
	nextSuffix = "-next"
	lifetime   = 8760 * time.Hour

	// A signer's budget takes a second request within the hour as a repeat, and
	// lets few pass, unless the certificate is due that often. A share of
	// 0.0001 of 8760 hours is 53 minutes. Renewals begin much later all the
	// same: from a lifetime of a day on they are spread, by name, over half the
	// way to alertAt.
	renewAt = "0.0001"

	qps = 50
	// birthQPS is the rate while certificates are obtained for the first time, which
	// is not what is to be measured.
	birthQPS = 500
	burst    = 40 // the default
)

// fleet is the certificates of one size.
type fleet struct {
	size       int
	generation int // of the names that are configured
}

func name(n int) string { return fmt.Sprintf("c%05d", n) }

// names are the DNS names of the certificate in a generation, in order.
func names(certificate string, generation int) []string {
	all := []string{certificate + ".vault.svc"}
	if generation > 0 {
		all = append(all, fmt.Sprintf("g%d.%s.vault.svc", generation, certificate))
	}
	return all
}

// generationOf tells for which generation the names are, -1 for none up to now.
func (f *fleet) generationOf(certificate string, dnsNames []string) int {
	for g := f.generation; g >= 0; g-- {
		if slices.Equal(dnsNames, names(certificate, g)) {
			return g
		}
	}
	return -1
}

// declare adds the certificates to what a configuration file holds.
func (f *fleet) declare(base []byte) []byte {
	var b strings.Builder
	b.Write(base)
	b.WriteString("certificates:\n")
	for n := range f.size {
		c := name(n)
		fmt.Fprintf(&b, "- {name: %[1]s, secret: {namespace: %[2]s, name: %[1]s}, dnsNames: [%[3]s], ipAddresses: [], approve: true, renewAt: %[4]s, trust: {configMap: {namespace: %[2]s, name: kube-root-ca.crt}}}\n",
			c, world.Namespace, strings.Join(names(c, f.generation), ", "), renewAt)
	}
	return []byte(b.String())
}

// replace lets no reader see half a file.
func replace(path string, content []byte) error {
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		return fmt.Errorf("writing the configuration: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("writing the configuration: %w", err)
	}
	return nil
}

// allowAnyName gives the controller the shipped rights to certificates' Secrets
// for Secrets of any name: the shipped role names those of one certificate.
func allowAnyName(ctx context.Context, client *kubernetes.Clientset) error {
	const role = "pkiwarden-certificates"
	shipped, err := client.RbacV1().ClusterRoles().Get(ctx, role, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("reading the shipped role %s: %w", role, err)
	}
	rules := shipped.DeepCopy().Rules
	for n := range rules {
		rules[n].ResourceNames = nil
	}
	return allow(ctx, client, role+"-of-any-name", world.Namespace, rules, rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Name: "pkiwarden", Namespace: world.ControllerNamespace})
}

// allow makes a role in a namespace and binds it.
func allow(ctx context.Context, client *kubernetes.Clientset, name, namespace string, rules []rbacv1.PolicyRule, to rbacv1.Subject) error {
	meta := metav1.ObjectMeta{Name: name}
	if _, err := client.RbacV1().Roles(namespace).Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("making role %s: %w", name, err)
	}
	_, err := client.RbacV1().RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name}, Subjects: []rbacv1.Subject{to},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("binding role %s: %w", name, err)
	}
	return nil
}
