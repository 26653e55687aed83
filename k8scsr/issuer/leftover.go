package issuer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// leftoversEvery is also how old a key is at least. Any instance that still
// wants it is done with it soon after its request has ended.
const leftoversEvery = time.Hour

// dropLeftovers removes the pending keys of certificates that are no longer
// declared, when the work begins and once an hour. Which those are tells the
// record of requests, since nobody has the right to list Secrets. It is an
// update that leaves NAME-next without a key: no right to delete is needed. In
// doubt the key stays: where the Secret is not marked as ours or its record is
// not readable, where it cannot be read at all, while its request is open, and
// for an hour: another instance could have another configuration.
func (i *Issuer) dropLeftovers(ctx context.Context) {
	now := i.now()
	if i.state == nil || !i.leftoversAt.IsZero() && now.Sub(i.leftoversAt) < leftoversEvery && !now.Before(i.leftoversAt) {
		return
	}
	i.leftoversAt = now
	b := i.openBooks(ctx)
	if b.problem != nil {
		return
	}
	for label, e := range b.ledger.Certificates {
		namespace, name, ok := strings.Cut(e.Secret, "/")
		if i.declared(label) || !ok || label != labelFor(namespace, name) {
			continue
		}
		c := &Certificate{Namespace: namespace, Secret: name, Spec: k8scsr.Spec{Name: e.Secret}}
		c.setDefaults()
		dropped, err := i.dropLeftover(ctx, c)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !changedMeanwhile(err):
			i.log.Debug("the pending key of a certificate that is no longer declared stays", "secret", namespace+"/"+c.nextName(), "error", err)
		case dropped:
			i.log.Info("removed the pending key of a certificate that is no longer declared", "secret", namespace+"/"+c.nextName())
		}
	}
}

// dropLeftover tells whether it removed a key.
func (i *Issuer) dropLeftover(ctx context.Context, c *Certificate) (dropped bool, err error) {
	defer i.contain(c, &err)
	next, err := i.getSecret(ctx, c.Namespace, c.nextName())
	if err != nil || next == nil || c.nextObstacle(next) != nil {
		return false, err
	}
	now := i.now()
	pending, key := readPending(next, now)
	if pending.Problem != "" || key.signer == nil {
		return false, nil
	}
	if age := now.Sub(pending.StoredAt); age < leftoversEvery {
		return false, fmt.Errorf("it was stored %v ago, and another instance may be about to use it", age.Round(time.Second))
	}
	csr, err := do(ctx, call{"get", "certificatesigningrequests", "", pending.CSRName}, func(ctx context.Context) (*certificatesv1.CertificateSigningRequest, error) {
		return i.client.CertificatesV1().CertificateSigningRequests().Get(ctx, pending.CSRName, metav1.GetOptions{})
	})
	switch {
	case err != nil && !apierrors.IsNotFound(err):
		return false, err
	case err == nil && condense(csr).Open():
		return false, errors.New("its request is open: kubectl certificate deny " + pending.CSRName)
	}
	o := &observation{next: next}
	return true, i.writeNext(ctx, c, o, pending.Abandoned(now), nil)
}
