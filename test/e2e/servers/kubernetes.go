package servers

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// KubernetesOptions describe a cluster. The zero value works.
type KubernetesOptions struct {
	// Controllers are run by kube-controller-manager in addition to those that
	// sign CSRs, clean them, keep service accounts and fill aggregated roles;
	// "*" is every default.
	Controllers []string
	// SigningDuration is the lifetime that the built-in signers grant at most;
	// a year by default. The API takes no less than ten minutes.
	SigningDuration time.Duration
	// SharedCA lets the built-in signers sign with the CA of the API server
	// itself, as kubeadm does: the ConfigMap kube-root-ca.crt of each namespace
	// then holds what issued certificates chain to. Otherwise the two differ.
	SharedCA bool
	// APIServerArgs are added to kube-apiserver's arguments.
	APIServerArgs []string
}

// Kubernetes is a control plane without nodes: objects are stored, RBAC is
// enforced, CSRs are signed and no pod ever runs. Each of its programs can be
// stopped, started and paused alone.
type Kubernetes struct {
	Etcd              *Etcd
	APIServer         *Program
	ControllerManager *Program

	// URL is the API server's address.
	URL string
	// CA is what the API server's certificate chains to.
	CA *CA
	// AdminConfig is the path of a kubeconfig that may do everything.
	AdminConfig string
	// AdminToken is the token in AdminConfig.
	AdminToken Secret

	set     *Set
	options KubernetesOptions
	dir     string
	signing *CA
}

// StartKubernetes starts etcd, kube-apiserver and kube-controller-manager.
func (s *Set) StartKubernetes(ctx context.Context, o KubernetesOptions) (*Kubernetes, error) {
	paths, err := s.find(ctx, "etcd", "kube-apiserver", "kube-controller-manager")
	if err != nil {
		return nil, err
	}
	if o.SigningDuration == 0 {
		o.SigningDuration = 365 * 24 * time.Hour
	}
	dir, err := s.folder("kubernetes")
	if err != nil {
		return nil, err
	}
	k := &Kubernetes{set: s, options: o, dir: dir, AdminToken: NewSecret(rand.Text())}
	if err := k.writeKeys(); err != nil {
		return nil, fmt.Errorf("preparing kubernetes: %w", err)
	}
	if k.Etcd, err = s.StartEtcd(ctx); err != nil {
		return nil, err
	}
	if err := k.startAPIServer(ctx, paths["kube-apiserver"]); err != nil {
		return nil, err
	}
	k.AdminConfig = filepath.Join(dir, "admin.kubeconfig")
	if err := k.writeKubeconfig(k.AdminConfig, "", &clientcmdapi.AuthInfo{Token: k.AdminToken.Reveal()}); err != nil {
		return nil, fmt.Errorf("preparing kubernetes: %w", err)
	}
	if err := k.startControllerManager(ctx, paths["kube-controller-manager"]); err != nil {
		return nil, err
	}
	return k, nil
}

// file is a file that the cluster's programs share.
func (k *Kubernetes) file(name string) string { return filepath.Join(k.dir, name) }

