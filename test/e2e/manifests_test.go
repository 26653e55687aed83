package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers/serverstest"
)

// operatorModule is where the CRDs of PodMonitor and PrometheusRule come from.
const operatorModule = "github.com/prometheus-operator/prometheus-operator@v0.85.0"

// cluster is a real control plane and kubectl.
type cluster struct {
	*servers.Kubernetes
	set     *servers.Set
	client  *kubernetes.Clientset
	kubectl string
}

func newCluster(t *testing.T, ctx context.Context) *cluster {
	t.Helper()
	set := serverstest.New(t)
	paths, err := servers.Find(ctx, servers.Options{}, "kubectl")
	if err != nil {
		t.Fatal(err)
	}
	k, err := set.StartKubernetes(ctx, servers.KubernetesOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config := k.Config()
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{Kubernetes: k, set: set, client: client, kubectl: paths["kubectl"]}
}

// run is kubectl as administrator.
func (c *cluster) run(ctx context.Context, args ...string) (string, error) {
	result, err := c.set.Run(ctx, servers.ProgramOptions{Path: c.kubectl, Name: "kubectl", Args: append([]string{"--kubeconfig=" + c.AdminConfig}, args...)})
	if err == nil && result.ExitCode != 0 {
		err = fmt.Errorf("kubectl %s: exit code %d: %s", strings.Join(args, " "), result.ExitCode, result.Stderr)
	}
	return result.Stdout, err
}

func (c *cluster) must(t *testing.T, ctx context.Context, args ...string) {
	t.Helper()
	if _, err := c.run(ctx, args...); err != nil {
		t.Fatal(err)
	}
}

// apply renders a folder of manifests/ and applies it; a field that the API
// server does not know is an error.
func (c *cluster) apply(t *testing.T, ctx context.Context, dir string) {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(manifestsDir, dir))
	if err != nil {
		t.Fatal(err)
	}
	c.must(t, ctx, "apply", "--server-side", "--validate=strict", "-k", path)
}

