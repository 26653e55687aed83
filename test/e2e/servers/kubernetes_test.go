package servers

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

func TestKubernetes(t *testing.T) {
	t.Parallel()
	s := newSet(t)
	ctx := within(t, 2*time.Minute)
	start := time.Now()
	k, err := s.StartKubernetes(ctx, KubernetesOptions{SigningDuration: 10 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("kubernetes started in %s", time.Since(start))
	t.Run("signs", func(t *testing.T) { testSigns(ctx, t, k) })
	t.Run("identity", func(t *testing.T) { testIdentity(ctx, t, k) })
	t.Run("faults", func(t *testing.T) { testFaults(ctx, t, k) })
	t.Run("new signing CA", func(t *testing.T) {
		old := k.SigningCA()
		if err := k.RotateSigningCA(ctx); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(old, k.SigningCA()) {
			t.Fatal("the signing CA is the same after rotation")
		}
		testSigns(ctx, t, k)
	})
}

// testSigns has a kubelet-serving CSR approved and signed.
func testSigns(ctx context.Context, t *testing.T, k *Kubernetes) {
	client, err := k.Client()
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:     pkix.Name{CommonName: "system:node:vault-0", Organization: []string{"system:nodes"}},
		DNSNames:    []string{"vault-0.vault-internal"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	csrs := client.CertificatesV1().CertificateSigningRequests()
	csr, err := csrs.Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "harness-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			SignerName: certificatesv1.KubeletServingSignerName,
			Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test",
	})
	if _, err := csrs.UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		csr, err = csrs.Get(ctx, csr.Name, metav1.GetOptions{})
		if err == nil && len(csr.Status.Certificate) == 0 {
			err = fmt.Errorf("no certificate; conditions %v", csr.Status.Conditions)
		}
		return err
	})
	block, _ := pem.Decode(csr.Status.Certificate)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(k.SigningCA())
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: "vault-0.vault-internal"}); err != nil {
		t.Error(err)
	}
	if life := time.Until(leaf.NotAfter); life > 10*time.Minute || life < 4*time.Minute {
		t.Errorf("the certificate is valid for %s more, want what is granted of ten minutes", life)
	}
}

// testIdentity has a process's credentials known as a pod's and held to RBAC.
func testIdentity(ctx context.Context, t *testing.T, k *Kubernetes) {
	identity, err := k.ServiceAccountKubeconfig(ctx, "vault", "pkiwarden", "vault-0")
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", identity.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	as, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	review, err := as.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	user := review.Status.UserInfo
	if want := "system:serviceaccount:vault:pkiwarden"; user.Username != want {
		t.Errorf("user %q, want %q", user.Username, want)
	}
	if got := user.Extra["authentication.kubernetes.io/pod-uid"]; !slices.Equal(got, []string{string(identity.PodUID)}) {
		t.Errorf("pod UID %q, want %q", got, identity.PodUID)
	}
	if _, err := as.CoreV1().Secrets("vault").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Fatalf("listing secrets without a role: %v, want forbidden", err)
	}
	admin, err := k.Client()
	if err != nil {
		t.Fatal(err)
	}
	_, err = admin.RbacV1().RoleBindings("vault").Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "view"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: "pkiwarden", Namespace: "vault"}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "admin"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		_, err := as.CoreV1().Secrets("vault").List(ctx, metav1.ListOptions{})
		return err
	})
	if err := identity.Refresh(ctx, 10*time.Minute); err != nil {
		t.Fatal(err)
	}
}

// testFaults takes parts away and gives them back.
func testFaults(ctx context.Context, t *testing.T, k *Kubernetes) {
	client, err := k.Client()
	if err != nil {
		t.Fatal(err)
	}
	list := func() error {
		ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		_, err := client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
		return err
	}
	if err := k.APIServer.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := list(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a paused API server: %v, want a timeout", err)
	}
	if err := k.APIServer.Resume(); err != nil {
		t.Fatal(err)
	}
	eventually(t, list)
	if err := k.ControllerManager.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if k.ControllerManager.Running() {
		t.Error("the controller manager runs after Stop")
	}
	if err := k.APIServer.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := list(); err == nil {
		t.Error("a killed API server answers")
	}
	if err := k.APIServer.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := k.ControllerManager.Start(ctx); err != nil {
		t.Fatal(err)
	}
}
