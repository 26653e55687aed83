package e2e

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// scene is a part of a story.
type scene struct {
	name string
	play func(*testing.T)
}

// scenes plays one after the other, and none after one that failed: each begins
// where the former ended.
func scenes(t *testing.T, all []scene) {
	t.Helper()
	for _, s := range all {
		if !t.Run(s.name, s.play) {
			return
		}
	}
}

// says waits for a line of the pod's log, and returns it.
func says(t *testing.T, ctx context.Context, pod *world.Pod, within time.Duration, pattern string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	line, err := pod.WaitForLog(ctx, pattern)
	must(t, err)
	return line
}

// linesSince are the lines of the log after the first n of its bytes.
func linesSince(pod *world.Pod, n int) []string {
	return strings.Split(strings.TrimSuffix(pod.Log()[n:], "\n"), "\n")
}

// certificate declares one more, in the namespace of Vault's.
func certificate(name string, changes map[string]any) map[string]any {
	c := map[string]any{
		"name":     name,
		"secret":   map[string]any{"namespace": world.Namespace, "name": name + "-tls"},
		"subject":  map[string]any{"commonName": "system:node:" + name, "organizations": []string{"system:nodes"}},
		"dnsNames": []string{name + ".vault.svc"},
		"lifetime": "10m", "approve": true,
		"trust": map[string]any{"configMap": map[string]any{"namespace": world.Namespace, "name": "kube-root-ca.crt", "key": "ca.crt"}},
	}
	for key, value := range changes {
		c[key] = value
	}
	return c
}

// grant gives Vault's service account rights in a namespace, "" is the cluster:
// what an administrator adds to the shipped ones for what the story declares.
func grant(t *testing.T, ctx context.Context, w *world.World, namespace, name string, rules ...rbacv1.PolicyRule) {
	t.Helper()
	meta := metav1.ObjectMeta{Name: name}
	role, err := w.Client.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{})
	must(t, err)
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name}
	subjects := []rbacv1.Subject{{Kind: "ServiceAccount", Name: "vault", Namespace: world.Namespace}}
	if namespace == "" {
		_, err = w.Client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}, metav1.CreateOptions{})
	} else {
		_, err = w.Client.RbacV1().RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: subjects}, metav1.CreateOptions{})
	}
	must(t, err)
}

// keeping is what the role pkiwarden-certificates says of one certificate.
func keeping(name string) []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{name + "-tls", name + "-tls-next"}, Verbs: []string{"get", "update"}},
		{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"create"}},
	}
}

// requestsFor counts the requests that were ever made for a certificate.
func requestsFor(t *testing.T, ctx context.Context, w *world.World, name string) int {
	t.Helper()
	list, err := w.Client.CertificatesV1().CertificateSigningRequests().List(ctx, metav1.ListOptions{LabelSelector: "pkiwarden.io/certificate=" + world.Namespace + "_" + name + "-tls"})
	must(t, err)
	return len(list.Items)
}

func secretExists(w *world.World, namespace, name string) func(context.Context) error {
	return func(ctx context.Context) error {
		secret, err := w.Client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil && secret.Type != corev1.SecretTypeTLS {
			err = fmt.Errorf("its type is %s", secret.Type)
		}
		return err
	}
}

// Everything that can be wrong with a certificate in the cluster, one after the
// other in one cluster: each has its own message, which names what to do, and
// doing that is what mends it.
func TestFaultsInTheCluster(t *testing.T) {
	ctx, w := start(t, world.Options{NoApprover: true})
	grant(t, ctx, w, "", "approves",
		rbacv1.PolicyRule{APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"certificatesigningrequests/approval"}, Verbs: []string{"update"}},
		rbacv1.PolicyRule{APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"signers"}, ResourceNames: []string{"kubernetes.io/kubelet-serving", "example.com/none"}, Verbs: []string{"approve"}})
	scenes(t, []scene{
		{"WrongStart", func(t *testing.T) { wrongStart(t, ctx, w) }},
		{"EachCertificate", func(t *testing.T) { eachCertificate(t, ctx, w) }},
		{"MissingNamespace", func(t *testing.T) { missingNamespace(t, ctx, w) }},
		{"LostRights", func(t *testing.T) { lostRights(t, ctx, w) }},
	})
}

