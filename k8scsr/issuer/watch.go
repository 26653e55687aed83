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
	from := "" // resourceVersion: what was before is not told
	for ctx.Err() == nil {
		opened := i.now()
		err := i.watchOnce(ctx, &from, wake)
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
// it in the ordinary way. It goes on from where the one before has ended: from
// nowhere, each would begin with every request that the cluster still has.
func (i *Issuer) watchOnce(ctx context.Context, from *string, wake func()) error {
	ctx, cancel := context.WithTimeout(ctx, watchFor+watchConnect)
	defer cancel()
	requests := i.client.CertificatesV1().CertificateSigningRequests()
	if *from == "" {
		list, err := do(ctx, call{"list", "certificatesigningrequests", "", ""}, func(ctx context.Context) (*certificatesv1.CertificateSigningRequestList, error) {
			return requests.List(ctx, metav1.ListOptions{LabelSelector: LabelCertificate, Limit: 1})
		})
		if err != nil {
			return err
		}
		*from = list.ResourceVersion
	}
	seconds := int64(watchFor / time.Second)
	w, err := requests.Watch(ctx, metav1.ListOptions{LabelSelector: LabelCertificate, TimeoutSeconds: &seconds, ResourceVersion: *from, AllowWatchBookmarks: true})
	if err != nil {
		*from = "" // it may be too old
		return &callError{call{"watch", "certificatesigningrequests", "", ""}, err}
	}
	defer w.Stop()
	i.watching.Store(true)
	defer i.watching.Store(false)
	for {
		select {
		case <-ctx.Done():
			return errors.New("the watch did not end in time")
		case event, open := <-w.ResultChan():
			if !open {
				return nil
			}
			if event.Type == watch.Error {
				*from = ""
				return apierrors.FromObject(event.Object)
			}
			csr, ok := event.Object.(*certificatesv1.CertificateSigningRequest)
			if !ok {
				continue
			}
			*from = csr.ResourceVersion
			if event.Type != watch.Bookmark && i.noteRequest(csr) {
				wake()
			}
		}
	}
}
