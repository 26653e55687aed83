package issuer

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// Anybody may create requests with our labels, each up to the 1.5 MiB that etcd
// stores, so they are read in pages of which each is dropped before the next:
// few at first, more while they are small, and fewer again where the client
// refuses an answer for its size.
const (
	firstPage   = 4
	largestPage = 64
	maxListed   = 10_000 // requests
	maxPages    = 2_500  // answers, also those that were refused
	maxRestart  = 3      // after pages that took too long to be read
	asCareful   = 8      // pages after one that was refused, before they grow again
)

// errFlooded is a list of requests that is too long to be read to its end. What
// lies behind could be our own open request, so nothing may begin.
type errFlooded struct {
	selector string
	seen     int
	why      string
}

func (e *errFlooded) Error() string {
	return fmt.Sprintf("there are too many certificate signing requests with label %s to see our own among them (%s after %d): %s", e.selector, e.why, e.seen, e.remedy())
}

func (e *errFlooded) remedy() string {
	return fmt.Sprintf("find out who creates them (spec.username in kubectl get csr -l %s -o yaml) and remove those that are not pkiwarden's: kubectl delete csr NAME; nothing is requested until then", e.selector)
}

// ownRequests are those of the requests that the selector picks which our own
// account made, each as keep has it; keep must not hold on to its argument. It
// is all of them or an error.
func ownRequests[T any](ctx context.Context, i *Issuer, selector string, us k8scsr.Identity, keep func(*certificatesv1.CertificateSigningRequest) T) ([]T, error) {
	var own []T
	o := metav1.ListOptions{LabelSelector: selector, Limit: firstPage}
	seen, restarts, careful := 0, 0, 0
	for range maxPages {
		list, err := do(ctx, call{"list", "certificatesigningrequests", "", ""}, func(ctx context.Context) (*certificatesv1.CertificateSigningRequestList, error) {
			return i.client.CertificatesV1().CertificateSigningRequests().List(ctx, o)
		})
		switch {
		case err == nil:
		case tooLarge(err) && o.Limit > 1:
			o.Limit, careful = max(1, o.Limit/2), asCareful
			continue
		case apierrors.IsResourceExpired(err) && o.Continue != "" && restarts < maxRestart:
			own, o.Continue, seen = nil, "", 0
			restarts++
			continue
		default:
			return nil, err
		}
		for n := range list.Items {
			who := k8scsr.Identity{Username: list.Items[n].Spec.Username, UID: list.Items[n].Spec.UID}
			if us.Account(who) {
				own = append(own, keep(&list.Items[n]))
			}
		}
		seen += len(list.Items)
		if o.Continue = list.Continue; o.Continue == "" {
			return own, nil
		}
		if seen >= maxListed {
			return nil, &errFlooded{selector, seen, "there are more"}
		}
		if careful--; careful < 0 {
			o.Limit = min(2*o.Limit, largestPage)
		}
	}
	return nil, &errFlooded{selector, seen, fmt.Sprintf("not at their end after %d answers", maxPages)}
}

// tooLarge tells an answer that the client did not read to its end.
func tooLarge(err error) bool {
	var refused *http.MaxBytesError
	return errors.As(err, &refused)
}
