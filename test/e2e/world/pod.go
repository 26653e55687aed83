package world

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
)

// vaultAudience is the audience of the token that the shipped pods show Vault.
const vaultAudience = "vault"

// Pod is one pkiwarden, running as the pod that the shipped manifests would
// make: its service account, its rights, its configuration.
type Pod struct {
	*servers.Program
	Identity   *servers.Identity
	ConfigFile string
	// Address is where its metrics and health are.
	Address string
	// VaultToken is the projected token that it shows to Vault.
	VaultToken string
}

// PodOptions describe a pod.
type PodOptions struct {
	Name string
	// Config is the shipped configuration to begin with: "sidecars/config.yaml"
	// by default, or another path below manifests/.
	Config string
	// Namespace and ServiceAccount are the pod's; vault and vault by default.
	Namespace, ServiceAccount string
	// Set changes the configuration: a dotted path of keys to a value; a list
	// is indexed by number.
	Set map[string]any
	// Env is added to the environment, which holds nothing of the caller's.
	Env []string
	// Command is "run" by default.
	Command []string
	// ReadyWithin is how long Start waits for /healthz; a minute by default.
	ReadyWithin time.Duration
}

// Setting changes a key in the configuration of every pod made from now on.
func (w *World) Setting(path string, value any) { w.settings[path] = value }

// NewPod writes the pod's configuration and prepares its process, which
// [servers.Program.Start] starts.
func (w *World) NewPod(ctx context.Context, o PodOptions) (*Pod, error) {
	if o.Config == "" {
		o.Config = "sidecars/config.yaml"
	}
	if o.Namespace == "" {
		o.Namespace = Namespace
	}
	if o.ServiceAccount == "" {
		o.ServiceAccount = "vault"
	}
	if o.Command == nil {
		o.Command = []string{"run"}
	}
	identity, err := w.Kubernetes.ServiceAccountKubeconfig(ctx, o.Namespace, o.ServiceAccount, o.Name)
	if err != nil {
		return nil, err
	}
	pod := &Pod{Identity: identity, VaultToken: filepath.Join(filepath.Dir(identity.TokenFile), "vault-token")}
	if err := w.ProjectVaultToken(ctx, pod); err != nil {
		return nil, err
	}
	port, err := servers.FreePort()
	if err != nil {
		return nil, err
	}
	pod.Address = fmt.Sprintf("127.0.0.1:%d", port)
	pod.ConfigFile = filepath.Join(filepath.Dir(identity.TokenFile), "config.yaml")
	if err := w.writeConfig(pod, o); err != nil {
		return nil, err
	}
	env := []string{"POD_NAME=" + o.Name, "POD_NAMESPACE=" + o.Namespace, "POD_UID=" + string(identity.PodUID)}
	program := servers.ProgramOptions{
		Name: o.Name, Path: w.Pkiwarden,
		Args: append(o.Command, "--config="+pod.ConfigFile),
		Env:  append(env, o.Env...),

		ReadyWithin: o.ReadyWithin,
	}
	if o.Command[0] == "run" {
		program.Ready = pod.healthy
	}
	pod.Program, err = w.Set.NewProgram(program)
	return pod, err
}

// StartPod is NewPod and Start: it returns when the process answers /healthz.
func (w *World) StartPod(ctx context.Context, o PodOptions) (*Pod, error) {
	pod, err := w.NewPod(ctx, o)
	if err != nil {
		return nil, err
	}
	return pod, pod.Start(ctx)
}

func (p *Pod) healthy(ctx context.Context) error {
	_, err := p.get(ctx, "/healthz")
	return err
}

func (p *Pod) get(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.Address+path, nil)
	if err != nil {
		return "", err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 8<<20))
	if err != nil {
		return "", err
	}
	if answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("GET %s: %s: %s", path, answer.Status, strings.TrimSpace(string(body)))
	}
	return string(body), nil
}

// Metrics is the text of /metrics.
func (p *Pod) Metrics(ctx context.Context) (string, error) { return p.get(ctx, "/metrics") }

// Readyz is nil when /readyz answers 200.
func (p *Pod) Readyz(ctx context.Context) error {
	_, err := p.get(ctx, "/readyz")
	return err
}

// ErrAbsent is returned for a series that is not there, which is another thing
// than one that is zero.
var ErrAbsent = errors.New("no such series")