func (c *cluster) namespace(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	_, err := c.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// TestManifests applies everything that is shipped to a real API server, looks
// at the rights that follow, and has each pod admitted under the restricted
// profile.
func TestManifests(t *testing.T) {
	t.Parallel()
	ctx := serverstest.Context(t)
	c := newCluster(t, ctx)

	t.Run("sidecars", func(t *testing.T) {
		c.apply(t, ctx, "example")
		c.checkRights(t, ctx, "vault", "vault", append(rightsOfTheLeader, "get,update pods vault/vault-0", "patch pods vault/vault-0", "create tokenreviews", "create subjectaccessreviews"))
		statefulSet, err := c.client.AppsV1().StatefulSets("vault").Get(ctx, "vault", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c.admitted(t, ctx, "vault", statefulSet.Spec.Template)
		c.checkSidecar(t, statefulSet.Spec.Template.Spec)
	})
	t.Run("without rights", func(t *testing.T) {
		// The next shape begins with nothing: this also shows that the rights
		// above came from these bindings, and that the matrix can tell.
		c.must(t, ctx, "delete", "clusterrolebindings,rolebindings", "-A", "-l", "app.kubernetes.io/part-of=pkiwarden")
		c.must(t, ctx, "delete", "clusterrolebinding", "vault-server-binding")
		c.must(t, ctx, "delete", "rolebinding", "-n", "vault", "vault-discovery")
		c.checkRights(t, ctx, "vault", "vault", nil)
	})
	t.Run("controller", func(t *testing.T) {
		c.apply(t, ctx, "controller")
		c.checkRights(t, ctx, "pkiwarden", "pkiwarden", rightsOfTheLeader)
		c.checkRights(t, ctx, "vault", "vault", []string{"get secrets vault/vault-server-tls"})
		deployment, err := c.client.AppsV1().Deployments("pkiwarden").Get(ctx, "pkiwarden", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c.admitted(t, ctx, "pkiwarden", deployment.Spec.Template)
	})
	t.Run("approver", func(t *testing.T) {
		c.must(t, ctx, "apply", "--server-side", "--validate=strict", "-k", overlay(t, "controller", "approver"))
		c.checkRights(t, ctx, "pkiwarden", "pkiwarden", append(rightsOfTheLeader,
			"update certificatesigningrequests/approval /any", "approve signers /kubernetes.io/kubelet-serving"))
		c.checkRights(t, ctx, "vault", "vault", []string{"get secrets vault/vault-server-tls"})
	})
	t.Run("names", func(t *testing.T) {
		c.must(t, ctx, "delete", "clusterrolebinding", "pkiwarden-approver")
		c.must(t, ctx, "apply", "--server-side", "--validate=strict", "-k", overlay(t, "controller", "names"))
		c.checkRights(t, ctx, "pkiwarden", "pkiwarden", append(rightsOfTheLeader,
			"get services vault/vault", "get services vault/vault-active", "get statefulsets vault/vault", "get ingresses vault/vault"))
		c.checkRights(t, ctx, "vault", "vault", []string{"get secrets vault/vault-server-tls"})
	})
	t.Run("signer", func(t *testing.T) {
		c.must(t, ctx, "delete", "rolebinding", "-n", "vault", "pkiwarden-names")
		c.must(t, ctx, "apply", "--server-side", "--validate=strict", "-k", overlay(t, "controller", "signer"))
		c.checkRights(t, ctx, "pkiwarden", "pkiwarden", append(rightsOfTheLeader,
			"update certificatesigningrequests/status /any", "sign signers /pkiwarden.io/consul", "get secrets pkiwarden/consul-ca"))
		c.checkRights(t, ctx, "vault", "vault", []string{"get secrets vault/vault-server-tls"})
	})
	t.Run("tidy-cronjob", func(t *testing.T) {
		c.apply(t, ctx, "tidy-cronjob")
		c.checkRights(t, ctx, "pkiwarden", "pkiwarden-tidy", rightsOnState)
		job, err := c.client.BatchV1().CronJobs("pkiwarden").Get(ctx, "pkiwarden-tidy", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if job.Spec.ConcurrencyPolicy != "Forbid" || job.Spec.JobTemplate.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyNever {
			t.Errorf("concurrencyPolicy %s, restartPolicy %s; want Forbid and Never", job.Spec.ConcurrencyPolicy, job.Spec.JobTemplate.Spec.Template.Spec.RestartPolicy)
		}
		c.admitted(t, ctx, "pkiwarden", job.Spec.JobTemplate.Spec.Template)
	})
	t.Run("consul", func(t *testing.T) {
		c.namespace(t, ctx, "consul")
		c.apply(t, ctx, "consul")
		c.admitted(t, ctx, "pkiwarden", consulPod(t))
	})
	t.Run("monitoring", func(t *testing.T) {
		dir := moduleDir(t, ctx, operatorModule)
		for _, kind := range []string{"podmonitors", "prometheusrules"} {
			c.must(t, ctx, "apply", "--server-side", "-f", filepath.Join(dir, "example/prometheus-operator-crd/monitoring.coreos.com_"+kind+".yaml"))
			c.must(t, ctx, "wait", "--for=condition=Established", "--timeout=60s", "crd/"+kind+".monitoring.coreos.com")
		}
		c.apply(t, ctx, "monitoring")
	})
	t.Run("strict", func(t *testing.T) {
		// A misspelled field is refused, also in the operator's objects: without
		// that, the applies above would show little.
		for file, line := range map[string]string{
			"controller/deployment.yaml":     "  replicas: 2\n",
			"tidy-cronjob/cronjob.yaml":      "  timeZone: Etc/UTC\n",
			"monitoring/podmonitor.yaml":     "  podMetricsEndpoints:\n",
			"monitoring/prometheusrule.yaml": "  groups:\n",
		} {
			good := readFile(t, filepath.Join(manifestsDir, file))
			bad := strings.Replace(good, line, "  unheardOf: true\n"+line, 1)
			path := filepath.Join(t.TempDir(), "bad.yaml")
			writeFile(t, path, bad)
			_, err := c.run(ctx, "apply", "--server-side", "--validate=strict", "-n", "pkiwarden", "-f", path)
			if err == nil || !strings.Contains(err.Error(), "unheardOf") {
				t.Errorf("%s with an unknown field: %v, want it refused by name", file, err)
			}
		}
	})
}

// overlay is a kustomization of a shape with components.
func overlay(t *testing.T, shape string, components ...string) string {
	t.Helper()
	dir := t.TempDir()
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifests, err := filepath.Abs(manifestsDir)
	if err != nil {
		t.Fatal(err)
	}
	base, err := filepath.Rel(real, manifests)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [%s/%s]\ncomponents:\n", base, shape)
	for _, component := range components {
		text += fmt.Sprintf("  - %s/%s\n", base, component)
	}
	writeFile(t, filepath.Join(dir, "kustomization.yaml"), text)
	return dir
}

// moduleDir is the folder of a module in the module cache, downloaded if need be.
func moduleDir(t *testing.T, ctx context.Context, module string) string {
	t.Helper()
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", module)
	cmd.Dir = t.TempDir() // outside of every module
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("downloading %s: %v\n%s", module, err, out)
	}
	var answer struct{ Dir string }
	if err := json.Unmarshal(out, &answer); err != nil || answer.Dir == "" {
		t.Fatalf("downloading %s: no folder in %s (%v)", module, out, err)
	}
	return answer.Dir
}

// admitted has the API server admit a pod of the template, under the restricted
// profile that the namespace enforces, and nothing is kept of it.
func (c *cluster) admitted(t *testing.T, ctx context.Context, namespace string, template corev1.PodTemplateSpec) {
	t.Helper()
	ns, err := c.client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if level := ns.Labels["pod-security.kubernetes.io/enforce"]; level != "restricted" {
		t.Fatalf("namespace %s enforces %q: admission there shows nothing", namespace, level)
	}
	pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: *template.Spec.DeepCopy()}
	pod.GenerateName = "admitted-"
	for _, container := range pod.Spec.Containers {
		for _, mount := range container.VolumeMounts {
			if !slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == mount.Name }) {
				// A volume claim of the StatefulSet.
				pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: mount.Name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
			}
		}
	}
	options := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict}
	if _, err := c.client.CoreV1().Pods(namespace).Create(ctx, pod, options); err != nil {
		t.Errorf("the pod is not admitted: %v", err)
	}
	// The same pod as root is not: admission is at work.
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: new(int64(0)), RunAsNonRoot: new(false)}
	if _, err := c.client.CoreV1().Pods(namespace).Create(ctx, pod, options); err == nil {
		t.Error("a pod that runs as root is admitted")
	}
}

