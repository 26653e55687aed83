package signer

import (
	"context"
	"errors"
	"slices"
	"sync"
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

// maxHints is how many names are kept between two looks; those beyond are found
// by the next scan.
const maxHints = 1000

// Watch calls wake whenever a request of one of the signers is approved, so that
// it is signed at once, ahead of all others. It blocks until ctx ends and returns
// nil. It only saves time: OnceUntil names when to look again without it, so a
// watch that is forbidden or breaks is logged once per change of state and tried
// again. Wake must not block.
func (s *Signer) Watch(ctx context.Context, wake func()) error {
	var all sync.WaitGroup
	for _, a := range s.all {
		all.Go(func() { s.watch(ctx, a, wake) })
	}
	all.Wait()
	return nil
}

func (s *Signer) watch(ctx context.Context, a *authority, wake func()) {
	pause, healthy := reopenFirst, true
	from := "" // resourceVersion: what was before is not told
	for ctx.Err() == nil {
		opened := s.now()
		err := s.watchOnce(ctx, a, &from, wake)
		if ctx.Err() != nil {
			return
		}
		// One that breaks right after it was opened does not count as working:
		// it would be opened, and logged, every second.
		if err == nil || s.now().Sub(opened) > reopenMax {
			if !healthy {
				s.log.Info("watching certificate signing requests works again", "signer", a.name())
			}
			pause, healthy = reopenFirst, true
		} else if healthy {
			s.log.Warn("watching certificate signing requests is not possible; looking by time instead", "signer", a.name(), "error", err)
			healthy = false
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		pause = min(2*pause, reopenMax)
	}
}

// watchOnce opens one watch and follows it to its end; nil when the server ended
// it in the ordinary way. It goes on from where the one before has ended: from
// nowhere, each would begin with every request that the cluster still has. Where
// that place is not known, all requests are looked at once more.
func (s *Signer) watchOnce(ctx context.Context, a *authority, from *string, wake func()) error {
	ctx, cancel := context.WithTimeout(ctx, watchFor+watchConnect)
	defer cancel()
	requests := s.client.CertificatesV1().CertificateSigningRequests()
	if *from == "" {
		list, err := do(ctx, call{"list", "certificatesigningrequests", "", ""}, func(ctx context.Context) (*certificatesv1.CertificateSigningRequestList, error) {
			return requests.List(ctx, metav1.ListOptions{FieldSelector: ofSigner(a), Limit: 1})
		})
		if err != nil {
			return err
		}
		*from = list.ResourceVersion
		a.missed()
		wake()
	}
	seconds := int64(watchFor / time.Second)
	w, err := requests.Watch(ctx, metav1.ListOptions{FieldSelector: ofSigner(a), TimeoutSeconds: &seconds, ResourceVersion: *from, AllowWatchBookmarks: true})
	if err != nil {
		*from = "" // it may be too old
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
				*from = ""
				return apierrors.FromObject(event.Object)
			}
			csr, ok := event.Object.(*certificatesv1.CertificateSigningRequest)
			if !ok {
				continue
			}
			*from = csr.ResourceVersion
			if event.Type == watch.Deleted || event.Type == watch.Bookmark {
				continue
			}
			// Those that nobody approved are no work: whoever makes them cannot wake us.
			if r := condense(csr); r.Signer == a.name() && r.AwaitsSigner() {
				a.hint(csr.Name)
				wake()
			}
		}
	}
}

func (a *authority) hint(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.hints) < maxHints && !slices.Contains(a.hints, name) {
		a.hints = append(a.hints, name)
	}
}

// missed notes that requests may have been approved which no watch told.
func (a *authority) missed() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gap = true
}

// takeMissed tells whether there was a gap, once.
func (a *authority) takeMissed() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	was := a.gap
	a.gap = false
	return was
}

func (a *authority) hinted() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.hints) > 0
}

// takeHints are the names so far, in the order in which they were seen: who floods
// the signer with requests waits behind those that were approved before.
func (a *authority) takeHints() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	names := a.hints
	a.hints = nil
	return names
}

// giveBack puts names before those that were seen meanwhile.
func (a *authority) giveBack(names []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	later := slices.DeleteFunc(a.hints, func(name string) bool { return slices.Contains(names, name) })
	all := slices.Concat(names, later)
	a.hints = all[:min(len(all), maxHints)]
}