// Metric is the value of one series, written as in the exposition format
// (`pkiwarden_crl_bytes{issuer="root",mount="pki"}`).
func (p *Pod) Metric(ctx context.Context, series string) (float64, error) {
	text, err := p.Metrics(ctx)
	if err != nil {
		return 0, err
	}
	scanner := bufio.NewScanner(strings.NewReader(text))
	for scanner.Scan() {
		if value, ok := strings.CutPrefix(scanner.Text(), series+" "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("%s: %w", series, ErrAbsent)
}

// ProjectVaultToken writes a new token of the pod for Vault, as the kubelet
// does before the old one ends.
func (w *World) ProjectVaultToken(ctx context.Context, p *Pod) error {
	seconds := int64(3600)
	answer, err := w.Client.CoreV1().ServiceAccounts(p.Identity.Namespace).CreateToken(ctx, p.Identity.ServiceAccount, &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{
			Audiences: []string{vaultAudience}, ExpirationSeconds: &seconds,
			BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: p.Identity.Pod, UID: p.Identity.PodUID},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("requesting a token for Vault: %w", err)
	}
	return os.WriteFile(p.VaultToken, []byte(answer.Status.Token), 0o600)
}

// writeConfig writes the shipped configuration with the addresses and paths of
// this world in it: nothing else of it is changed but what the story asks for.
func (w *World) writeConfig(p *Pod, o PodOptions) error {
	config, err := w.shipped(o.Config)
	if err != nil {
		return err
	}
	set := map[string]any{
		"vault.address":         "https://" + w.VaultAddress(),
		"vault.serverName":      ServerName,
		"vault.caFile":          w.CAFile,
		"kubernetes.kubeconfig": p.Identity.Kubeconfig,
		"listen.address":        p.Address,
		"log.format":            "text",
	}
	if auth, ok := lookup(config, "vault.auth.tokenFile"); ok && auth != "" {
		set["vault.auth.tokenFile"] = p.VaultToken
	}
	if _, ok := lookup(config, "certificates.0.lifetime"); ok {
		set["certificates.0.lifetime"] = w.options.SigningDuration.String()
		set["certificates.0.approve"] = !w.options.NoApprover
	}
	if _, ok := lookup(config, "deliver.0.files"); ok {
		set["deliver.0.files.directory"] = w.TLSDir
		set["deliver.0.verify.0.address"] = w.VaultAddress()
	}
	for _, changes := range []map[string]any{set, w.settings, o.Set} {
		for path, value := range changes {
			if err := assign(config, path, value); err != nil {
				return fmt.Errorf("changing the configuration: %w", err)
			}
		}
	}
	text, err := yaml.Marshal(config)
	if err != nil {
		return fmt.Errorf("writing the configuration: %w", err)
	}
	return os.WriteFile(p.ConfigFile, text, 0o600)
}

func (w *World) shipped(path string) (map[string]any, error) {
	text, err := os.ReadFile(filepath.Join(w.manifests, path))
	if err != nil {
		return nil, fmt.Errorf("reading the shipped configuration: %w", err)
	}
	var config map[string]any
	if err := yaml.Unmarshal(text, &config); err != nil {
		return nil, fmt.Errorf("reading the shipped configuration %s: %w", path, err)
	}
	return config, nil
}

// declaration is the certificate as the shipped configuration declares it.
type declaration struct {
	commonName    string
	organizations []string
	dnsNames      []string
}

func (w *World) declared() (declaration, error) {
	config, err := w.shipped("sidecars/config.yaml")
	if err != nil {
		return declaration{}, err
	}
	var d declaration
	if v, ok := lookup(config, "certificates.0.subject.commonName"); ok {
		d.commonName = fmt.Sprint(v)
	}
	d.organizations = list(config, "certificates.0.subject.organizations")
	d.dnsNames = list(config, "certificates.0.dnsNames")
	if d.commonName == "" || len(d.dnsNames) == 0 {
		return d, errors.New("reading the shipped configuration: it declares no certificate with a common name and DNS names")
	}
	return d, nil
}

func list(config any, path string) []string {
	v, _ := lookup(config, path)
	items, _ := v.([]any)
	var out []string
	for _, item := range items {
		out = append(out, fmt.Sprint(item))
	}
	return out
}

func lookup(node any, path string) (any, bool) {
	for key := range strings.SplitSeq(path, ".") {
		switch n := node.(type) {
		case map[string]any:
			child, ok := n[key]
			if !ok {
				return nil, false
			}
			node = child
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil || i >= len(n) {
				return nil, false
			}
			node = n[i]
		default:
			return nil, false
		}
	}
	return node, true
}

// assign sets the value at path, making the maps on the way; nil removes it.
func assign(config map[string]any, path string, value any) error {
	parent := any(config)
	keys := strings.Split(path, ".")
	for _, key := range keys[:len(keys)-1] {
		switch n := parent.(type) {
		case map[string]any:
			if n[key] == nil {
				n[key] = map[string]any{}
			}
			parent = n[key]
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil || i >= len(n) {
				return fmt.Errorf("%s: no entry %s", path, key)
			}
			parent = n[i]
		default:
			return fmt.Errorf("%s: nothing can be below %s", path, key)
		}
	}
	last, ok := parent.(map[string]any)
	if !ok {
		return fmt.Errorf("%s: its parent is no map", path)
	}
	if value == nil {
		delete(last, keys[len(keys)-1])
	} else {
		last[keys[len(keys)-1]] = value
	}
	return nil
}
