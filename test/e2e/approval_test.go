package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// rich declares a certificate that has one of everything, of a signer that
// grants it.
func rich(name string) map[string]any {
	return certificate(name, map[string]any{
		"subject":     map[string]any{"commonName": "vault", "organizations": []string{"ops", "security"}},
		"dnsNames":    []string{name + ".vault.svc", "*.vault-internal"},
		"ipAddresses": []string{"127.0.0.1", "fd00::1"},
		"uris":        []string{"spiffe://example/vault"},
		"usages":      []string{"digital signature", "server auth", "client auth"},
		"signer":      "example.com/serving",
		"lifetime":    "1h",
	})
}

// grantAll gives somebody rights in a namespace, "" is the cluster.
func grantAll(t *testing.T, ctx context.Context, w *world.World, namespace, name string, to rbacv1.Subject, rules ...rbacv1.PolicyRule) {
	t.Helper()
	meta := metav1.ObjectMeta{Name: name}
	_, err := w.Client.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{})
	must(t, err)
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name}
	if namespace == "" {
		_, err = w.Client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: []rbacv1.Subject{to}}, metav1.CreateOptions{})
	} else {
		_, err = w.Client.RbacV1().RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: ref, Subjects: []rbacv1.Subject{to}}, metav1.CreateOptions{})
	}
	must(t, err)
}

// meaning is what a request says, once it is parsed: two requests with the same
// meaning are the same, whatever their signatures.
func meaning(csr *certificatesv1.CertificateSigningRequest, goodPods []string) string {
	var out strings.Builder
	usages := slices.Sorted(slices.Values(csr.Spec.Usages))
	fmt.Fprintf(&out, "signer %q usages %q user %q uid %q", csr.Spec.SignerName, usages, csr.Spec.Username, csr.Spec.UID)
	if s := csr.Spec.ExpirationSeconds; s != nil {
		fmt.Fprintf(&out, " seconds %d", *s)
	}
	pods := []string(csr.Spec.Extra[podUID])
	if goodPods != nil {
		pods = goodPods
	}
	fmt.Fprintf(&out, " pods %q", pods)
	for rest := csr.Spec.Request; ; {
		var block *pem.Block
		next := rest
		if block, next = pem.Decode(rest); block == nil {
			fmt.Fprintf(&out, " rest %q", rest)
			return out.String()
		}
		before, _, _ := bytes.Cut(rest, []byte("-----BEGIN"))
		rest = next
		parsed, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			fmt.Fprintf(&out, " %q %q %v %x", before, block.Type, block.Headers, block.Bytes)
			continue
		}
		sum := sha256.Sum256(parsed.RawTBSCertificateRequest)
		fmt.Fprintf(&out, " %q %q %v tbs %s %v", before, block.Type, block.Headers, hex.EncodeToString(sum[:]), parsed.SignatureAlgorithm)
	}
}

// approvalStory is one world in which nearly every certificate is attacked.
type approvalStory struct {
	t       *testing.T
	ctx     context.Context
	w       *world.World
	way     *intruder
	attacks []*attack
	invalid []*mutant
	pods    [2]*world.Pod
	byHand  map[types.UID]bool // what was denied because pkiwarden said so
}

const (
	untouched = "untouched" // nobody gets in between
	noted     = "noted"     // somebody writes a note on the request between check and approval
	vetoed    = "vetoed"    // somebody denies the request between check and approval
	inherited = "inherited" // the leader is killed when its request has been made
)

