package signer

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// loaded is a CA that can sign.
type loaded struct {
	k8scsr.SigningCA
	key caKey
}

// load reads the CA's Secret, live. A problem says, in words, why it cannot be
// used; an error, that it could not be read.
func (s *Signer) load(ctx context.Context, a *authority, now time.Time) (ca *loaded, problem string, err error) {
	secret, err := do(ctx, call{"get", "secrets", a.Namespace, a.Secret}, func(ctx context.Context) (*corev1.Secret, error) {
		return s.client.CoreV1().Secrets(a.Namespace).Get(ctx, a.Secret, metav1.GetOptions{})
	})
	if apierrors.IsNotFound(err) {
		s.metrics.noCA(a)
		a.note(func(st *Status) { st.NotBefore, st.NotAfter = time.Time{}, time.Time{} })
		return nil, "the Secret does not exist", nil
	}
	if err != nil {
		return nil, "", err
	}
	keyPEM := secret.Data[a.KeyKey]
	defer clear(keyPEM)
	certificate, err := k8scsr.ParseSigningCA(secret.Data[a.CertificateKey])
	switch {
	case len(secret.Data[a.CertificateKey]) == 0:
		problem = fmt.Sprintf("the Secret has no entry %q, which caSecret.certificate names", a.CertificateKey)
	case err != nil:
		problem = err.Error()
	}
	if problem != "" {
		s.metrics.noCA(a)
		a.note(func(st *Status) { st.NotBefore, st.NotAfter = time.Time{}, time.Time{} })
		return nil, plain(problem), nil
	}
	s.metrics.ca(a, certificate)
	a.note(func(st *Status) {
		st.NotBefore, st.NotAfter = certificate.Certificate.NotBefore, certificate.NotAfter()
	})
	if len(keyPEM) == 0 {
		return nil, fmt.Sprintf("the Secret has no entry %q, which caSecret.key names", a.KeyKey), nil
	}
	key, err := k8scsr.ParseKey(keyPEM)
	switch {
	case err != nil:
		return nil, plain(err.Error()), nil
	case !certificate.Matches(key.Public()):
		return nil, "its certificate and its key do not belong together", nil
	}
	if err := certificate.Usable(now); err != nil {
		return nil, plain(err.Error()), nil
	}
	return &loaded{certificate, newCAKey(key)}, "", nil
}

// maxMessage bounds what is shown of what others wrote, in octets.
const maxMessage = 1024

func plain(text string) string { return k8scsr.Plain(text, maxMessage) }