func (k *Kubernetes) writeKeys() error {
	var err error
	if k.CA, err = NewCA("kubernetes"); err != nil {
		return err
	}
	if err := k.CA.Write(k.file("ca.crt"), k.file("ca.key")); err != nil {
		return err
	}
	k.signing = k.CA
	if k.options.SharedCA {
		err = k.CA.Write(k.file("signing.crt"), k.file("signing.key"))
	} else {
		err = k.newSigningCA()
	}
	if err != nil {
		return err
	}
	serving, err := k.CA.IssueLoopback("kube-apiserver", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
	if err != nil {
		return err
	}
	if err := serving.Write(k.file("serving.crt"), k.file("serving.key")); err != nil {
		return err
	}
	// Any key pair does for signing service account tokens.
	accounts, err := NewCA("service accounts")
	if err != nil {
		return err
	}
	if err := accounts.Write(k.file("sa.crt"), k.file("sa.key")); err != nil {
		return err
	}
	tokens := fmt.Sprintf("%s,admin,admin,system:masters\n", k.AdminToken.Reveal())
	return os.WriteFile(k.file("tokens.csv"), []byte(tokens), 0o600)
}

func (k *Kubernetes) startAPIServer(ctx context.Context, path string) error {
	var err error
	k.APIServer, err = k.set.launch(ctx, "kube-apiserver", 1, func(dir string, ports []int) (ProgramOptions, error) {
		k.URL = "https://" + loopback(ports[0])
		return ProgramOptions{
			Path: path,
			Args: append([]string{
				"--etcd-servers=" + k.Etcd.URL,
				"--bind-address=127.0.0.1",
				fmt.Sprintf("--secure-port=%d", ports[0]),
				"--cert-dir=" + dir,
				"--tls-cert-file=" + k.file("serving.crt"),
				"--tls-private-key-file=" + k.file("serving.key"),
				"--client-ca-file=" + k.file("ca.crt"),
				"--token-auth-file=" + k.file("tokens.csv"),
				"--authorization-mode=RBAC",
				"--service-account-issuer=https://kubernetes.default.svc",
				"--service-account-key-file=" + k.file("sa.crt"),
				"--service-account-signing-key-file=" + k.file("sa.key"),
				"--service-cluster-ip-range=10.0.0.0/24",
				// There is no node whose kubelet could be asked, and no second
				// API server to agree on addresses with.
				"--endpoint-reconciler-type=none",
				"--profiling=false",
			}, k.options.APIServerArgs...),
			Ready: httpReady(k.transport(k.AdminToken), k.URL+"/readyz"),
		}, nil
	})
	return err
}

func (k *Kubernetes) startControllerManager(ctx context.Context, path string) error {
	controllers := append([]string{
		"certificatesigningrequest-signing-controller",
		"certificatesigningrequest-cleaner-controller",
		"serviceaccount-controller",
		"clusterrole-aggregation-controller", // fills admin, edit and view
		"root-ca-certificate-publisher-controller",
	}, k.options.Controllers...)
	var err error
	k.ControllerManager, err = k.set.launch(ctx, "kube-controller-manager", 1, func(dir string, ports []int) (ProgramOptions, error) {
		return ProgramOptions{
			Path: path,
			Args: []string{
				"--kubeconfig=" + k.AdminConfig,
				"--bind-address=127.0.0.1",
				fmt.Sprintf("--secure-port=%d", ports[0]),
				"--cert-dir=" + dir,
				"--tls-cert-file=" + k.file("serving.crt"),
				"--tls-private-key-file=" + k.file("serving.key"),
				"--controllers=" + strings.Join(controllers, ","),
				"--cluster-signing-cert-file=" + k.file("signing.crt"),
				"--cluster-signing-key-file=" + k.file("signing.key"),
				"--cluster-signing-duration=" + k.options.SigningDuration.String(),
				"--service-account-private-key-file=" + k.file("sa.key"),
				"--root-ca-file=" + k.file("ca.crt"),
				"--leader-elect=false",
				"--profiling=false",
			},
			Ready: httpReady(k.transport(Secret{}), "https://"+loopback(ports[0])+"/healthz"),
		}, nil
	})
	return err
}

// transport trusts the cluster's CA and shows the token, if there is one.
func (k *Kubernetes) transport(token Secret) http.RoundTripper {
	return bearer{token: token, base: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: k.CA.Pool()},
		DisableKeepAlives: true,
	}}
}

type bearer struct {
	token Secret
	base  http.RoundTripper
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	if token := b.token.Reveal(); token != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return b.base.RoundTrip(r)
}

// SigningCA is the certificate, as PEM, of the CA with which the controller
// manager signs CSRs now. Unless SharedCA is set it is another than CA, so that
// a test which trusts the wrong one fails.
func (k *Kubernetes) SigningCA() []byte { return k.signing.PEM }

// RotateSigningCA replaces the CA of the built-in signers and restarts the
// controller manager, which returns when it is ready.
func (k *Kubernetes) RotateSigningCA(ctx context.Context) error {
	signing, err := NewCA("kubernetes signer")
	if err != nil {
		return fmt.Errorf("rotating the signing CA: %w", err)
	}
	return k.SignWith(ctx, signing)
}

// SignWith gives the built-in signers this CA and restarts the controller
// manager, which returns when it is ready.
func (k *Kubernetes) SignWith(ctx context.Context, signing *CA) error {
	if err := k.useSigningCA(signing); err != nil {
		return fmt.Errorf("rotating the signing CA: %w", err)
	}
	return k.ControllerManager.Restart(ctx)
}

func (k *Kubernetes) newSigningCA() error {
	signing, err := NewCA("kubernetes signer")
	if err != nil {
		return err
	}
	return k.useSigningCA(signing)
}

func (k *Kubernetes) useSigningCA(signing *CA) error {
	k.signing = signing
	return signing.Write(k.file("signing.crt"), k.file("signing.key"))
}

// Config is a new client configuration that may do everything and is not
// slowed down on the client's side.
func (k *Kubernetes) Config() *rest.Config {
	return &rest.Config{
		Host:            k.URL,
		BearerToken:     k.AdminToken.Reveal(),
		TLSClientConfig: rest.TLSClientConfig{CAData: k.CA.PEM},
		QPS:             -1,
	}
}

// Client is a new typed client with the rights of Config.
func (k *Kubernetes) Client() (*kubernetes.Clientset, error) {
	return kubernetes.NewForConfig(k.Config())
}

func (k *Kubernetes) writeKubeconfig(path, namespace string, user *clientcmdapi.AuthInfo) error {
	config := clientcmdapi.NewConfig()
	config.Clusters["e2e"] = &clientcmdapi.Cluster{Server: k.URL, CertificateAuthorityData: k.CA.PEM}
	config.AuthInfos["e2e"] = user
	config.Contexts["e2e"] = &clientcmdapi.Context{Cluster: "e2e", AuthInfo: "e2e", Namespace: namespace}
	config.CurrentContext = "e2e"
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		return fmt.Errorf("writing kubeconfig %s: %w", path, err)
	}
	return nil
}