// What cannot run at all ends at once, and says everything that is wrong.
func wrongStart(t *testing.T, ctx context.Context, w *world.World) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer taken.Close()
	for _, c := range []struct {
		name string
		set  map[string]any
		code int
		want []string // regular expressions, one for each line
	}{
		{"wrong-file", map[string]any{"tidi.enabled": true, "crl.interval": "soon", "certificates.0.signer": "none"}, 64, []string{
			`^error: \S+/config.yaml:\d+:\d+: certificates\[0\]\.signer: .*"none"`,
			`^error: \S+/config.yaml:\d+:\d+: crl\.interval: .*"soon"`,
			`^error: \S+/config.yaml:\d+:1: tidi: unknown key; did you mean "tidy"\?`,
		}},
		{"address-in-use", map[string]any{"listen.address": taken.Addr().String()}, 2, []string{
			`^error: listening on ` + taken.Addr().String() + `: another process listens there, set listen.address`,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod, err := w.NewPod(ctx, world.PodOptions{Name: c.name, Set: c.set})
			must(t, err)
			result, err := w.Set.Run(ctx, servers.ProgramOptions{Name: c.name + "-once", Path: w.Pkiwarden, Args: []string{"run", "--config=" + pod.ConfigFile},
				Env: []string{"POD_NAME=" + c.name, "POD_NAMESPACE=" + world.Namespace}})
			must(t, err)
			if result.ExitCode != c.code {
				t.Errorf("exit code %d, want %d", result.ExitCode, c.code)
			}
			var errors []string
			for line := range strings.Lines(result.Stderr) {
				if strings.HasPrefix(line, "error:") {
					errors = append(errors, line)
				}
			}
			if len(errors) != len(c.want) {
				t.Errorf("%d lines of errors, want %d:\n%s", len(errors), len(c.want), result.Stderr)
			}
			for _, want := range c.want {
				if !regexp.MustCompile("(?m)" + want).MatchString(result.Stderr) {
					t.Errorf("no line matches %s:\n%s", want, result.Stderr)
				}
			}
		})
	}
}

// Five certificates in one configuration; what is wrong with one does not stop
// the others.
func eachCertificate(t *testing.T, ctx context.Context, w *world.World) {
	for _, name := range []string{"adopted", "opaque", "unapproved", "unsigned"} {
		grant(t, ctx, w, world.Namespace, "keeps-"+name, keeping(name)...)
	}
	secrets := w.Client.CoreV1().Secrets(world.Namespace)
	leaf, err := w.Kubernetes.CA.Issue(servers.LeafOptions{
		CommonName: "system:node:adopted", Organizations: []string{"system:nodes"}, DNSNames: []string{"adopted.vault.svc"},
		IPs:      []net.IP{net.IPv4(127, 0, 0, 1)}, // asked for by default
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(9 * time.Minute),
	})
	must(t, err)
	adopted, err := secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "adopted-tls"}, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{"tls.crt": leaf.CertificatePEM, "tls.key": leaf.KeyPEM}}, metav1.CreateOptions{})
	must(t, err)
	opaque, err := secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "opaque-tls"}, Type: corev1.SecretTypeOpaque,
		Data: map[string][]byte{"tls.crt": []byte("somebody's")}}, metav1.CreateOptions{})
	must(t, err)

	pod, err := w.StartPod(ctx, world.PodOptions{Name: "vault-0", Set: map[string]any{"certificates": []any{
		certificate("opaque", nil),
		certificate("unapproved", map[string]any{"approve": false}),
		certificate("unsigned", map[string]any{"signer": "example.com/none"}),
		certificate("adopted", nil),
		certificate(world.CertificateName, nil),
	}}})
	must(t, err)
	must(t, w.Delivered(ctx))

	says(t, ctx, pod, 20*time.Second, `certificate=unsigned .*request pkiwarden-unsigned-tls-\w+ is approved; signer example.com/none has not answered yet`)
	says(t, ctx, pod, 20*time.Second, `msg=finding rule=secret-wrong-type severity=critical subject="certificate opaque" .*vault/opaque-tls exists with type \\"Opaque\\", not \\"kubernetes.io/tls\\".*kubectl -n vault delete secret opaque-tls`)
	eventually(t, ctx, 20*time.Second, "the adopted certificate is known", metricIs(pod, `pkiwarden_certificate_not_after_timestamp_seconds{certificate="adopted"}`, float64(leaf.Certificate.NotAfter.Unix())))
	must(t, metricIs(pod, `pkiwarden_findings{rule="secret-wrong-type",severity="critical"}`, 1)(ctx))
	must(t, pod.Readyz(ctx))

	line := says(t, ctx, pod, 20*time.Second, `certificate=unapproved .*awaits approval by somebody else: kubectl certificate approve pkiwarden-unapproved-tls-\w+`)
	command := strings.Fields(line[strings.Index(line, "kubectl ")+len("kubectl "):])[:3]
	command[2] = strings.Trim(command[2], `"`)
	must(t, secrets.Delete(ctx, "opaque-tls", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &opaque.ResourceVersion}}))
	_, err = w.Kubectl(ctx, command...)
	must(t, err)
	eventually(t, ctx, 20*time.Second, "the approved one is stored", secretExists(w, world.Namespace, "unapproved-tls"))
	eventually(t, ctx, 70*time.Second, "the one of the wrong type is made anew", secretExists(w, world.Namespace, "opaque-tls"))

	still, err := secrets.Get(ctx, "adopted-tls", metav1.GetOptions{})
	must(t, err)
	if still.ResourceVersion != adopted.ResourceVersion {
		t.Errorf("the adopted Secret was written: resourceVersion %s, was %s", still.ResourceVersion, adopted.ResourceVersion)
	}
	for name, want := range map[string]int{"adopted": 0, "opaque": 1, "unapproved": 1, "unsigned": 1, world.CertificateName: 1} {
		if n := requestsFor(t, ctx, w, name); n != want {
			t.Errorf("%d requests for %s, want %d", n, name, want)
		}
	}
	must(t, pod.Stop(ctx))
	noSecrets(t, ctx, w, pod)
}

