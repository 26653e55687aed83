package matrix

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// setbacks are the faults after which an attempt may have to be given up, and
// how that must be called then.
var setbacks = map[string][]string{
	denied:      {"csr-denied"},
	failed:      {"csr-failed"},
	removed:     {"csr-collected"},
	signerClock: {"certificate-refused"},
}

// request is the one that is open, as an administrator sees it.
func (t *trial) request(ctx context.Context) (*certificatesv1.CertificateSigningRequest, error) {
	list, err := t.lane.world.Client.CertificatesV1().CertificateSigningRequests().List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, err
	}
	if len(list.Items) != 1 {
		return nil, fmt.Errorf("%d requests where one was expected", len(list.Items))
	}
	return &list.Items[0], nil
}

// decide approves or denies the request as somebody else would.
func (t *trial) decide(ctx context.Context, decision certificatesv1.RequestConditionType) error {
	csr, err := t.request(ctx)
	if err != nil {
		return err
	}
	csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: decision, Status: corev1.ConditionTrue, Reason: "Matrix", Message: "by somebody else",
	})
	_, err = t.lane.world.Client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{})
	return err
}

// fail says as the signer that there will be no certificate.
func (t *trial) fail(ctx context.Context) error {
	csr, err := t.request(ctx)
	if err != nil {
		return err
	}
	csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "Matrix", Message: "by the signer",
	})
	_, err = t.lane.world.Client.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, csr, metav1.UpdateOptions{})
	return err
}

// remove removes the request, as the cluster's cleaner or an administrator does.
func (t *trial) remove(ctx context.Context) error {
	csr, err := t.request(ctx)
	if err != nil {
		return err
	}
	t.mu.Lock()
	t.gone[string(csr.UID)] = struct{}{}
	t.mu.Unlock()
	return t.lane.world.Client.CertificatesV1().CertificateSigningRequests().Delete(ctx, csr.Name, metav1.DeleteOptions{})
}

// sign answers the approved request as a signer whose clock is off.
func (t *trial) sign(ctx context.Context, off time.Duration) error {
	csr, err := t.request(ctx)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(csr.Spec.Request)
	if block == nil {
		return errors.New("the request holds no PEM")
	}
	wanted, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return err
	}
	ca := t.lane.world.Kubernetes.CA
	keyPEM, err := ca.KeyPEM()
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(ca.PEM, keyPEM)
	if err != nil {
		return err
	}
	t.mu.Lock()
	t.behind += max(0, -off)
	if off < time.Hour { // what it signs is taken, and the next trial's signer is behind that
		t.lane.ahead = max(0, off)
	}
	t.mu.Unlock()
	now := time.Now().Add(off)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: wanted.Subject, DNSNames: wanted.DNSNames, IPAddresses: wanted.IPAddresses,
		NotBefore: now.Add(-5 * time.Minute), NotAfter: now.Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	usages := map[certificatesv1.KeyUsage]x509.KeyUsage{
		certificatesv1.UsageDigitalSignature: x509.KeyUsageDigitalSignature, certificatesv1.UsageKeyEncipherment: x509.KeyUsageKeyEncipherment,
	}
	for _, u := range csr.Spec.Usages {
		leaf.KeyUsage |= usages[u]
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca.Certificate, wanted.PublicKey, pair.PrivateKey)
	if err != nil {
		return err
	}
	csr.Status.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	_, err = t.lane.world.Client.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, csr, metav1.UpdateOptions{})
	return err
}

// recover waits until the attempt that was met by a setback is over. Where it
// was given up, the pair in use is untouched and the reason is recorded; then
// something else is wished for, which no pause may hold up.
func (t *trial) recover(ctx context.Context, before *corev1.Secret) error {
	w := t.lane.world
	secrets := w.Client.CoreV1().Secrets(world.Namespace)
	var next *corev1.Secret
	err := world.Eventually(ctx, convergeWithin, func(ctx context.Context) error {
		var err error
		if next, err = secrets.Get(ctx, nextName, metav1.GetOptions{}); err != nil {
			return err
		}
		if len(next.Data) > 0 {
			return errors.New("the attempt is still under way")
		}
		return nil
	})
	if err != nil {
		t.violate("%v", err)
		return nil
	}
	var record struct {
		LastFailure *struct {
			Rule string `json:"rule"`
		} `json:"lastFailure"`
	}
	if err := json.Unmarshal([]byte(next.Annotations["pkiwarden.io/record"]), &record); err != nil {
		return fmt.Errorf("reading the record: %w", err)
	}
	if record.LastFailure == nil {
		return nil // it came through
	}
	if rule := record.LastFailure.Rule; !slices.Contains(setbacks[t.name], rule) {
		t.violate("I6: the attempt failed with %s, want %s", rule, setbacks[t.name])
	}
	live, err := secrets.Get(ctx, world.SecretName, metav1.GetOptions{})
	switch {
	case before == nil && err == nil:
		t.violate("I2: a pair was published by an attempt that failed")
	case before != nil && err != nil:
		t.violate("I2: after an attempt that failed: %v", err)
	case before != nil && !bytes.Equal(live.Data[corev1.TLSPrivateKeyKey], before.Data[corev1.TLSPrivateKeyKey]):
		t.violate("I2: the pair was replaced by an attempt that failed")
	}
	t.check(ctx, "after the setback")
	if first := t.first.Load(); first.Running() {
		if err := first.Stop(ctx); err != nil {
			return err
		}
	}
	t.marker = "again-" + t.marker
	p, err := t.process(ctx, podNames[t.chance(2)])
	if err != nil {
		return err
	}
	t.first.Store(p)
	return p.Start(ctx)
}
