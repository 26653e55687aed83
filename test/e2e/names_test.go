package e2e

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// Names, by hand: those that the chart vault-helm 0.34.1 gives a release "hush"
// in namespace "vault", and those of the objects of an older release "vault".
const (
	chartNames = `
		hush-vault hush-vault.vault hush-vault.vault.svc hush-vault.vault.svc.cluster.local
		hush-vault-active hush-vault-active.vault hush-vault-active.vault.svc hush-vault-active.vault.svc.cluster.local
		hush-vault-standby hush-vault-standby.vault hush-vault-standby.vault.svc hush-vault-standby.vault.svc.cluster.local
		hush-vault-ui hush-vault-ui.vault hush-vault-ui.vault.svc hush-vault-ui.vault.svc.cluster.local
		hush-vault-internal hush-vault-internal.vault hush-vault-internal.vault.svc hush-vault-internal.vault.svc.cluster.local
		*.hush-vault-internal *.hush-vault-internal.vault *.hush-vault-internal.vault.svc *.hush-vault-internal.vault.svc.cluster.local
		localhost`
	serviceNames = `vault-active vault-active.vault vault-active.vault.svc vault-active.vault.svc.cluster.local`
	podNames     = `
		vault-0.vault-internal vault-0.vault-internal.vault vault-0.vault-internal.vault.svc vault-0.vault-internal.vault.svc.cluster.local
		vault-1.vault-internal vault-1.vault-internal.vault vault-1.vault-internal.vault.svc vault-1.vault-internal.vault.svc.cluster.local`
)

// storedNames checks that the live certificate has exactly these names, and
// keeps its leaf.
func storedNames(w *world.World, leaf **x509.Certificate, names ...string) func(context.Context) error {
	want := slices.Sorted(strings.FieldsSeq(strings.Join(names, " ")))
	return func(ctx context.Context) error {
		stored, err := w.StoredLeaf(ctx)
		if err != nil {
			return err
		}
		if got := slices.Sorted(slices.Values(stored.DNSNames)); !slices.Equal(got, want) {
			return fmt.Errorf("the certificate has %d names, want %d:\n%q\n%q", len(got), len(want), got, want)
		}
		if len(stored.IPAddresses) != 1 || stored.IPAddresses[0].String() != "127.0.0.1" {
			return fmt.Errorf("the certificate has the addresses %v", stored.IPAddresses)
		}
		*leaf = stored
		return nil
	}
}

func hosts(names ...string) []networkingv1.IngressRule {
	var out []networkingv1.IngressRule
	for _, name := range names {
		out = append(out, networkingv1.IngressRule{Host: name, IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{
			Paths: []networkingv1.HTTPIngressPath{{PathType: new(networkingv1.PathTypePrefix), Path: "/", Backend: networkingv1.IngressBackend{
				Service: &networkingv1.IngressServiceBackend{Name: "vault-active", Port: networkingv1.ServiceBackendPort{Number: 8200}}}}}}}})
	}
	return out
}

func countRequests(t *testing.T, ctx context.Context, w *world.World) int {
	t.Helper()
	list, err := w.Client.CertificatesV1().CertificateSigningRequests().List(ctx, metav1.ListOptions{})
	must(t, err)
	return len(list.Items)
}

// looksAgain checks that the certificates were looked at after a moment.
func looksAgain(pod *world.Pod, moment time.Time) func(context.Context) error {
	return func(ctx context.Context) error {
		at, err := pod.Metric(ctx, `pkiwarden_loop_last_success_timestamp_seconds{loop="certificates"}`)
		if err == nil && at <= float64(moment.UnixNano())/1e9 {
			err = fmt.Errorf("the last look was at %.0f", at)
		}
		return err
	}
}