// checkSidecar holds the rendered pod to what makes a cluster without any
// certificate come up, and Vault independent of its sidecar.
func (c *cluster) checkSidecar(t *testing.T, spec corev1.PodSpec) {
	t.Helper()
	if spec.ShareProcessNamespace == nil || !*spec.ShareProcessNamespace {
		t.Error("the processes of the pod do not see each other")
	}
	i := slices.IndexFunc(spec.InitContainers, func(c corev1.Container) bool { return c.Name == "pkiwarden" })
	if i < 0 {
		t.Fatal("the pod has no init container pkiwarden")
	}
	sidecar := spec.InitContainers[i]
	if sidecar.RestartPolicy == nil || *sidecar.RestartPolicy != corev1.ContainerRestartPolicyAlways {
		t.Error("it is no native sidecar: restartPolicy is not Always")
	}
	if sidecar.StartupProbe == nil {
		t.Error("nothing waits for the first pair: no startupProbe")
	}
	if sidecar.ReadinessProbe != nil || sidecar.LivenessProbe != nil {
		t.Error("a readiness or liveness probe of the sidecar would gate Vault's pod")
	}
	var user *int64
	if spec.SecurityContext != nil {
		user = spec.SecurityContext.RunAsUser
	}
	if user == nil || sidecar.SecurityContext.RunAsUser == nil || *user != *sidecar.SecurityContext.RunAsUser {
		t.Error("the sidecar does not run as Vault's user, and could not signal it")
	}
	for _, v := range spec.Volumes {
		if v.Secret != nil && (v.Secret.Optional == nil || !*v.Secret.Optional) {
			t.Errorf("the pod waits for the Secret %s that only its sidecar would make: not optional", v.Secret.SecretName)
		}
		if v.Name == "vault-tls" && (v.EmptyDir == nil || v.EmptyDir.Medium != corev1.StorageMediumMemory) {
			t.Error("the delivered key does not live in memory")
		}
	}
}

