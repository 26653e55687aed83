package issuer

import (
	"context"
	"slices"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// extraPodUID is where the API server puts the UID of the pod that a projected
// service account token is bound to.
const extraPodUID = "authentication.kubernetes.io/pod-uid"

// observation is a State and the objects that it was read from, which writes
// start from.
type observation struct {
	k8scsr.State
	live *corev1.Secret // nil: there is none
	next *corev1.Secret // nil: there is none
	key  privateKey     // the stored next key
	csrs map[string]*certificatesv1.CertificateSigningRequest

	// What stays known while steps follow each other; see remember.
	readAt   time.Time                                 // when live and next were read, or live was written
	awaitsAt time.Time                                 // since when a signer is awaited on the strength of it; zero: none is
	keyKept  bool                                      // live was remembered, without its key
	csr      *certificatesv1.CertificateSigningRequest // nil: there is none
	csrName  string                                    // for which csr is known
}

// observe completes what is known, nil for nothing, with everything else that the
// next step depends on. Every GET is a quorum read, nothing comes from a cache.
//
// NAME-next is read first. Whoever begins an attempt writes it first, so a write
// to it that succeeds proves that nobody else began one since, and that all the
// rest was read after the last one ended.
func (i *Issuer) observe(ctx context.Context, c *Certificate, o *observation, now time.Time) (*observation, error) {
	var err error
	if o == nil {
		o = &observation{readAt: now}
		if o.next, err = i.getSecret(ctx, c.Namespace, c.nextName()); err != nil {
			return nil, err
		}
		if o.live, err = i.getSecret(ctx, c.Namespace, c.Secret); err != nil {
			return nil, err
		}
	}
	o.State, o.csrs = k8scsr.State{}, map[string]*certificatesv1.CertificateSigningRequest{}
	o.Live = c.readLive(o.live, o.keyKept, now)
	o.hinder(c.liveObstacle(o.live, o.Live))
	o.hinder(c.nextObstacle(o.next))

	var unreadable *k8scsr.Finding
	if o.Trust, unreadable, err = i.readTrust(ctx, c); err != nil {
		return nil, err
	}
	o.hinder(unreadable)
	o.Obstacles = append(o.Obstacles, c.unnamed...)
	if len(o.Obstacles) > 0 {
		return o, nil
	}
	i.observePeers(ctx, c, o, now)
	o.Pending, o.key = readPending(o.next, now)
	i.await(c.label, o.Pending.CSRName)
	return o, i.observeRequests(ctx, c, o, now)
}

// waitsFor is the request under way, as it was seen; nil: none.
func (o *observation) waitsFor() *version {
	if o.Request == nil {
		return nil
	}
	return &version{o.Request.Name, o.Request.ResourceVersion}
}

func (o *observation) hinder(f *k8scsr.Finding) {
	if f != nil {
		o.Obstacles = append(o.Obstacles, *f)
	}
}

// observeRequests reads the CSRs: the pending one by its name, or, where a new
// attempt may begin, all of this certificate's.
func (i *Issuer) observeRequests(ctx context.Context, c *Certificate, o *observation, now time.Time) error {
	look, active := i.outlook(c), o.Pending.Active()
	if c.Spec.Paused || !active && !k8scsr.Due(o.State, c.Spec, now) {
		return nil
	}
	var err error
	if o.Identity, err = i.whoAmI(ctx); err != nil {
		return err
	}
	if active {
		if o.Pending.CSRName == "" {
			return nil
		}
		if err := i.getRequest(ctx, o); err != nil {
			return err
		}
		if made := look.made; made != nil && made.name == o.Pending.CSRName {
			o.Made, o.MadeAt = made.uid, made.at
		}
		if o.csr == nil {
			return i.observeBudget(ctx, c, o, now)
		}
		r := o.condensed(o.csr)
		o.Request = &r
		return nil
	}
	if look.cleared.at(o.next) {
		return i.observeBudget(ctx, c, o, now)
	}
	selector := labels.Set{LabelCertificate: c.label}.String()
	own, err := ownRequests(ctx, i, selector, o.Identity, func(csr *certificatesv1.CertificateSigningRequest) *certificatesv1.CertificateSigningRequest {
		kept := *csr
		return &kept
	})
	if err != nil {
		return err
	}
	for _, csr := range own {
		o.Others = append(o.Others, o.condensed(csr))
	}
	if err := i.checkOrphans(ctx, c, o); err != nil {
		return err
	}
	look.cleared = cleared{len(own) == 0, versionOf(o.next)}
	return i.observeBudget(ctx, c, o, now)
}

// checkOrphans makes sure that open requests are left over from an earlier
// attempt, not part of one that another instance began while we observed: those
// must not be denied.
func (i *Issuer) checkOrphans(ctx context.Context, c *Certificate, o *observation) error {
	if !slices.ContainsFunc(o.Others, k8scsr.Request.Open) {
		return nil
	}
	again, err := i.getSecret(ctx, c.Namespace, c.nextName())
	if err != nil {
		return err
	}
	if (again == nil) != (o.next == nil) || again != nil && again.ResourceVersion != o.next.ResourceVersion {
		return errChanged
	}
	return nil
}

// getRequest reads the request under way, unless it is known.
func (i *Issuer) getRequest(ctx context.Context, o *observation) error {
	name := o.Pending.CSRName
	if o.csrName == name {
		return nil
	}
	csr, err := do(ctx, call{"get", "certificatesigningrequests", "", name}, func(ctx context.Context) (*certificatesv1.CertificateSigningRequest, error) {
		return i.client.CertificatesV1().CertificateSigningRequests().Get(ctx, name, metav1.GetOptions{})
	})
	if apierrors.IsNotFound(err) {
		csr, err = nil, nil
	}
	if err == nil {
		o.csr, o.csrName = csr, name
	}
	return err
}

func (o *observation) condensed(csr *certificatesv1.CertificateSigningRequest) k8scsr.Request {
	o.csrs[csr.Name] = csr
	return condense(csr)
}

// condense is a CSR as the core sees it.
func condense(csr *certificatesv1.CertificateSigningRequest) k8scsr.Request {
	r := k8scsr.Request{
		Name: csr.Name, UID: string(csr.UID), ResourceVersion: csr.ResourceVersion, CreatedAt: csr.CreationTimestamp.Time,
		Requester:         k8scsr.Identity{Username: csr.Spec.Username, UID: csr.Spec.UID, PodUID: only(csr.Spec.Extra[extraPodUID])},
		Signer:            csr.Spec.SignerName,
		ExpirationSeconds: csr.Spec.ExpirationSeconds,
		PEM:               csr.Spec.Request,
		Certificate:       csr.Status.Certificate,
	}
	for _, usage := range csr.Spec.Usages {
		r.Usages = append(r.Usages, string(usage))
	}
	for _, condition := range csr.Status.Conditions {
		message := condition.Reason
		if condition.Message != "" {
			message += ": " + condition.Message
		}
		message = k8scsr.Plain(message, maxMessage)
		switch condition.Type {
		case certificatesv1.CertificateApproved:
			r.Approved = true
		case certificatesv1.CertificateDenied:
			r.Denied, r.Message = true, message
		case certificatesv1.CertificateFailed:
			r.Failed, r.Message = true, message
		}
	}
	return r
}

// only is the single value of an extra. Several make it something that equals
// no pod's UID.
func only[S ~[]string](values S) string {
	switch len(values) {
	case 0:
		return ""
	case 1:
		return values[0]
	}
	return "several values"
}

// identityFor is how long an answer of whoAmI holds: a service account can be made
// anew under the same name.
const identityFor = 30 * time.Second

// whoAmI asks the API server who we are to it, once per Once.
func (i *Issuer) whoAmI(ctx context.Context) (k8scsr.Identity, error) {
	if age := i.now().Sub(i.identityAt); i.identity.Known() && age >= 0 && age < identityFor {
		return i.identity, nil
	}
	review, err := do(ctx, call{"create", "selfsubjectreviews.authentication.k8s.io", "", ""}, func(ctx context.Context) (*authenticationv1.SelfSubjectReview, error) {
		return i.client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	})
	if err != nil {
		return k8scsr.Identity{}, err
	}
	user := review.Status.UserInfo
	i.identity, i.identityAt = k8scsr.Identity{Username: user.Username, UID: user.UID, PodUID: only(user.Extra[extraPodUID])}, i.now()
	return i.identity, nil
}

// getSecret reads a Secret; nil when there is none.
func (i *Issuer) getSecret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	secret, err := do(ctx, call{"get", "secrets", namespace, name}, func(ctx context.Context) (*corev1.Secret, error) {
		return i.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
	})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if apierrors.IsForbidden(err) {
		return nil, i.namespaceOf(ctx, namespace, err)
	}
	return secret, err
}