// Nobody has rights in a namespace that does not exist. The shipped rights let
// pkiwarden look whether the namespace that they name exists; of another one it
// can only say that a right is missing in it.
func missingNamespace(t *testing.T, ctx context.Context, w *world.World) {
	const absent = "not-there-yet"
	pod, err := w.StartPod(ctx, world.PodOptions{Name: "vault-0", Set: map[string]any{"deliver": nil, "certificates": []any{
		certificate("moved", map[string]any{"secret": map[string]any{"namespace": absent, "name": "moved-tls"}}),
		certificate(world.CertificateName, nil),
	}}})
	must(t, err)
	says(t, ctx, pod, 20*time.Second, `msg=finding rule=permission-denied .*subject="certificate moved" .*verb \\"get\\" on secrets in namespace \\"`+absent+`\\".*Role in namespace \\"`+absent+`\\", which must exist`)
	grant(t, ctx, w, "", "sees-namespaces", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"namespaces"}, Verbs: []string{"get"}})
	says(t, ctx, pod, 20*time.Second, `msg=finding rule=namespace-missing severity=critical subject="certificate moved" summary="namespace \\"`+absent+`\\" does not exist" .*remedy="create the namespace, or correct secret.namespace"`)
	if _, err := pod.Metric(ctx, `pkiwarden_certificate_not_after_timestamp_seconds{certificate="vault-server"}`); err != nil {
		t.Errorf("the other certificate is not looked after: %v", err)
	}
	_, err = w.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: absent}}, metav1.CreateOptions{})
	must(t, err)
	grant(t, ctx, w, absent, "keeps-moved", keeping("moved")...)
	eventually(t, ctx, 60*time.Second, "the certificate is stored there", secretExists(w, absent, "moved-tls"))
	must(t, pod.Stop(ctx))
}

// refused counts the requests that the API server had no permission for.
func refused(t *testing.T, ctx context.Context, w *world.World) int {
	t.Helper()
	text, err := w.Client.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	must(t, err)
	total := 0
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, `authorization_attempts_total{result="no-opinion"}`) {
			n, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndex(line, " "):]), 64)
			must(t, err)
			total += int(n)
		}
	}
	return total
}

