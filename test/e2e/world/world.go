// Package world is the place in which the stories and the demo happen: a
// cluster with the shipped manifests applied, a Vault whose certificate comes
// from that cluster, and pkiwarden running as the pod that it would be, with
// exactly the shipped rights.
//
// Nothing in it stands in for a server. What has no node here is only the
// kubelet: the Pod objects exist, and this package starts their processes.
package world

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
)

// Names that the shipped manifests and configurations agree on.
const (
	Namespace           = "vault"            // Vault's, and its Secrets'
	ControllerNamespace = "pkiwarden"        // the controller's, and the Lease's and state's in both shapes
	SecretName          = "vault-server-tls" // the live certificate
	CertificateName     = "vault-server"     // its name in the configuration
	ServerName          = "vault-active.vault.svc"
	LeaseName           = "pkiwarden"
)

// Shape is one of the two ways to run pkiwarden, and the folder of manifests/
// that holds it.
type Shape string

// The shapes that are shipped.
const (
	Sidecars   Shape = "sidecars"
	Controller Shape = "controller"
)

// Options describe a world. The zero value is the shape Sidecars.
type Options struct {
	Shape Shape
	// SigningDuration is the lifetime that the signer grants at most; ten
	// minutes by default, the least that the API takes.
	SigningDuration time.Duration
	// NoApprover leaves out the component that lets pkiwarden approve.
	NoApprover bool
	// Kubernetes is for what else the cluster is to be; its SharedCA and
	// SigningDuration are the world's.
	Kubernetes servers.KubernetesOptions
}

// World is one cluster and one Vault's place in it.
type World struct {
	Set        *servers.Set
	Kubernetes *servers.Kubernetes
	Client     *kubernetes.Clientset // may do everything
	Vault      *servers.Vault        // nil until StartVault
	// Pkiwarden is the program under test.
	Pkiwarden string
	// TLSDir is where pkiwarden delivers and Vault reads.
	TLSDir string
	// CAFile trusts the cluster's CA.
	CAFile string

	options   Options
	port      int
	manifests string // the checkout's manifests/
	kubectl   string
	settings  map[string]any // for every configuration written
}

// New starts a cluster, applies the shape's manifests and builds pkiwarden.
// The Vault comes with StartVault, since where no certificate exists yet it
// cannot start before pkiwarden.
func New(ctx context.Context, set *servers.Set, o Options) (*World, error) {
	if o.Shape == "" {
		o.Shape = Sidecars
	}
	if o.SigningDuration == 0 {
		o.SigningDuration = 10 * time.Minute
	}
	w := &World{Set: set, options: o, settings: map[string]any{}}
	var err error
	if w.manifests, err = findManifests(); err != nil {
		return nil, err
	}
	if w.Pkiwarden, err = set.BuildPkiwarden(ctx); err != nil {
		return nil, err
	}
	o.Kubernetes.SharedCA, o.Kubernetes.SigningDuration = true, o.SigningDuration
	w.Kubernetes, err = set.StartKubernetes(ctx, o.Kubernetes)
	if err != nil {
		return nil, err
	}
	if w.Client, err = w.Kubernetes.Client(); err != nil {
		return nil, err
	}
	if w.port, err = servers.FreePort(); err != nil {
		return nil, err
	}
	w.TLSDir = filepath.Join(set.Dir(), "vault-tls")
	if err := os.Mkdir(w.TLSDir, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder that pkiwarden delivers into: %w", err)
	}
	w.CAFile = filepath.Join(set.Dir(), "cluster-ca.crt")
	if err := os.WriteFile(w.CAFile, w.Kubernetes.CA.PEM, 0o644); err != nil {
		return nil, fmt.Errorf("writing the cluster's CA: %w", err)
	}
	return w, w.applyShape(ctx)
}

// findManifests walks up from the working directory to the checkout.
func findManifests() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the manifests: %w", err)
	}
	for {
		found := filepath.Join(dir, "manifests", "base", "kustomization.yaml")
		if _, err := os.Stat(found); err == nil {
			return filepath.Join(dir, "manifests"), nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("finding the manifests: no manifests/base above the working directory; run this inside a checkout of pkiwarden")
		}
		dir = parent
	}
}

