package signer

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// lookFor is how long one look reads pages; what is left is for the next.
const lookFor = 20 * time.Second

// FailedReason is the reason of the condition Failed on a request that the policy
// refuses.
const FailedReason = "RefusedByPkiwarden"

// answer signs one request, or has it failed, or leaves it alone. An error ends
// the look; what is wrong with this request alone goes into the tally.
func (s *Signer) answer(ctx context.Context, a *authority, ca *loaded, csr *certificatesv1.CertificateSigningRequest, t *tally) error {
	if why := failedByUs(csr); why != "" {
		t.add(true, describe(csr, why))
		return nil
	}
	r := condense(csr)
	if r.Signer != a.name() || !r.AwaitsSigner() {
		return nil
	}
	answer, leaf, err := s.sign(a, ca, r)
	var refusal *k8scsr.SigningRefusal
	switch {
	case errors.As(err, &refusal) && refusal.Final():
		return s.write(ctx, a, failed(csr, refusal), t, resultRefused, "reason", string(refusal.Reason), "detail", plain(refusal.Detail))
	case err != nil: // it must not keep the others from being signed
		s.metrics.count(a, resultError)
		t.add(false, describe(csr, err.Error()))
		return nil
	}
	csr.Status.Certificate = answer
	return s.write(ctx, a, csr, t, resultSigned, "serial", leaf.SerialNumber.Text(16), "notAfter", leaf.NotAfter)
}

// sign makes the certificate and checks it; nothing is written. What goes wrong in
// the program itself is the error of this request alone.
func (s *Signer) sign(a *authority, ca *loaded, r k8scsr.Request) (answer []byte, leaf *x509.Certificate, err error) {
	defer func() {
		if value := recover(); value != nil {
			err = fmt.Errorf("a fault of pkiwarden itself: panic: a value of type %T", value)
		}
	}()
	now := s.now()
	template, err := a.Policy.Template(r, ca.SigningCA, newSerial(), now)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Certificate, template.PublicKey, *ca.key.signer)
	if err != nil {
		return nil, nil, err
	}
	answer, err = ca.Answer(der, template, now)
	return answer, template, err
}

// write stores the answer, if the request is still the one that was looked at.
func (s *Signer) write(ctx context.Context, a *authority, csr *certificatesv1.CertificateSigningRequest, t *tally, as result, about ...any) error {
	_, err := do(ctx, call{"update", "certificatesigningrequests/status", "", csr.Name}, func(ctx context.Context) (*certificatesv1.CertificateSigningRequest, error) {
		return s.client.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, csr, metav1.UpdateOptions{})
	})
	log := s.log.With("signer", a.name(), "request", plain(csr.Name), "requester", plain(csr.Spec.Username)).With(about...)
	switch {
	case err == nil:
		s.metrics.count(a, as)
		a.note(func(st *Status) { st.count(as, s.now()) })
		if as == resultRefused {
			t.add(true, describe(csr, failedByUs(csr)))
			log.Warn("refused to sign a request")
		} else {
			log.Info("signed a request")
		}
		return nil
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		s.metrics.count(a, resultConflict)
		log.Debug("a request changed while it was answered", "error", err)
		a.hint(csr.Name)
		return nil
	case unacceptable(err):
		s.metrics.count(a, resultError)
		log.Debug("a request cannot be answered", "error", err)
		t.add(false, describe(csr, err.Error()))
		return nil
	}
	s.metrics.count(a, resultError)
	return err
}

// unacceptable tells that the API server does not take this answer, which says
// nothing of the next.
func unacceptable(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsRequestEntityTooLargeError(err) || strings.Contains(err.Error(), "request is too large")
}

// failed is the request with the condition Failed.
func failed(csr *certificatesv1.CertificateSigningRequest, why *k8scsr.SigningRefusal) *certificatesv1.CertificateSigningRequest {
	csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: FailedReason,
		Message: plain(fmt.Sprintf("signer %s does not sign it: %v", csr.Spec.SignerName, why)),
	})
	return csr
}

// failedByUs is why we refused the request, "" where we did not.
func failedByUs(csr *certificatesv1.CertificateSigningRequest) string {
	for _, condition := range csr.Status.Conditions {
		if condition.Type == certificatesv1.CertificateFailed && condition.Reason == FailedReason {
			return condition.Message
		}
	}
	return ""
}

func describe(csr *certificatesv1.CertificateSigningRequest, why string) string {
	return k8scsr.Plain(fmt.Sprintf("request %s of %s: %s", csr.Name, csr.Spec.Username, why), 300)
}
