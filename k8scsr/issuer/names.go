package issuer

import (
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// The kinds of a NameSource.
const (
	KindService     = "Service"
	KindStatefulSet = "StatefulSet"
	KindIngress     = "Ingress"
)

// NameSource is an object of the cluster whose names a certificate gets, and
// follows.
type NameSource struct {
	Kind      string // Service, StatefulSet or Ingress
	Namespace string // default: that of the live Secret
	Name      string
}

func (s NameSource) String() string { return s.Kind + " " + s.Namespace + "/" + s.Name }

// maxNameSources bounds the reads of one look at a certificate, of which there
// is one for each source.
const maxNameSources = 32

func (c *Certificate) validateSources() []error {
	var problems []error
	add := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("certificate %q: namesFrom: "+format, append([]any{c.Spec.Name}, args...)...))
	}
	if len(c.NamesFrom) > maxNameSources {
		add("it has %d entries, more than %d", len(c.NamesFrom), maxNameSources)
	}
	for _, s := range c.NamesFrom {
		if !slices.Contains([]string{KindService, KindStatefulSet, KindIngress}, s.Kind) {
			add("kind %q is none of Service, StatefulSet, Ingress", s.Kind)
		}
		if s.Namespace == "" || s.Name == "" {
			add("%s: namespace %q and name %q must both be given", s.Kind, s.Namespace, s.Name)
		}
	}
	return problems
}

// named is the certificate with the names that its sources have now, each read
// once, live. A source that is gone, must not be read or gives no name makes
// its names unknown; an obstacle then says so, and nothing is asked for, since
// it would be asked for with fewer names. An API that does not answer is an
// error.
func (i *Issuer) named(ctx context.Context, c *Certificate) (*Certificate, error) {
	if len(c.NamesFrom) == 0 {
		return c, nil
	}
	out := *c
	names := slices.Clone(c.Spec.DNSNames)
	var gone, empty []string
	for _, source := range c.NamesFrom {
		drawn, err := i.draw(ctx, source, c.ClusterDomain)
		switch {
		case apierrors.IsNotFound(err):
			gone = append(gone, source.String()+" does not exist")
		case apierrors.IsForbidden(err):
			out.unnamed = append(out.unnamed, findingOf(c, err))
		case err != nil:
			return nil, err
		case len(drawn) == 0:
			empty = append(empty, fmt.Sprintf("%v gives no name: %s", source, without[source.Kind]))
		}
		names = append(names, drawn...)
	}
	out.Spec.DNSNames = names
	out.Spec.NamesFollow = false
	out.Spec = out.Spec.WithDefaults()
	out.unknown(k8scsr.RuleNamesMissing, gone)
	out.unknown(k8scsr.RuleNamesUnusable, empty)
	if len(out.unnamed) == 0 {
		if err := out.Spec.Validate(); err != nil {
			out.unknown(k8scsr.RuleNamesUnusable, []string{"with the names of its objects it cannot be asked for"})
			out.unnamed[0].Evidence = err.Error()
		}
	}
	return &out, nil
}

// unknown adds one obstacle for all the reasons of a rule, if there are any.
func (c *Certificate) unknown(rule string, reasons []string) {
	if len(reasons) == 0 {
		return
	}
	c.unnamed = append(c.unnamed, k8scsr.Finding{
		Rule: rule, Severity: k8scsr.Warning, Subject: "certificate " + c.Spec.Name,
		Summary: strings.Join(reasons, "; ") + ": the names wanted are not known, so the certificate stays as it is and is not renewed",
		Remedy:  "bring the object back, or correct namesFrom; names that are to stay without it belong into dnsNames",
	})
}

// without says, by kind, why an object gives no name.
var without = map[string]string{
	KindStatefulSet: "it has no replicas, or no serviceName",
	KindIngress:     "neither its rules nor its tls section has a host",
}

// draw reads one source.
func (i *Issuer) draw(ctx context.Context, s NameSource, domain string) ([]string, error) {
	switch s.Kind {
	case KindService:
		service, err := do(ctx, call{"get", "services", s.Namespace, s.Name}, func(ctx context.Context) (*corev1.Service, error) {
			return i.client.CoreV1().Services(s.Namespace).Get(ctx, s.Name, metav1.GetOptions{})
		})
		if err != nil {
			return nil, err
		}
		return k8scsr.ServiceNames(s.Namespace, s.Name, domain, service.Spec.ClusterIP == corev1.ClusterIPNone), nil
	case KindStatefulSet:
		set, err := do(ctx, call{"get", "statefulsets.apps", s.Namespace, s.Name}, func(ctx context.Context) (*appsv1.StatefulSet, error) {
			return i.client.AppsV1().StatefulSets(s.Namespace).Get(ctx, s.Name, metav1.GetOptions{})
		})
		if err != nil {
			return nil, err
		}
		return statefulSetNames(set, domain), nil
	case KindIngress:
		ingress, err := do(ctx, call{"get", "ingresses.networking.k8s.io", s.Namespace, s.Name}, func(ctx context.Context) (*networkingv1.Ingress, error) {
			return i.client.NetworkingV1().Ingresses(s.Namespace).Get(ctx, s.Name, metav1.GetOptions{})
		})
		if err != nil {
			return nil, err
		}
		return k8scsr.IngressNames(hostsOf(ingress)), nil
	}
	return nil, fmt.Errorf("drawing names from %v: unknown kind", s)
}

// maxPods is how many pods of a set are named at most, above what fits into a
// certificate, which Spec.Validate tells.
const maxPods = 1000

// statefulSetNames counts a pod that is being scaled away for as long as it is
// there: it still serves.
func statefulSetNames(set *appsv1.StatefulSet, domain string) []string {
	first, count := 0, 1 // the API's defaults
	if set.Spec.Ordinals != nil {
		first = int(set.Spec.Ordinals.Start)
	}
	if set.Spec.Replicas != nil {
		count = int(*set.Spec.Replicas)
	}
	count = min(max(count, int(set.Status.Replicas)), maxPods)
	return k8scsr.StatefulSetNames(set.Namespace, set.Name, set.Spec.ServiceName, domain, first, count)
}

func hostsOf(ingress *networkingv1.Ingress) []string {
	var hosts []string
	for _, rule := range ingress.Spec.Rules {
		hosts = append(hosts, rule.Host)
	}
	for _, section := range ingress.Spec.TLS {
		hosts = append(hosts, section.Hosts...)
	}
	return hosts
}
