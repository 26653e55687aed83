package e2e

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// authority is a CA that signs whatever it is told to.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	// chain is what follows a leaf of it in an answer.
	chain []*x509.Certificate
}

// clusterCA is the CA that kube-root-ca.crt holds.
func clusterCA(t *testing.T, w *world.World) *authority {
	t.Helper()
	text, err := w.Kubernetes.CA.KeyPEM()
	must(t, err)
	return &authority{cert: w.Kubernetes.CA.Certificate, key: parseKey(t, text)}
}

func parseKey(t *testing.T, text []byte) crypto.Signer {
	t.Helper()
	key, err := decodeKey(text)
	must(t, err)
	return key
}

func decodeKey(text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("no PEM block in a key")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	return key.(crypto.Signer), nil
}

// newAuthority makes a CA, self-signed where parent is nil.
func newAuthority(t *testing.T, name string, key crypto.Signer, parent *authority, edit func(*x509.Certificate)) *authority {
	t.Helper()
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(5, 0, 0),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	if edit != nil {
		edit(template)
	}
	by := parent
	if by == nil {
		by = &authority{cert: template, key: key}
	}
	cert, err := by.sign(template, key.Public())
	must(t, err)
	a := &authority{cert: cert, key: key}
	if parent != nil {
		a.chain = append([]*x509.Certificate{cert}, parent.chain...)
	}
	return a
}

func ecdsaKey(t *testing.T, curve elliptic.Curve) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	must(t, err)
	return key
}

func (a *authority) sign(template *x509.Certificate, public crypto.PublicKey) (*x509.Certificate, error) {
	var err error
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func certificatePEM(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// order is an approved request as its signer sees it.
type order struct {
	*certificatesv1.CertificateSigningRequest
	content *x509.CertificateRequest
	// template is what a good signer would sign.
	template *x509.Certificate
}

// certificate is the name of the certificate that it was made for, as
// [certificate] declares it.
func (o *order) certificate() string { return certificateOf(o.Labels) }

func certificateOf(labels map[string]string) string {
	name := strings.TrimPrefix(labels["pkiwarden.io/certificate"], world.Namespace+"_")
	return strings.TrimSuffix(name, "-tls")
}

var keyUsages = map[certificatesv1.KeyUsage]x509.KeyUsage{
	certificatesv1.UsageDigitalSignature:  x509.KeyUsageDigitalSignature,
	certificatesv1.UsageContentCommitment: x509.KeyUsageContentCommitment,
	certificatesv1.UsageKeyEncipherment:   x509.KeyUsageKeyEncipherment,
	certificatesv1.UsageKeyAgreement:      x509.KeyUsageKeyAgreement,
	certificatesv1.UsageDataEncipherment:  x509.KeyUsageDataEncipherment,
}

var extendedUsages = map[certificatesv1.KeyUsage]x509.ExtKeyUsage{
	certificatesv1.UsageServerAuth: x509.ExtKeyUsageServerAuth,
	certificatesv1.UsageClientAuth: x509.ExtKeyUsageClientAuth,
}

func newOrder(csr *certificatesv1.CertificateSigningRequest) (*order, error) {
	block, _ := pem.Decode(csr.Spec.Request)
	content, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	life := time.Hour
	if seconds := csr.Spec.ExpirationSeconds; seconds != nil {
		life = time.Duration(*seconds) * time.Second
	}
	template := &x509.Certificate{
		Subject: content.Subject, DNSNames: content.DNSNames, IPAddresses: content.IPAddresses, URIs: content.URIs,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(life), BasicConstraintsValid: true,
	}
	for _, usage := range csr.Spec.Usages {
		key, extended := keyUsages[usage], extendedUsages[usage]
		if template.KeyUsage |= key; key == 0 {
			template.ExtKeyUsage = append(template.ExtKeyUsage, extended)
		}
	}
	return &order{csr, content, template}, nil
}

// by is the answer of a good signer with that CA.
func (o *order) by(a *authority) ([]byte, error) {
	leaf, err := a.sign(o.template, o.content.PublicKey)
	if err != nil {
		return nil, err
	}
	return certificatePEM(append([]*x509.Certificate{leaf}, a.chain...)...), nil
}

// signer is a signing controller for the signer names that begin with prefix.
type signer struct {
	w      *world.World
	prefix string
	answer func(*order) ([]byte, error)

	mu       sync.Mutex
	seen     map[types.UID]bool // CSRs that were answered, or tried to
	rejected map[string]error   // by the API server, by the certificate's name
	problems []error
}

// startSigner answers each approved request once, until the test ends. What the
// API server does not take as an answer is left at that; every other error fails
// the test.
func startSigner(t *testing.T, ctx context.Context, w *world.World, prefix string, answer func(*order) ([]byte, error)) *signer {
	t.Helper()
	s := &signer{w: w, prefix: prefix, answer: answer, seen: map[types.UID]bool{}, rejected: map[string]error{}}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			s.once(ctx)
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		for _, err := range s.problems {
			t.Errorf("the signer %s: %v", prefix, err)
		}
	})
	return s
}

func (s *signer) once(ctx context.Context) {
	list, err := s.w.Client.CertificatesV1().CertificateSigningRequests().List(ctx, metav1.ListOptions{})
	if err != nil {
		return // the API server may be away
	}
	for n := range list.Items {
		csr := &list.Items[n]
		if !strings.HasPrefix(csr.Spec.SignerName, s.prefix) || s.did(csr) || !approved(csr) || len(csr.Status.Certificate) > 0 {
			continue
		}
		if err := s.sign(ctx, csr); err != nil && ctx.Err() == nil {
			s.mu.Lock()
			s.problems = append(s.problems, fmt.Errorf("%s: %w", csr.Name, err))
			s.mu.Unlock()
		}
	}
}

func (s *signer) did(csr *certificatesv1.CertificateSigningRequest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[csr.UID]
}

func (s *signer) sign(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) error {
	s.mu.Lock()
	s.seen[csr.UID] = true
	s.mu.Unlock()
	o, err := newOrder(csr)
	if err != nil {
		return err
	}
	answer, err := s.answer(o)
	if err != nil || answer == nil {
		return err
	}
	csr.Status.Certificate = answer
	_, err = s.w.Client.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, csr, metav1.UpdateOptions{})
	if apierrors.IsInvalid(err) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.rejected[o.certificate()] = err
		return nil
	}
	return err
}

// again has the signer answer once more what it has not answered yet to the API
// server's satisfaction.
func (s *signer) again() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.seen)
}

// rejections are the answers that the API server did not take.
func (s *signer) rejections() map[string]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]error{}
	for name, err := range s.rejected {
		out[name] = err
	}
	return out
}

func condition(csr *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType) *certificatesv1.CertificateSigningRequestCondition {
	for n := range csr.Status.Conditions {
		if csr.Status.Conditions[n].Type == kind {
			return &csr.Status.Conditions[n]
		}
	}
	return nil
}

func approved(csr *certificatesv1.CertificateSigningRequest) bool {
	return condition(csr, certificatesv1.CertificateApproved) != nil
}