// Rights that are taken away while pkiwarden runs.
func lostRights(t *testing.T, ctx context.Context, w *world.World) {
	pod, err := w.StartPod(ctx, world.PodOptions{Name: "vault-0", Set: map[string]any{"certificates": []any{certificate(world.CertificateName, nil)}}})
	must(t, err)
	const known = `pkiwarden_certificate_not_after_timestamp_seconds{certificate="vault-server"}`
	eventually(t, ctx, 30*time.Second, "the certificate is looked after", func(ctx context.Context) error {
		_, err := pod.Metric(ctx, known)
		return err
	})
	notAfter, err := pod.Metric(ctx, known)
	must(t, err)
	bindings := w.Client.RbacV1().RoleBindings(world.Namespace)
	binding, err := bindings.Get(ctx, "pkiwarden-certificates", metav1.GetOptions{})
	must(t, err)
	must(t, bindings.Delete(ctx, binding.Name, metav1.DeleteOptions{}))
	touchRequests(t, ctx, w)
	const finding = `msg=finding rule=permission-denied severity=critical subject="certificate vault-server" summary="permission denied: needs verb \\"get\\" on secrets in namespace \\"vault\\" with name \\"vault-server-tls-next\\"`
	says(t, ctx, pod, 75*time.Second, finding)

	lines, requests := len(pod.Log()), refused(t, ctx, w)
	time.Sleep(15 * time.Second)
	said, asked := linesSince(pod, lines), refused(t, ctx, w)-requests
	// The delivery may find out in this time, and says so with a line and a finding.
	if len(said) > 4 {
		t.Errorf("%d lines in 15 s, want four at most:\n%s", len(said), strings.Join(said, "\n"))
	}
	if asked == 0 || asked > 30 {
		t.Errorf("%d requests were refused in 15 s, want a few", asked)
	}
	t.Logf("%d lines, %d requests", len(said), asked)
	says(t, ctx, pod, 20*time.Second, `msg=finding rule=certificate-not-delivered severity=critical .*needs verb \\\"get\\\" on resource secrets, name \\\"vault-server-tls\\\", in namespace \\\"vault\\\"`)
	if n := len(regexp.MustCompile(finding).FindAllString(pod.Log(), -1)); n != 1 {
		t.Errorf("the finding was logged %d times", n)
	}
	must(t, metricIs(pod, `pkiwarden_findings{rule="permission-denied",severity="critical"}`, 1)(ctx))
	must(t, metricIs(pod, known, notAfter)(ctx))
	must(t, metricIs(pod, "pkiwarden_leader", 1)(ctx))
	must(t, pod.Readyz(ctx))

	binding.ResourceVersion, binding.UID = "", ""
	_, err = bindings.Create(ctx, binding, metav1.CreateOptions{})
	must(t, err)
	// Each has its own back-off, of up to a minute and a bit.
	says(t, ctx, pod, 2*time.Minute, `msg="finding cleared" rule=permission-denied subject="certificate vault-server"`)
	says(t, ctx, pod, 2*time.Minute, `msg="finding cleared" rule=certificate-not-delivered`)
	if n := requestsFor(t, ctx, w, world.CertificateName); n != 1 {
		t.Errorf("%d requests for the certificate, want the one of its birth", n)
	}
	must(t, pod.Stop(ctx))
	leaseIsFree(t, ctx, w)
}

// touchRequests makes an event of each request, so that pkiwarden looks now and
// not within the minute.
func touchRequests(t *testing.T, ctx context.Context, w *world.World) {
	t.Helper()
	requests := w.Client.CertificatesV1().CertificateSigningRequests()
	list, err := requests.List(ctx, metav1.ListOptions{})
	must(t, err)
	for _, r := range list.Items {
		_, err := requests.Patch(ctx, r.Name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"example.com/touched":"yes"}}}`), metav1.PatchOptions{})
		must(t, err)
	}
}

// replace changes one place of a pod's configuration on disk, as a changed
// ConfigMap does: no reader sees half of it.
func replace(t *testing.T, pod *world.Pod, changes ...string) {
	t.Helper()
	text, err := os.ReadFile(pod.ConfigFile)
	must(t, err)
	for i := 0; i < len(changes); i += 2 {
		if n := strings.Count(string(text), changes[i]); n != 1 {
			t.Fatalf("the configuration holds %q %d times:\n%s", changes[i], n, text)
		}
		text = []byte(strings.Replace(string(text), changes[i], changes[i+1], 1))
	}
	must(t, os.WriteFile(pod.ConfigFile+".new", text, 0o600))
	must(t, os.Rename(pod.ConfigFile+".new", pod.ConfigFile))
}
