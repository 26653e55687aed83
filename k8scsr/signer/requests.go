package signer

import (
	"context"
	"errors"
	"net/http"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// Anybody may create requests for a signer, each up to the 1.5 MiB that etcd
// stores, so they are read in pages of which each is dropped before the next: few
// at first, more while they are small, and fewer again where the client refuses
// an answer for its size. A look reads some pages, and the next one goes on
// behind them: however many there are, each has its turn.
const (
	firstPage    = 4
	largestPage  = 64
	pagesPerLook = 40
	asCareful    = 8 // pages after one that was refused, before they grow again
	maxRefused   = 5 // of which the names are kept, for the finding
)

// scan is how far all requests of a signer were looked at. They come in the order
// of their names.
type scan struct {
	token   string // of the next page; "": from the beginning
	limit   int64  // of the next page
	careful int
	refused tally // so far

	done tally // of the last scan that came to the end
}

// tally is what was found of requests that have no certificate and get none.
type tally struct {
	failed   int      // by us, as far as the condition tells
	unwell   int      // that could be answered neither way
	examples []string // of both, in words
}

func (t *tally) add(failed bool, example string) {
	if failed {
		t.failed++
	} else {
		t.unwell++
	}
	if len(t.examples) < maxRefused {
		t.examples = append(t.examples, example)
	}
}

// answerAll goes on with the scan, for some pages of a look that began then, one
// at least. More says that it did not come to the end.
func (s *Signer) answerAll(ctx context.Context, a *authority, ca *loaded, began time.Time) (more bool, err error) {
	for range pagesPerLook {
		list, err := s.page(ctx, a)
		if err != nil {
			return false, err
		}
		if list == nil {
			continue // a smaller one, or from another place
		}
		for n := range list.Items {
			if err := s.answer(ctx, a, ca, &list.Items[n], &a.scan.refused); err != nil {
				return false, err
			}
		}
		if a.scan.token = list.Continue; a.scan.token == "" {
			a.scan = scan{done: a.scan.refused}
			return false, nil
		}
		if s.now().Sub(began) > lookFor {
			break
		}
	}
	return true, nil
}

// page reads the next requests; nil where it has to be asked for otherwise.
func (s *Signer) page(ctx context.Context, a *authority) (*certificatesv1.CertificateSigningRequestList, error) {
	at := &a.scan
	if at.limit == 0 {
		at.limit = firstPage
	}
	o := metav1.ListOptions{FieldSelector: ofSigner(a), Limit: at.limit, Continue: at.token}
	list, err := do(ctx, call{"list", "certificatesigningrequests", "", ""}, func(ctx context.Context) (*certificatesv1.CertificateSigningRequestList, error) {
		return s.client.CertificatesV1().CertificateSigningRequests().List(ctx, o)
	})
	switch {
	case err == nil:
		if at.careful--; at.careful < 0 {
			at.limit = min(2*at.limit, largestPage)
		}
		return list, nil
	case tooLarge(err) && at.limit > 1:
		at.limit, at.careful = max(1, at.limit/2), asCareful
		return nil, nil
	case apierrors.IsResourceExpired(err) && at.token != "":
		// The answer says how to go on from the same place with what there is now;
		// without that, it begins anew.
		at.token = ""
		var status apierrors.APIStatus
		if errors.As(err, &status) {
			at.token = status.Status().Continue
		}
		if at.token == "" {
			at.refused = tally{}
		}
		return nil, nil
	}
	return nil, err
}

func ofSigner(a *authority) string {
	return fields.OneTermEqualSelector("spec.signerName", a.name()).String()
}

// tooLarge tells an answer that the client did not read to its end.
func tooLarge(err error) bool {
	var refused *http.MaxBytesError
	return errors.As(err, &refused)
}

// answerNamed answers one request that Watch saw.
func (s *Signer) answerNamed(ctx context.Context, a *authority, ca *loaded, name string) error {
	csr, err := do(ctx, call{"get", "certificatesigningrequests", "", name}, func(ctx context.Context) (*certificatesv1.CertificateSigningRequest, error) {
		return s.client.CertificatesV1().CertificateSigningRequests().Get(ctx, name, metav1.GetOptions{})
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.answer(ctx, a, ca, csr, &a.scan.done)
}

// condense is a CSR as the core sees it. A condition that is not true approves
// nothing, and forbids all the same.
func condense(csr *certificatesv1.CertificateSigningRequest) k8scsr.Request {
	r := k8scsr.Request{
		Name: csr.Name, UID: string(csr.UID), ResourceVersion: csr.ResourceVersion, CreatedAt: csr.CreationTimestamp.Time,
		Signer: csr.Spec.SignerName, ExpirationSeconds: csr.Spec.ExpirationSeconds, PEM: csr.Spec.Request, Certificate: csr.Status.Certificate,
	}
	for _, usage := range csr.Spec.Usages {
		r.Usages = append(r.Usages, string(usage))
	}
	for _, condition := range csr.Status.Conditions {
		switch condition.Type {
		case certificatesv1.CertificateApproved:
			r.Approved = r.Approved || condition.Status == "True"
		case certificatesv1.CertificateDenied:
			r.Denied = true
		case certificatesv1.CertificateFailed:
			r.Failed = true
		}
	}
	return r
}