func newApprovalStory(t *testing.T) *approvalStory {
	ctx, w := start(t, world.Options{Shape: world.Controller})
	s := &approvalStory{t: t, ctx: ctx, w: w, way: newIntruder(t, ctx, w), byHand: map[types.UID]bool{}}
	ourselves := rbacv1.Subject{Kind: "ServiceAccount", Name: "pkiwarden", Namespace: world.ControllerNamespace}
	// The right to approve for every signer: nothing but the policy is left.
	grantAll(t, ctx, w, "", "approves-everything", ourselves,
		rbacv1.PolicyRule{APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"signers"}, Verbs: []string{"approve"}})
	grantAll(t, ctx, w, "", "requests", rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: "Group", Name: "system:authenticated"},
		rbacv1.PolicyRule{APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"certificatesigningrequests"}, Verbs: []string{"create", "get"}})

	declared := []any{certificate(untouched, nil)}
	keeps := []string{untouched, noted, vetoed, inherited}
	all := mutants(map[string]identity{
		"tenant":   s.way.tenant(t, world.Namespace, "tenant", "tenant-0"),
		"namesake": s.way.tenant(t, world.Namespace, "pkiwarden", "tenant-1"),
		"intruder": s.way.tenant(t, world.ControllerNamespace, "pkiwarden", "intruder"),
		"podless":  s.way.tenant(t, world.ControllerNamespace, "pkiwarden", ""),
	})
	slices.SortStableFunc(all, func(a, b *mutant) int { return strings.Compare(b.longest(), a.longest()) })
	for _, m := range all {
		if m.invalid {
			s.invalid = append(s.invalid, m)
			continue
		}
		a := &attack{mutant: m}
		s.attacks = append(s.attacks, a)
		s.way.attacks[m.name] = a
		declared, keeps = append(declared, rich(m.name)), append(keeps, m.name)
	}
	declared = append(declared, certificate(noted, nil), certificate(vetoed, nil), certificate(inherited, nil))
	rule := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get", "update"}}
	for _, name := range keeps {
		rule.ResourceNames = append(rule.ResourceNames, name+"-tls", name+"-tls-next")
	}
	grantAll(t, ctx, w, world.Namespace, "keeps-all", ourselves, rule)

	root := clusterCA(t, w)
	startSigner(t, ctx, w, "example.com/serving", func(o *order) ([]byte, error) { return o.by(root) })
	for n := range s.pods {
		pod, err := w.NewPod(ctx, world.PodOptions{
			Name: fmt.Sprintf("pkiwarden-%d", n), Config: "controller/config.yaml",
			Namespace: world.ControllerNamespace, ServiceAccount: "pkiwarden",
			Set: map[string]any{"certificates": declared, "vault": nil, "kubernetes.qps": 2000, "kubernetes.burst": 4000},
		})
		must(t, err)
		s.way.through(t, pod)
		s.pods[n] = pod
	}
	s.way.genuine = genuineOf(t, ctx, w, s.pods[0].Identity)
	return s
}

// requests are all there are, by their UID and by the certificate that their
// label names.
func (s *approvalStory) requests() (map[types.UID]*certificatesv1.CertificateSigningRequest, map[string][]*certificatesv1.CertificateSigningRequest) {
	s.t.Helper()
	list, err := s.w.Client.CertificatesV1().CertificateSigningRequests().List(s.ctx, metav1.ListOptions{})
	must(s.t, err)
	byUID, byCertificate := map[types.UID]*certificatesv1.CertificateSigningRequest{}, map[string][]*certificatesv1.CertificateSigningRequest{}
	for n := range list.Items {
		csr := &list.Items[n]
		byUID[csr.UID] = csr
		byCertificate[certificateOf(csr.Labels)] = append(byCertificate[certificateOf(csr.Labels)], csr)
	}
	return byUID, byCertificate
}

// submitInvalid checks that the API server refuses by itself what it is said to,
// and nothing else: those are no proof of the policy.
func (s *approvalStory) submitInvalid() {
	_, byCertificate := s.requests()
	good := byCertificate[inherited][0] // its key is still pending
	for _, m := range s.invalid {
		f, err := s.way.forge(m, good)
		must(s.t, err)
		f.csr.Name = m.name
		if _, err := s.way.submit(f); !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err) && !apierrors.IsForbidden(err) {
			s.t.Errorf("%s: the API server says %v, want a refusal", m.name, err)
		}
	}
}

// TestApprovalOfMutants changes each field of a good request, one at a time, and
// has the API server take the result from whoever could: other accounts, our
// account in other pods, an administrator who says that he is us, somebody who
// changes our requests on their way, somebody who exchanges one that was checked
// already. None is approved; the good one always is, also by the next leader.
func TestApprovalOfMutants(t *testing.T) {
	s := newApprovalStory(t)
	ctx, w, way := s.ctx, s.w, s.way
	requests := w.Client.CertificatesV1().CertificateSigningRequests()
	way.meddle[noted] = func(checked *certificatesv1.CertificateSigningRequest) {
		checked = checked.DeepCopy()
		checked.Annotations = map[string]string{"note": "seen"}
		_, err := requests.Update(ctx, checked, metav1.UpdateOptions{})
		if err != nil {
			t.Errorf("writing a note on a request: %v", err)
		}
	}
	way.meddle[vetoed] = func(checked *certificatesv1.CertificateSigningRequest) {
		checked = checked.DeepCopy()
		checked.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateDenied, Status: "True", Reason: "Veto"}}
		if _, err := requests.UpdateApproval(ctx, checked.Name, checked, metav1.UpdateOptions{}); err != nil {
			t.Errorf("denying a request: %v", err)
		}
	}
	killed := make(chan struct{})
	way.after[inherited] = func() {
		if err := s.pods[0].Kill(); err != nil {
			t.Error(err)
		}
		close(killed)
	}
	must(t, s.pods[0].Start(ctx))
	eventually(t, ctx, 2*time.Minute, "the good request is approved and answered", secretExists(w, world.Namespace, untouched+"-tls"))
	must(t, s.pods[1].Start(ctx))
	eventually(t, ctx, 4*time.Minute, "the leader has met every forged request, and dies", func(context.Context) error {
		select {
		case <-killed:
			return nil
		default:
			return fmt.Errorf("the leader did not get to the last certificate:\n%s", s.pods[0].LogTail(3))
		}
	})
	s.submitInvalid()

	// The next leader approves what the dead one asked for, from another pod.
	eventually(t, ctx, 4*time.Minute, "the next leader approves the good request of the one before", secretExists(w, world.Namespace, inherited+"-tls"))
	made := way.finish(ctx)
	eventually(t, ctx, 4*time.Minute, "every forged request is denied, or a later good one of its certificate is approved", func(context.Context) error {
		byUID, byCertificate := s.requests()
		var missing []string
		for _, a := range made {
			if a.stored == nil {
				continue
			}
			forged := byUID[a.stored.UID]
			if forged == nil || approved(forged) {
				continue // judged below
			}
			if followed(forged, byCertificate[a.name]) {
				continue
			}
			if s.byHand[forged.UID] || condition(forged, certificatesv1.CertificateDenied) == nil {
				missing = append(missing, a.name)
			}
			if err := s.denyAsTold(forged); err != nil {
				return err
			}
		}
		if missing != nil {
			return fmt.Errorf("not so for %q", missing)
		}
		return nil
	})
	s.judge(made)
}