// applyShape applies the shape as it is shipped, with the approver component
// that its kustomization has in a comment.
func (w *World) applyShape(ctx context.Context) error {
	paths, err := servers.Find(ctx, servers.Options{}, "kubectl")
	if err != nil {
		return err
	}
	w.kubectl = paths["kubectl"]
	for _, namespace := range []string{Namespace, ControllerNamespace} {
		if err := w.ensureNamespace(ctx, namespace); err != nil {
			return err
		}
	}
	overlay := filepath.Join(w.Set.Dir(), "overlay")
	if err := os.Mkdir(overlay, 0o700); err != nil {
		return fmt.Errorf("making the overlay: %w", err)
	}
	base, err := filepath.Rel(overlay, w.manifests)
	if err != nil {
		return fmt.Errorf("making the overlay: %w", err)
	}
	kustomization := fmt.Sprintf("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [%s/%s]\n", base, w.options.Shape)
	if !w.options.NoApprover {
		kustomization += fmt.Sprintf("components: [%s/approver]\n", base)
	}
	if err := os.WriteFile(filepath.Join(overlay, "kustomization.yaml"), []byte(kustomization), 0o600); err != nil {
		return fmt.Errorf("making the overlay: %w", err)
	}
	return w.Apply(ctx, overlay)
}

func (w *World) ensureNamespace(ctx context.Context, name string) error {
	_, err := w.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("making namespace %s: %w", name, err)
	}
	return nil
}

// Kubectl runs kubectl as administrator and returns what it prints.
func (w *World) Kubectl(ctx context.Context, args ...string) (string, error) {
	result, err := w.Set.Run(ctx, servers.ProgramOptions{
		Path: w.kubectl, Name: "kubectl", Args: append([]string{"--kubeconfig=" + w.Kubernetes.AdminConfig}, args...),
	})
	if err != nil {
		return "", err
	}
	if result.ExitCode != 0 {
		return "", fmt.Errorf("running kubectl %s: exit code %d: %s", strings.Join(args, " "), result.ExitCode, strings.TrimSpace(result.Stderr))
	}
	return result.Stdout, nil
}

// Apply renders a kustomization and applies it with strict field validation.
func (w *World) Apply(ctx context.Context, dir string) error {
	_, err := w.Kubectl(ctx, "apply", "--server-side", "--validate=strict", "-k", dir)
	return err
}

// VaultAddress is where the Vault listens, or will.
func (w *World) VaultAddress() string { return fmt.Sprintf("127.0.0.1:%d", w.port) }

// TLSFiles are the delivered files, as Vault is given them.
func (w *World) TLSFiles() *servers.TLSFiles {
	return &servers.TLSFiles{
		CertFile: filepath.Join(w.TLSDir, "tls.crt"),
		KeyFile:  filepath.Join(w.TLSDir, "tls.key"),
		CA:       w.Kubernetes.CA.PEM,
	}
}

// Delivered waits until the first pair is in TLSDir, as the sidecar's
// startupProbe makes the kubelet wait before it starts Vault.
func (w *World) Delivered(ctx context.Context) error {
	files := w.TLSFiles()
	return Eventually(ctx, time.Minute, func(context.Context) error {
		for _, path := range []string{files.CertFile, files.KeyFile} {
			if _, err := os.Stat(path); err != nil {
				if errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("%s is not delivered", filepath.Base(path))
				}
				return err
			}
		}
		return nil
	})
}

// longestPause is between two checks of what takes long: a machine on which many
// stories wait has other things to do.
const longestPause = 250 * time.Millisecond

// Eventually calls check until it returns nil, for at most the given time; the
// last error says what was still missing.
func Eventually(ctx context.Context, within time.Duration, check func(context.Context) error) error {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for pause := 100 * time.Millisecond; ; pause = min(pause*9/8, longestPause) {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", time.Since(start).Round(time.Second), err)
		case <-time.After(pause):
		}
	}
}
