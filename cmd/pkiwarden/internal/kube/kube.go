// Package kube makes the one Kubernetes client of the process: where the
// cluster is found, how its answers are bounded, and how its errors read.
package kube

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/transport"
)

// ErrNoCluster says that no Kubernetes was configured or found.
var ErrNoCluster = errors.New("no Kubernetes here: not in a pod, and KUBECONFIG is not set; set kubernetes.kubeconfig")

// Options say where the cluster is and how hard it may be used.
type Options struct {
	Kubeconfig string        // path; default: in-cluster, else KUBECONFIG
	QPS        float32       // requests a second; default 20
	Burst      int           // default 40
	Timeout    time.Duration // of one request that is not a watch; default 30 s
	Version    string        // of pkiwarden, for the user agent
}

// Cluster is a Kubernetes API that has been found, not yet spoken to.
type Cluster struct {
	Client kubernetes.Interface
	Config *rest.Config
	// Namespace is the pod's own: POD_NAMESPACE, else that of the service
	// account, else that of the kubeconfig's context, else "default".
	Namespace string
}

// New finds the cluster and makes the client. It sends no request, so that an
// unreachable API is no error here. It fails with [ErrNoCluster] where there is
// none to be found, and refuses a kubeconfig that switches off the verification
// of the server's certificate.
//
// The client does not follow redirects, ends each request but a watch after
// Options.Timeout, and reads at most 32 MiB of its answer; of a page, which was
// asked for with a limit, 4 MiB, or 10 MiB where the limit is one object. Beyond
// that the error wraps [http.MaxBytesError]. It does not wait and
// try again when the server asks for that (Retry-After): the error says so at
// once, and whoever called decides. Nor does it wait for a request's turn under
// Options.QPS where its deadline comes first: that is [ErrNotSent]. A token file is
// read again once a minute, and after an answer 401.
func New(o Options) (*Cluster, error) {
	config, namespace, err := find(o.Kubeconfig)
	if err != nil {
		return nil, err
	}
	if config.Insecure {
		return nil, errors.New("reading kubeconfig: insecure-skip-tls-verify is refused; give certificate-authority instead")
	}
	config.QPS, config.Burst = o.QPS, o.Burst
	if config.QPS <= 0 {
		config.QPS = 20
	}
	if config.Burst <= 0 {
		config.Burst = 40
	}
	config.RateLimiter = newLimiter(config.QPS, config.Burst)
	config.UserAgent = "pkiwarden/" + o.Version
	if config.BearerTokenFile != "" {
		// client-go reads the file once a minute. This way it does so, too,
		// for the request after one that the API server did not know us by.
		tokens := transport.NewCachedFileTokenSource(config.BearerTokenFile)
		config.BearerToken, config.BearerTokenFile = "", ""
		config.Wrap(transport.ResettableTokenSourceWrapTransport(tokens))
	}
	timeout := o.Timeout
	if timeout <= 0 {
		timeout = 30 * time.Second
	}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return &throttle{&bounded{next: next, timeout: timeout, maxBody: maxBody}}
	})
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("making Kubernetes client: %w", err)
	}
	httpClient.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	client, err := kubernetes.NewForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, fmt.Errorf("making Kubernetes client: %w", err)
	}
	return &Cluster{Client: client, Config: config, Namespace: namespace}, nil
}

// serviceAccountNamespace is where a pod finds its own namespace.
var serviceAccountNamespace = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

func find(path string) (config *rest.Config, namespace string, err error) {
	if path == "" && os.Getenv("KUBERNETES_SERVICE_HOST") != "" {
		config, err = rest.InClusterConfig()
		if err != nil {
			return nil, "", fmt.Errorf("reading the pod's service account: %w", err)
		}
		return config, podNamespace("default"), nil
	}
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: path}
	from := path
	if path == "" {
		from = os.Getenv(clientcmd.RecommendedConfigPathEnvVar)
		if from == "" {
			return nil, "", ErrNoCluster
		}
		rules.Precedence = strings.Split(from, string(os.PathListSeparator))
	}
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil)
	config, err = loader.ClientConfig()
	if err != nil {
		return nil, "", fmt.Errorf("reading kubeconfig %s: %w", from, err)
	}
	namespace, _, err = loader.Namespace()
	if err != nil {
		return nil, "", fmt.Errorf("reading kubeconfig %s: %w", from, err)
	}
	return config, podNamespace(namespace), nil
}

func podNamespace(otherwise string) string {
	if ns := os.Getenv("POD_NAMESPACE"); ns != "" {
		return ns
	}
	if b, err := os.ReadFile(serviceAccountNamespace); err == nil {
		if ns := strings.TrimSpace(string(b)); ns != "" {
			return ns
		}
	}
	return otherwise
}