// followed tells whether a later request of the same certificate was approved.
func followed(forged *certificatesv1.CertificateSigningRequest, all []*certificatesv1.CertificateSigningRequest) bool {
	return slices.ContainsFunc(all, func(csr *certificatesv1.CertificateSigningRequest) bool {
		return csr.UID != forged.UID && approved(csr) && !csr.CreationTimestamp.Before(&forged.CreationTimestamp)
	})
}

// denyAsTold does what pkiwarden says is to be done about an open request of its
// own for a signer that it has no business with, which it may not deny itself.
func (s *approvalStory) denyAsTold(forged *certificatesv1.CertificateSigningRequest) error {
	if s.byHand[forged.UID] || !strings.Contains(s.pods[1].Log(), "is no longer wanted, but still open: kubectl certificate deny "+forged.Name) {
		return nil
	}
	s.byHand[forged.UID] = true
	_, err := s.w.Kubectl(s.ctx, "certificate", "deny", forged.Name)
	return err
}

// judge looks at every request that there is.
func (s *approvalStory) judge(made []*attack) {
	t := s.t
	byUID, byCertificate := s.requests()
	accepted, denied := 0, 0
	for _, a := range made {
		if a.err != nil {
			t.Errorf("%s: the forged request was not made: %v", a.name, a.err)
			continue
		}
		forged := byUID[a.stored.UID]
		if forged == nil {
			t.Errorf("%s: the forged request is gone", a.name)
			continue
		}
		accepted++
		a.good.Spec.Username, a.good.Spec.UID = s.way.genuine.user, s.way.genuine.uid
		if a.way != labelled && a.name != "another-name" && a.name != "swapped-for-the-same" && meaning(forged, nil) == meaning(a.good, s.way.genuine.pods) {
			t.Errorf("%s: the forged request says the same as the good one: %s", a.name, meaning(forged, nil))
		}
		if approved(forged) || len(forged.Status.Certificate) > 0 {
			t.Errorf("%s: approved: %+v", a.name, forged.Status.Conditions)
		}
		if d := condition(forged, certificatesv1.CertificateDenied); d != nil && !s.byHand[forged.UID] {
			denied++
			if !strings.HasPrefix(d.Message, "Denied by pkiwarden") {
				t.Errorf("%s: denied by somebody else: %s", a.name, d.Message)
			}
		}
	}
	t.Logf("%d forged requests: %d taken by the API server, %d of these denied by pkiwarden and %d on its advice, none approved; %d more refused by the API server itself", len(s.attacks), accepted, denied, len(s.byHand), len(s.invalid))
	if accepted < 60 || accepted != len(s.attacks) {
		t.Errorf("%d of %d forged requests were taken by the API server, want all, and at least 60", accepted, len(s.attacks))
	}

	if len(s.way.loose) > 0 {
		t.Errorf("decisions that do not say which version was checked: %q", s.way.loose)
	}
	if s.way.refused[noted] == 0 || s.way.refused[vetoed] == 0 {
		t.Errorf("an approval of a request that changed after it was checked got through: %v", s.way.refused)
	}
	for _, csr := range byCertificate[vetoed] {
		if condition(csr, certificatesv1.CertificateDenied) != nil && approved(csr) {
			t.Errorf("request %s is both approved and denied", csr.Name)
		}
	}
	// Those that were refused as invalid never came to be.
	if n := len(byCertificate[inherited]); n != 1 {
		t.Errorf("%d requests for the certificate whose leader died, want the one that it made", n)
	}
}