// A certificate whose names nobody lists: those that the chart needs, and those
// of a Service, a StatefulSet and an Ingress. It follows them, and stays as it
// is while one of them is gone, until it is back. All with the shipped rights.
func TestNamesFollowTheCluster(t *testing.T) {
	ctx, w := start(t, world.Options{SigningDuration: time.Hour})
	must(t, w.Apply(ctx, overlay(t, "sidecars", "approver", "names")))
	api := w.Client.CoreV1().Services(world.Namespace)
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "vault-active"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 8200}}}}
	_, err := api.Create(ctx, service, metav1.CreateOptions{})
	must(t, err)
	labels := map[string]string{"app": "vault"}
	_, err = w.Client.AppsV1().StatefulSets(world.Namespace).Create(ctx, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "vault"}, Spec: appsv1.StatefulSetSpec{
		ServiceName: "vault-internal", Replicas: new(int32(2)), Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "vault", Image: "vault"}}}},
	}}, metav1.CreateOptions{})
	must(t, err)
	ingresses := w.Client.NetworkingV1().Ingresses(world.Namespace)
	ingress, err := ingresses.Create(ctx, &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Name: "vault"}, Spec: networkingv1.IngressSpec{
		Rules: hosts("vault.example.com"), TLS: []networkingv1.IngressTLS{{Hosts: []string{"*.vault.example.com"}}},
	}}, metav1.CreateOptions{})
	must(t, err)

	pod, err := w.StartPod(ctx, world.PodOptions{Name: "vault-0", Set: map[string]any{
		"certificates.0.dnsNames":    nil,
		"certificates.0.ipAddresses": []string{},
		"certificates.0.profile":     map[string]any{"kind": "vault-helm", "release": "hush"},
		"certificates.0.namesFrom": []any{
			map[string]any{"kind": "Service", "name": "vault-active"},
			map[string]any{"kind": "StatefulSet", "namespace": "vault", "name": "vault"},
			map[string]any{"kind": "Ingress", "namespace": "vault", "name": "vault"},
		},
	}})
	must(t, err)
	var leaf *x509.Certificate
	eventually(t, ctx, 30*time.Second, "the certificate has the names of chart and objects",
		storedNames(w, &leaf, chartNames, serviceNames, podNames, "vault.example.com *.vault.example.com"))
	first := leaf
	must(t, namesWanted(w, pod, chartNames, serviceNames, podNames, "vault.example.com *.vault.example.com")(ctx))

	ingress.Spec.Rules = hosts("vault.example.com", "secrets.example.com")
	ingress, err = ingresses.Update(ctx, ingress, metav1.UpdateOptions{})
	must(t, err)
	eventually(t, ctx, 90*time.Second, "the Ingress' new host is in the next certificate",
		storedNames(w, &leaf, chartNames, serviceNames, podNames, "vault.example.com *.vault.example.com secrets.example.com"))
	if leaf.Equal(first) {
		t.Fatal("the story begins wrong: the same certificate has other names")
	}

	// With the Service gone, the names wanted are not known; what the Ingress
	// loses is not known to be unwanted either.
	second := leaf
	must(t, api.Delete(ctx, "vault-active", metav1.DeleteOptions{}))
	ingress.Spec.Rules = hosts("secrets.example.com")
	_, err = ingresses.Update(ctx, ingress, metav1.UpdateOptions{})
	must(t, err)
	requests := countRequests(t, ctx, w)
	replace(t, pod, "format: text", "format: json") // upon which it looks anew, and not only within the minute
	const finding = `pkiwarden_findings{rule="names-source-missing",severity="warning"}`
	eventually(t, ctx, 90*time.Second, "pkiwarden says that the Service is gone", metricIs(pod, finding, 1))
	eventually(t, ctx, 20*time.Second, "its status says so too", certificateState(w, pod, world.CertificateName, "hindered", "Service vault/vault-active does not exist"))
	replace(t, pod, "format: json", "format: text")
	eventually(t, ctx, 90*time.Second, "it has looked again", looksAgain(pod, time.Now()))
	if stored, err := w.StoredLeaf(ctx); err != nil || !stored.Equal(second) {
		t.Fatalf("the certificate was replaced while its names were not known (%v)", err)
	}
	if again := countRequests(t, ctx, w); again != requests {
		t.Errorf("%d requests were made while the names were not known", again-requests)
	}

	_, err = api.Create(ctx, service, metav1.CreateOptions{})
	must(t, err)
	replace(t, pod, "format: text", "format: json")
	eventually(t, ctx, 90*time.Second, "with the Service back, the certificate follows the Ingress",
		storedNames(w, &leaf, chartNames, serviceNames, podNames, "*.vault.example.com secrets.example.com"))
	eventually(t, ctx, 90*time.Second, "the finding is gone", func(ctx context.Context) error {
		if _, err := pod.Metric(ctx, finding); !errors.Is(err, world.ErrAbsent) {
			return fmt.Errorf("%s is there (%v)", finding, err)
		}
		return nil
	})
}
