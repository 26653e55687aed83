package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// event is the one Event of an object and reason.
func event(ctx context.Context, w *world.World, object, reason string) (corev1.Event, error) {
	list, err := w.Client.CoreV1().Events(world.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.kind=Secret,involvedObject.name=" + object + ",reason=" + reason})
	if err != nil {
		return corev1.Event{}, err
	}
	if len(list.Items) != 1 {
		return corev1.Event{}, fmt.Errorf("%d events %s on Secret %s", len(list.Items), reason, object)
	}
	return list.Items[0], nil
}

// counted is how many requests the record of all certificates counts.
func counted(ctx context.Context, w *world.World) (int, error) {
	m, err := w.Client.CoreV1().ConfigMaps(world.ControllerNamespace).Get(ctx, "pkiwarden-state-certificates", metav1.GetOptions{})
	if err != nil {
		return 0, err
	}
	var record struct {
		Signers map[string]struct{ Hours map[string]int }
	}
	if err := json.Unmarshal([]byte(m.Data["state"]), &record); err != nil {
		return 0, err
	}
	n := 0
	for _, hour := range record.Signers["kubernetes.io/kubelet-serving"].Hours {
		n += hour
	}
	return n, nil
}

// TestLifecycle: a certificate that is issued, one whose request somebody
// denies, one that must not be written and one that nobody approves, side by
// side: each is told on its own object, each goes on at its own pace, and what
// was asked for is counted over a SIGKILL.
func TestLifecycle(t *testing.T) {
	ctx, w := start(t, world.Options{})
	for _, name := range []string{"denied", "other"} {
		grant(t, ctx, w, world.Namespace, "keeps-"+name, keeping(name)...)
	}
	pod, err := w.StartPod(ctx, world.PodOptions{Name: "vault-0", Set: map[string]any{"certificates": []any{
		certificate("forbidden", nil), // its rights were forgotten
		certificate("denied", map[string]any{"approve": false}),
		certificate(world.CertificateName, map[string]any{"dnsNames": []string{world.ServerName}, "secret": map[string]any{"namespace": world.Namespace, "name": world.SecretName}}),
	}, "deliver": []any{}}})
	must(t, err)
	eventually(t, ctx, 20*time.Second, "the good one is issued beside two that are not", secretExists(w, world.Namespace, world.SecretName))
	eventually(t, ctx, 10*time.Second, "that is told on its Secret", func(ctx context.Context) error {
		e, err := event(ctx, w, world.SecretName, "CertificateIssued")
		if err != nil {
			return err
		}
		if e.Type != "Normal" || e.Count != 1 || e.InvolvedObject.UID == "" || !strings.Contains(e.Message, "due for renewal") {
			return fmt.Errorf("%+v", e)
		}
		return nil
	})
	out, err := w.Kubectl(ctx, "-n", world.Namespace, "events", "--for", "secret/"+world.SecretName)
	must(t, err)
	if !strings.Contains(out, "CertificateIssued") {
		t.Errorf("kubectl events does not show it:\n%s", out)
	}

	var request string
	eventually(t, ctx, 20*time.Second, "the other one's request waits", func(ctx context.Context) error {
		list, err := w.Client.CertificatesV1().CertificateSigningRequests().List(ctx, metav1.ListOptions{LabelSelector: "pkiwarden.io/certificate=" + world.Namespace + "_denied-tls"})
		if err != nil {
			return err
		}
		if len(list.Items) != 1 {
			return fmt.Errorf("%d requests", len(list.Items))
		}
		request = list.Items[0].Name
		return nil
	})
	eventually(t, ctx, 10*time.Second, "status says what it waits for", certificateState(w, pod, "denied", "await-approval", "kubectl certificate approve "+request))
	eventually(t, ctx, 10*time.Second, "and that another one is good", certificateState(w, pod, world.CertificateName, "good", "renewal is due"))
	eventually(t, ctx, 10*time.Second, "and which right is missing", certificateState(w, pod, "forbidden", "unknown", "permission denied"))
	_, err = w.Kubectl(ctx, "certificate", "deny", request)
	must(t, err)
	eventually(t, ctx, 15*time.Second, "status says why it is not renewed", certificateState(w, pod, "denied", "held-back", "was denied", "next attempt at"))
	// The watch tells of it: the next look by time would be seconds away.
	eventually(t, ctx, 15*time.Second, "the denial is told on the Secret of the next key", func(ctx context.Context) error {
		e, err := event(ctx, w, "denied-tls-next", "RequestDenied")
		if err != nil {
			return err
		}
		if e.Type != "Warning" || !strings.Contains(e.Message, request) {
			return fmt.Errorf("%+v", e)
		}
		return nil
	})
	eventually(t, ctx, 10*time.Second, "the missing right is told", func(ctx context.Context) error {
		e, err := event(ctx, w, "forbidden-tls", "PermissionDenied")
		if err == nil && !strings.Contains(e.Message, "forbidden-tls-next") {
			err = fmt.Errorf("%s", e.Message)
		}
		return err
	})

	// Two requests were made. A SIGKILL forgets nothing, and asks for nothing
	// again that it has, or that failed a moment ago.
	eventually(t, ctx, 10*time.Second, "both requests are counted", func(ctx context.Context) error {
		n, err := counted(ctx, w)
		if err == nil && n != 2 {
			err = fmt.Errorf("%d", n)
		}
		return err
	})
	must(t, pod.Kill())
	pod, err = w.StartPod(ctx, world.PodOptions{Name: "vault-1", Set: map[string]any{"certificates": []any{
		certificate("denied", map[string]any{"approve": false}),
		certificate("other", nil),
		certificate(world.CertificateName, map[string]any{"dnsNames": []string{world.ServerName}, "secret": map[string]any{"namespace": world.Namespace, "name": world.SecretName}}),
	}, "deliver": []any{}}})
	must(t, err)
	eventually(t, ctx, 60*time.Second, "the next leader issues one more", secretExists(w, world.Namespace, "other-tls"))
	n, err := counted(ctx, w)
	must(t, err)
	made := 0
	for _, name := range []string{"denied", "other"} {
		made += requestsFor(t, ctx, w, name)
	}
	if made++; n != made || requestsFor(t, ctx, w, "other") != 1 {
		t.Errorf("%d requests are counted, and %d were made", n, made)
	}
	noSecrets(t, ctx, w, pod)

	// Nobody may write events any more: said once, and nothing else changes.
	role, err := w.Client.RbacV1().ClusterRoles().Get(ctx, "pkiwarden-certificates", metav1.GetOptions{})
	must(t, err)
	for i := range role.Rules {
		if slices.Contains(role.Rules[i].Resources, "events") {
			role.Rules[i].Verbs = []string{"get"}
		}
	}
	_, err = w.Client.RbacV1().ClusterRoles().Update(ctx, role, metav1.UpdateOptions{})
	must(t, err)
	must(t, w.Client.CoreV1().Secrets(world.Namespace).Delete(ctx, "other-tls", metav1.DeleteOptions{}))
	eventually(t, ctx, 90*time.Second, "a Secret that was removed comes back", secretExists(w, world.Namespace, "other-tls"))
	says(t, ctx, pod, 20*time.Second, "events cannot be written, which hinders nothing else")
}
