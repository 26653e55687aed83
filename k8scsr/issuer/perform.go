package issuer

import (
	"context"
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

// perform does exactly the step, in one write that succeeds only if what was
// observed is still so: creations under a name that must not exist yet, updates
// under the resourceVersion that was read.
func (i *Issuer) perform(ctx context.Context, c *Certificate, o *observation, step k8scsr.Step, now time.Time) error {
	switch step.Kind {
	case k8scsr.StoreNextKey:
		key, err := generateKey(c.Spec.Key)
		if err != nil {
			return err
		}
		step.Record.CSRName = requestName(c.Secret)
		i.await(c.label, step.Record.CSRName)
		o.csr, o.csrName = nil, step.Record.CSRName // a name that was just drawn is nobody's yet
		return i.writeNext(ctx, c, o, step.Record, key.pem)
	case k8scsr.RecordRequester, k8scsr.RecordRequest:
		return i.writeNext(ctx, c, o, step.Record, o.key.pem)
	case k8scsr.DropPending:
		o.csr, o.csrName = nil, ""
		err := i.writeNext(ctx, c, o, step.Record, nil)
		if err == nil {
			i.outlook(c).made = nil // of the request that was dropped
		}
		i.outlook(c).cleared = cleared{err == nil && step.Event != nil && !step.Event.Warning, versionOf(o.next)}
		return err
	case k8scsr.CreateRequest:
		if err := i.spend(ctx, c, o, now); err != nil {
			return err
		}
		return i.createRequest(ctx, c, o, now)
	case k8scsr.Approve, k8scsr.Deny:
		return i.decide(ctx, o, step)
	case k8scsr.Publish:
		err := i.writeLive(ctx, c, o, func(s *corev1.Secret) {
			s.Data[c.Keys.Certificate] = step.Chain.PEM
			s.Data[c.Keys.Key] = o.key.pem
			c.putBundle(s, step.Bundle)
			s.Annotations[AnnotationSigner] = c.Spec.Signer
			s.Annotations[AnnotationIssuedAt] = now.UTC().Format(time.RFC3339)
			s.Annotations[AnnotationRequest] = o.Pending.CSRName
		})
		if err == nil {
			o.keyKept, o.readAt = false, now
		}
		return err
	case k8scsr.PublishTrust:
		if o.keyKept {
			return errChanged // what is to stay is to be read first
		}
		return i.writeBundle(ctx, c, o, step.Bundle)
	}
	return fmt.Errorf("performing step %q: unknown", step.Kind)
}

// writeNext stores NAME-next: a new one where none was seen, else the one seen.
func (i *Issuer) writeNext(ctx context.Context, c *Certificate, o *observation, record k8scsr.Record, key []byte) error {
	secret, err := c.nextSecret(o.next, record, key)
	if err != nil {
		return err
	}
	written, err := i.writeSecret(ctx, secret, o.next == nil)
	if err == nil {
		o.next = written
	}
	return err
}

func (i *Issuer) writeLive(ctx context.Context, c *Certificate, o *observation, edit func(*corev1.Secret)) error {
	written, err := i.writeSecret(ctx, c.liveSecret(o.live, edit), o.live == nil)
	if err == nil {
		o.live = written
	}
	return err
}

// writeSecret creates or updates; an update carries the resourceVersion and UID
// that were read. It returns what the API made of it.
func (i *Issuer) writeSecret(ctx context.Context, secret *corev1.Secret, create bool) (*corev1.Secret, error) {
	secrets := i.client.CoreV1().Secrets(secret.Namespace)
	if !create {
		return do(ctx, call{"update", "secrets", secret.Namespace, secret.Name}, func(ctx context.Context) (*corev1.Secret, error) {
			return secrets.Update(ctx, secret, metav1.UpdateOptions{FieldManager: ManagedBy})
		})
	}
	written, err := do(ctx, call{"create", "secrets", secret.Namespace, secret.Name}, func(ctx context.Context) (*corev1.Secret, error) {
		return secrets.Create(ctx, secret, metav1.CreateOptions{FieldManager: ManagedBy})
	})
	return written, i.namespaceOf(ctx, secret.Namespace, err)
}

func (i *Issuer) createRequest(ctx context.Context, c *Certificate, o *observation, now time.Time) error {
	pem, err := signRequest(c.Spec, o.key)
	if err != nil {
		return err
	}
	seconds := c.Spec.ExpirationSeconds()
	csr := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{
			Name:   o.Pending.CSRName,
			Labels: map[string]string{LabelManagedBy: ManagedBy, LabelCertificate: c.label},
		},
		Spec: certificatesv1.CertificateSigningRequestSpec{Request: pem, SignerName: c.Spec.Signer, ExpirationSeconds: &seconds},
	}
	for _, usage := range c.Spec.Usages {
		csr.Spec.Usages = append(csr.Spec.Usages, certificatesv1.KeyUsage(usage))
	}
	made, err := do(ctx, call{"create", "certificatesigningrequests", "", ""}, func(ctx context.Context) (*certificatesv1.CertificateSigningRequest, error) {
		return i.client.CertificatesV1().CertificateSigningRequests().Create(ctx, csr, metav1.CreateOptions{FieldManager: ManagedBy})
	})
	if err == nil {
		o.csr, o.csrName = made, made.Name
		i.outlook(c).made = &madeRequest{made.Name, string(made.UID), now}
	}
	return err
}

// decide approves or denies the very version of the request that was checked.
func (i *Issuer) decide(ctx context.Context, o *observation, step k8scsr.Step) error {
	csr := o.csrs[step.Request.Name].DeepCopy()
	condition := certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue,
		Reason: "ExactMatch", Message: "Approved by pkiwarden: it is exactly the request that is wanted, made by pkiwarden itself for its stored key.",
	}
	if step.Kind == k8scsr.Deny {
		condition.Type, condition.Reason = certificatesv1.CertificateDenied, "NotWanted"
		condition.Message = "Denied by pkiwarden: " + step.Reason
	}
	csr.Status.Conditions = append(csr.Status.Conditions, condition)
	decided, err := do(ctx, call{"update", "certificatesigningrequests/approval", "", csr.Name}, func(ctx context.Context) (*certificatesv1.CertificateSigningRequest, error) {
		return i.client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{FieldManager: ManagedBy})
	})
	if err == nil && decided.Name == o.csrName {
		o.csr = decided
		if !i.goesOn || !i.watching.Load() {
			o.csrName = "" // nobody comes back when the watch sees the answer
		}
	}
	// Admission wants a right of its own, and says so only in words (kubernetes
	// plugin/pkg/admission/certificates/approval).
	var failed *callError
	if errors.As(err, &failed) && apierrors.IsForbidden(failed.err) && strings.Contains(failed.err.Error(), "signerName") {
		return &callError{call{"approve", "signers.certificates.k8s.io", "", csr.Spec.SignerName}, failed.err}
	}
	return err
}
