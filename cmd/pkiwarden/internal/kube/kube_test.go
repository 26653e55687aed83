package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/klog/v2"
)

func kubeconfig(t *testing.T, server *httptest.Server, namespace, extra string) string {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	trust := "certificate-authority: " + ca
	if extra != "" {
		trust = extra
	}
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: u, namespace: %q}}]
clusters: [{name: c, cluster: {server: %q, %s}}]
users: [{name: u, user: {token: canary-token}}]
`, namespace, server.URL, trust)
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func clearEnvironment(t *testing.T) {
	for _, name := range []string{"KUBERNETES_SERVICE_HOST", "KUBECONFIG", "POD_NAMESPACE"} {
		t.Setenv(name, "")
	}
}

func TestNewPrecedenceAndNamespace(t *testing.T) {
	clearEnvironment(t)
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	named := kubeconfig(t, server, "vault", "")
	other := kubeconfig(t, server, "other", "")

	if _, err := New(Options{}); !errors.Is(err, ErrNoCluster) {
		t.Errorf("nothing configured: %v, want ErrNoCluster", err)
	}
	t.Setenv("KUBECONFIG", other)
	for _, tc := range []struct{ path, pod, want string }{
		{named, "", "vault"},
		{"", "", "other"},
		{named, "mine", "mine"},
	} {
		t.Setenv("POD_NAMESPACE", tc.pod)
		c, err := New(Options{Kubeconfig: tc.path, Version: "1.2.3"})
		if err != nil {
			t.Fatal(err)
		}
		if c.Namespace != tc.want {
			t.Errorf("kubeconfig %q, POD_NAMESPACE %q: namespace %q, want %q", tc.path, tc.pod, c.Namespace, tc.want)
		}
		if c.Config.UserAgent != "pkiwarden/1.2.3" || c.Config.QPS != 20 || c.Config.Burst != 40 {
			t.Errorf("user agent %q, qps %v, burst %d", c.Config.UserAgent, c.Config.QPS, c.Config.Burst)
		}
	}
	t.Setenv("POD_NAMESPACE", "")
	if _, err := New(Options{Kubeconfig: "/nowhere/kubeconfig"}); err == nil || !strings.Contains(err.Error(), "/nowhere/kubeconfig") {
		t.Errorf("missing file: %v, want an error that names it", err)
	}
	insecure := kubeconfig(t, server, "x", "insecure-skip-tls-verify: true")
	if _, err := New(Options{Kubeconfig: insecure}); err == nil || !strings.Contains(err.Error(), "insecure-skip-tls-verify") {
		t.Errorf("insecure kubeconfig: %v, want it refused by name", err)
	}
}

func TestClientIsBounded(t *testing.T) {
	clearEnvironment(t)
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Error("a redirect was followed")
	}))
	defer elsewhere.Close()
	release := make(chan struct{})
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/moved"):
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		case strings.HasSuffix(r.URL.Path, "/slow"):
			<-release
		case strings.HasSuffix(r.URL.Path, "/huge"):
			w.Header().Set("Content-Type", "application/json")
			for range 33 {
				w.Write(bytes.Repeat([]byte(" "), 1<<20))
			}
		case r.URL.Query().Get("watch") == "true":
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}
	}))
	defer server.Close()
	defer close(release)
	path := kubeconfig(t, server, "vault", "")
	c, err := New(Options{Kubeconfig: path, Timeout: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	patient, err := New(Options{Kubeconfig: path})
	if err != nil {
		t.Fatal(err)
	}
	get := func(c *Cluster, name string) error {
		_, err := c.Client.CoreV1().ConfigMaps("vault").Get(t.Context(), name, metav1.GetOptions{})
		return err
	}
	if err := get(c, "moved"); err == nil {
		t.Error("redirect: no error")
	}
	begin := time.Now()
	if err := get(c, "slow"); !errors.Is(err, context.DeadlineExceeded) || !Unreachable(err) || time.Since(begin) > 25*time.Second {
		t.Errorf("slow answer: %v after %s, want the deadline", err, time.Since(begin))
	}
	var tooLarge *http.MaxBytesError
	if err := get(patient, "huge"); !errors.As(err, &tooLarge) {
		t.Errorf("endless answer: %v, want the size cap", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w, err := c.Client.CoreV1().ConfigMaps("vault").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		w.Stop()
		for range w.ResultChan() { // until its goroutine has ended
		}
	}()
	select {
	case _, open := <-w.ResultChan():
		t.Errorf("watch ended with the timeout of other requests (open %t)", open)
	case <-time.After(600 * time.Millisecond):
	}
}

// status builds the error that client-go makes of an API server's answer.
func status(t *testing.T, body string) error {
	t.Helper()
	var s metav1.Status
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatal(err)
	}
	return &apierrors.StatusError{ErrStatus: s}
}

func TestExplain(t *testing.T) {
	forbidden := status(t, `{"kind":"Status","status":"Failure","message":"leases.coordination.k8s.io \"pkiwarden\" is forbidden: User \"system:serviceaccount:vault:vault\" cannot update resource \"leases\" in API group \"coordination.k8s.io\" in the namespace \"vault\"","reason":"Forbidden","details":{"name":"pkiwarden","group":"coordination.k8s.io","kind":"leases"},"code":403}`)
	noNamespace := status(t, `{"kind":"Status","status":"Failure","message":"namespaces \"gone\" not found","reason":"NotFound","details":{"name":"gone","kind":"namespaces"},"code":404}`)
	for _, tc := range []struct {
		name string
		err  error
		want []string
	}{
		{"forbidden", forbidden, []string{"updating leases.coordination.k8s.io in namespace gone (pkiwarden): forbidden", `verb "update" on resource "leases.coordination.k8s.io" in namespace gone`, "system:serviceaccount:vault:vault"}},
		{"namespace", noNamespace, []string{`namespace "gone" does not exist`}},
		{"object", apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, "x"), []string{`updating leases.coordination.k8s.io in namespace gone (pkiwarden): secrets "x" not found`}},
		{"credentials", apierrors.NewUnauthorized("Unauthorized"), []string{"did not accept the credentials"}},
	} {
		err := Explain(tc.err, "update", "leases.coordination.k8s.io", "gone", "pkiwarden")
		for _, want := range tc.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q lacks %q", tc.name, err, want)
			}
		}
		if !errors.Is(err, tc.err) || Unreachable(err) {
			t.Errorf("%s: %v: wraps its cause %t, unreachable %t", tc.name, err, errors.Is(err, tc.err), Unreachable(err))
		}
	}
	if Explain(nil, "get", "x", "", "") != nil {
		t.Error("Explain(nil) is not nil")
	}

	clearEnvironment(t)
	server := httptest.NewTLSServer(http.NotFoundHandler())
	path := kubeconfig(t, server, "vault", "")
	server.Close()
	c, err := New(Options{Kubeconfig: path})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	err = Explain(err, "list", "nodes", "", "")
	if err == nil || !strings.HasPrefix(err.Error(), "listing nodes: the Kubernetes API cannot be reached: ") {
		t.Errorf("nobody listens: %v", err)
	}
	if strings.Contains(err.Error(), "canary-token") {
		t.Errorf("the error holds the token: %v", err)
	}
}

func TestBridgeLog(t *testing.T) {
	bridgeOnce = sync.Once{} // this may not be the test's first run
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug - 10}))
	BridgeLog(log)
	BridgeLog(slog.New(slog.DiscardHandler)) // the first one stays
	klog.Background().Info("notice", "a", 1)
	klog.Background().V(6).Info("Request Body", "body", "canary-token")
	klog.Background().V(1).Info("chatter")
	klog.Background().Error(errors.New("broken"), "trouble")
	klog.Warning("beware")
	klog.Flush()
	text := out.String()
	for _, want := range []string{"level=DEBUG msg=notice component=client-go a=1", "level=ERROR msg=trouble component=client-go err=broken", "beware"} {
		if !strings.Contains(text, want) {
			t.Errorf("log lacks %q:\n%s", want, text)
		}
	}
	for _, not := range []string{"canary-token", "chatter"} {
		if strings.Contains(text, not) {
			t.Errorf("log has %q:\n%s", not, text)
		}
	}
}
