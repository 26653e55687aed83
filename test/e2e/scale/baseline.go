package scale

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// The baseline is what the figures are compared with: the same number of
// certificates by the least calls that obtain them without ever losing a key,
// through the same API server, at the same rate. It looks at nothing, finds
// nothing that was left behind, and begins anew after a crash.
const (
	baselineNamespace = "baseline"
	baselineAccount   = "baseline"
	baselineUser      = "system:serviceaccount:" + baselineNamespace + ":" + baselineAccount
	baselineLabel     = "baseline"
	baselineWorkers   = 16
)

// baseline obtains each certificate by five writes: store the key, create the
// request, approve it, store the pair, drop the key. One watch for all tells the
// answers.
func (s *scene) baseline(ctx context.Context) error {
	if s.fleet.size > s.o.Baseline {
		return nil
	}
	if err := s.pod.Stop(ctx); err != nil {
		return err
	}
	client, err := s.baselineClient(ctx)
	if err != nil {
		return err
	}
	end := s.begin(baselineUser)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	loop := &bareLoop{client: client, waiting: map[string]chan []byte{}}
	if err := loop.watch(ctx); err != nil {
		return err
	}
	var (
		todo    = make(chan string)
		done    atomic.Int64
		workers sync.WaitGroup
		failed  = make(chan error, baselineWorkers)
	)
	for range baselineWorkers {
		workers.Go(func() {
			for certificate := range todo {
				if err := loop.obtain(ctx, certificate); err != nil {
					failed <- fmt.Errorf("certificate %s: %w", certificate, err)
					cancel()
					return
				}
				done.Add(1)
			}
		})
	}
	told := time.Now()
	for n := 0; n < s.fleet.size && ctx.Err() == nil; n++ {
		select {
		case todo <- name(n):
		case <-ctx.Done():
		}
		if time.Since(told) >= tellEvery {
			told = time.Now()
			s.tell("baseline: %s of %s", grouped(int(done.Load())), grouped(s.fleet.size))
		}
	}
	close(todo)
	workers.Wait()
	right := time.Now()
	select {
	case err := <-failed:
		return err
	default:
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := pause(ctx, time.Second); err != nil { // for the audit log
		return err
	}
	s.result.Baseline = end(right)
	s.result.Baseline.Usage = Usage{}
	s.tell("baseline: all after %s, %.1f calls each", took(s.result.Baseline.Took), s.result.Baseline.Each(s.fleet.size))
	return nil
}

// baselineClient is a client of an account with the rights that the loop needs,
// held to the product's rate.
func (s *scene) baselineClient(ctx context.Context) (*kubernetes.Clientset, error) {
	identity, err := s.world.Kubernetes.ServiceAccountKubeconfig(ctx, baselineNamespace, baselineAccount, "")
	if err != nil {
		return nil, err
	}
	if err := identity.Refresh(ctx, tokenLife); err != nil {
		return nil, err
	}
	account := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Name: baselineAccount, Namespace: baselineNamespace}
	err = allow(ctx, s.world.Client, "baseline", baselineNamespace, []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"create", "update"}},
	}, account)
	if err != nil {
		return nil, err
	}
	// The shipped rights to requests, and to approve them.
	for _, role := range []string{"pkiwarden-requests", "pkiwarden-approver"} {
		_, err := s.world.Client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "baseline-" + role},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}, Subjects: []rbacv1.Subject{account},
		}, metav1.CreateOptions{})
		if err != nil {
			return nil, fmt.Errorf("binding role %s: %w", role, err)
		}
	}
	config := s.world.Kubernetes.Config()
	limited := &rest.Config{Host: config.Host, TLSClientConfig: config.TLSClientConfig, BearerTokenFile: identity.TokenFile, QPS: qps, Burst: burst}
	return kubernetes.NewForConfig(limited)
}

// bareLoop obtains certificates by the least calls.
type bareLoop struct {
	client *kubernetes.Clientset

	mu      sync.Mutex
	waiting map[string]chan []byte // certificates, by their request's name
}

// watch passes the answers on until ctx ends.
func (l *bareLoop) watch(ctx context.Context) error {
	seconds := int64(time.Hour / time.Second)
	watcher, err := l.client.CertificatesV1().CertificateSigningRequests().Watch(ctx, metav1.ListOptions{LabelSelector: baselineLabel, TimeoutSeconds: &seconds})
	if err != nil {
		return fmt.Errorf("watching requests: %w", err)
	}
	go func() {
		defer watcher.Stop()
		for event := range watcher.ResultChan() {
			csr, ok := event.Object.(*certificatesv1.CertificateSigningRequest)
			if !ok || len(csr.Status.Certificate) == 0 {
				continue
			}
			l.mu.Lock()
			answer := l.waiting[csr.Name]
			delete(l.waiting, csr.Name)
			l.mu.Unlock()
			if answer != nil {
				answer <- csr.Status.Certificate
			}
		}
	}()
	return nil
}

const baselinePatience = 5 * time.Minute

func (l *bareLoop) obtain(ctx context.Context, certificate string) error {
	key, request, err := newRequest(certificate)
	if err != nil {
		return err
	}
	secrets := l.client.CoreV1().Secrets(baselineNamespace)
	next, err := secrets.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: certificate + nextSuffix}, Data: map[string][]byte{corev1.TLSPrivateKeyKey: key},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	answer := make(chan []byte, 1)
	csr := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "baseline-" + certificate, Labels: map[string]string{baselineLabel: ""}},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: request, SignerName: certificatesv1.KubeletServingSignerName,
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageServerAuth},
		},
	}
	l.mu.Lock()
	l.waiting[csr.Name] = answer
	l.mu.Unlock()
	requests := l.client.CertificatesV1().CertificateSigningRequests()
	if csr, err = requests.Create(ctx, csr, metav1.CreateOptions{}); err != nil {
		return err
	}
	csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Baseline",
	})
	if _, err := requests.UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{}); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(baselinePatience):
		return fmt.Errorf("no certificate within %s: the watch has ended, or nobody signs", baselinePatience)
	case chain := <-answer:
		_, err := secrets.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: certificate}, Type: corev1.SecretTypeTLS,
			Data: map[string][]byte{corev1.TLSCertKey: chain, corev1.TLSPrivateKeyKey: key},
		}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
	}
	next.Data = nil
	_, err = secrets.Update(ctx, next, metav1.UpdateOptions{})
	return err
}

// newRequest makes a key and a request for it, as PEM.
func newRequest(certificate string) (key, request []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, fmt.Errorf("encoding a key: %w", err)
	}
	asked, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "system:node:" + certificate, Organization: []string{"system:nodes"}}, DNSNames: names(certificate, 0),
	}, private)
	if err != nil {
		return nil, nil, fmt.Errorf("making a request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: asked}), nil
}
