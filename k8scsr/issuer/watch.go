package issuer

import (
	"context"
	"errors"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// How a watch is kept open: reopened after a pause that doubles while it does
// not hold, and ended by the server after a while in any case.
const (
	watchFor     = 5 * time.Minute
	reopenFirst  = time.Second
	reopenMax    = time.Minute
	watchConnect = 30 * time.Second // beyond the server's own end
)

// Watch calls wake whenever a certificate signing request of ours changes, so
// that an approval or a certificate is noticed at once: [Issuer.OnceUntil] then
// looks at the certificate whose request it is. It blocks until ctx ends
// and returns nil. It only saves time: Once names when to look again without it,
// so a watch that is forbidden or breaks is logged once per change of state and
// tried again. Events are not kept; wake must not block.
func (i *Issuer) Watch(ctx context.Context, wake func()) error {
	pause, healthy := reopenFirst, true
	for ctx.Err() == nil {
		opened := i.now()
		err := i.watchOnce(ctx, wake)
		if ctx.Err() != nil {
			return nil
		}
		// One that breaks right after it was opened does not count as working:
		// it would be opened, and logged, every second.
		if err == nil || i.now().Sub(opened) > reopenMax {
			if !healthy {
				i.log.Info("watching certificate signing requests works again")
			}
			pause, healthy = reopenFirst, true
		} else if healthy {
			i.log.Warn("watching certificate signing requests is not possible; looking by time instead", "error", err)
			healthy = false
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		pause = min(2*pause, reopenMax)
	}
	return nil
}

// watchOnce opens one watch and follows it to its end; nil when the server ended
// it in the ordinary way.
func (i *Issuer) watchOnce(ctx context.Context, wake func()) error {
	ctx, cancel := context.WithTimeout(ctx, watchFor+watchConnect)
	defer cancel()
	seconds := int64(watchFor / time.Second)
	w, err := i.client.CertificatesV1().CertificateSigningRequests().Watch(ctx, metav1.ListOptions{LabelSelector: LabelCertificate, TimeoutSeconds: &seconds})
	if err != nil {
		return &callError{call{"watch", "certificatesigningrequests", "", ""}, err}
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return errors.New("the watch did not end in time")
		case event, open := <-w.ResultChan():
			if !open {
				return nil
			}
			if event.Type == watch.Error {
				return apierrors.FromObject(event.Object)
			}
			if csr, ok := event.Object.(*certificatesv1.CertificateSigningRequest); ok {
				i.noteRequest(csr.Labels[LabelCertificate], version{csr.Name, csr.ResourceVersion})
			}
			wake()
		}
	}
}