// TestHelmSidecarIsTheShippedOne keeps the Helm values and the kustomize
// component the same: what is applied and admitted above is the latter.
func TestHelmSidecarIsTheShippedOne(t *testing.T) {
	values := yamlFile(t, "helm/vault-values.yaml")
	component := yamlFile(t, "vault-sidecar/sidecar.yaml")
	spec := at(t, component, "spec", "template", "spec")
	server := at(t, values, "server")
	for _, same := range []struct {
		what       string
		helm, kube any
	}{
		{"container", at(t, server, "extraInitContainers"), at(t, spec, "initContainers")},
		{"volumes", at(t, server, "volumes"), at(t, spec, "volumes")},
		{"mounts of Vault", at(t, server, "volumeMounts"), at(t, spec, "containers", "vault", "volumeMounts")},
		{"pod labels", at(t, server, "extraLabels"), at(t, component, "spec", "template", "metadata", "labels")},
		{"shareProcessNamespace", at(t, server, "shareProcessNamespace"), at(t, spec, "shareProcessNamespace")},
	} {
		if helm, kube := toJSON(t, same.helm), toJSON(t, same.kube); helm != kube {
			t.Errorf("%s differ:\nhelm      %s\nkustomize %s", same.what, helm, kube)
		}
	}
}

// consulPod is a pod with the container of the Consul values, and the volumes
// that the Consul chart makes around it.
func consulPod(t *testing.T) corev1.PodTemplateSpec {
	t.Helper()
	var containers []corev1.Container
	strict(t, at(t, yamlFile(t, "helm/consul-values.yaml"), "server", "extraContainers"), &containers)
	if len(containers) != 1 || containers[0].ReadinessProbe != nil {
		t.Fatalf("%d containers, want one without a readinessProbe", len(containers))
	}
	return corev1.PodTemplateSpec{Spec: corev1.PodSpec{
		SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: new(true), RunAsUser: new(int64(100)), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		Containers:      containers,
	}}
}

// TestConsulFollowsThePublishedBundle: the Secret of a CA changes in one go. Whoever
// followed that one would refuse Consul while it presents a certificate from the
// old CA, and the sidecar could not make it take the new one.
func TestConsulFollowsThePublishedBundle(t *testing.T) {
	config, values := yamlFile(t, "consul/config.yaml"), yamlFile(t, "helm/consul-values.yaml")
	live := at(t, config, "certificates").([]any)[0]
	delivered := at(t, at(t, config, "deliver").([]any)[0], "from", "mounted")
	if got, want := at(t, config, "consul", "caFile"), fmt.Sprint(delivered, "/ca.crt"); got != want {
		t.Errorf("the sidecar trusts %v, want %s", got, want)
	}
	caCert := at(t, values, "global", "tls", "caCert")
	if name, want := at(t, caCert, "secretName"), at(t, live, "secret", "name"); name != want || at(t, caCert, "secretKey") != "ca.crt" {
		t.Errorf("the chart trusts %v, want ca.crt of %v", caCert, want)
	}
}

// TestShippedConfigurationsAreValid runs what an administrator would run.
func TestShippedConfigurationsAreValid(t *testing.T) {
	t.Parallel()
	ctx := serverstest.Context(t)
	set := serverstest.New(t)
	program, err := set.BuildPkiwarden(ctx)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(manifestsDir + "/*/config*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatalf("found %d configurations (%v), want 5 or more", len(files), err)
	}
	for _, file := range files {
		path, err := filepath.Abs(file)
		if err != nil {
			t.Fatal(err)
		}
		result, err := set.Run(ctx, servers.ProgramOptions{Path: program, Args: []string{"validate", "--config", path}})
		if err != nil {
			t.Fatal(err)
		}
		if result.ExitCode != 0 {
			t.Errorf("validate %s: exit code %d\n%s", file, result.ExitCode, result.Stderr)
		}
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func yamlFile(t *testing.T, path string) any {
	t.Helper()
	var node any
	if err := yaml.Unmarshal([]byte(readFile(t, filepath.Join(manifestsDir, path))), &node); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return node
}

// at walks keys, and names within lists of named things.
func at(t *testing.T, node any, path ...string) any {
	t.Helper()
	for _, key := range path {
		switch n := node.(type) {
		case map[string]any:
			node = n[key]
		case []any:
			i := slices.IndexFunc(n, func(e any) bool { m, _ := e.(map[string]any); return m["name"] == key })
			if i < 0 {
				t.Fatalf("nothing is named %s in %v", key, n)
			}
			node = n[i]
		}
		if node == nil {
			t.Fatalf("no %s on the way %v", key, path)
		}
	}
	return node
}

func toJSON(t *testing.T, node any) string {
	t.Helper()
	text, err := json.Marshal(node)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// strict decodes a node into one of Kubernetes' types, which must know every
// field.
func strict(t *testing.T, node, into any) {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(toJSON(t, node)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		t.Fatal(err)
	}
}
