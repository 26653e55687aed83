package issuer

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// TestCrashes stops the process after each of its writes, once with and once
// without the answer of the last, and lets another pod go on.
func TestCrashes(t *testing.T) {
	for _, renewal := range []bool{false, true} {
		for after := 1; ; after++ {
			finished := false
			for _, loses := range []bool{false, true} {
				t.Run(fmt.Sprintf("renewal=%v/after=%d/loses=%v", renewal, after, loses), func(t *testing.T) {
					c := newCluster(t)
					if renewal {
						c.process("pod-0").issuer(vaultTLS()).once(t)
						c.now = c.now.Add(17 * time.Hour)
					}
					before := c.leaf()
					dying := c.process("pod-a")
					dying.killAfter, dying.losesLast = after, loses
					_, err := dying.issuer(vaultTLS()).Once(context.Background())
					finished = err == nil
					c.now = c.now.Add(20 * time.Second)

					s := c.process("pod-b").issuer(vaultTLS())
					s.once(t)
					leaf := c.leaf()
					if leaf == nil || before != nil && leaf.Equal(before) {
						t.Fatalf("did not converge: %q", c.writes)
					}
					if len(s.findings) != 0 {
						t.Errorf("findings: %+v", s.findings)
					}
					if want := map[bool]int{false: 1, true: 2}[renewal]; len(c.csrs()) != want {
						t.Errorf("%d requests, want %d: %q", len(c.csrs()), want, c.writes)
					}
				})
			}
			if finished {
				if after != 6 {
					t.Errorf("a whole issuance takes %d writes", after-1)
				}
				break
			}
		}
	}
}

// TestCrashesInTurn kills every process after one write, and moves to another
// pod every other time.
func TestCrashesInTurn(t *testing.T) {
	c := newCluster(t)
	for n := range 40 {
		p := c.process(fmt.Sprintf("pod-%d", n/2))
		p.killAfter, p.losesLast = 1, n%3 == 0
		if _, err := p.issuer(vaultTLS()).Once(context.Background()); err == nil {
			break
		}
		c.now = c.now.Add(time.Second)
	}
	if c.leaf() == nil || len(c.csrs()) != 1 {
		t.Fatalf("leaf %v, %d requests: %q", c.leaf(), len(c.csrs()), c.writes)
	}
}

// TestSplitBrain lets a second instance act in full just before each write of
// the first, which still believes to lead.
func TestSplitBrain(t *testing.T) {
	for before := range 5 {
		c := newCluster(t)
		first := c.process("pod-a")
		first.killAfter = before
		if before > 0 {
			if _, err := first.issuer(vaultTLS()).Once(context.Background()); err == nil {
				t.Fatal("the first instance finished")
			}
		}
		// The first instance observed; the second acts; the first writes.
		slow := c.process("pod-a").issuer(vaultTLS())
		cert := slow.certificate(0)
		o, err := slow.observe(context.Background(), cert, nil, c.now)
		if err != nil {
			t.Fatal(err)
		}
		step := k8scsr.Next(o.State, cert.Spec, c.now)
		c.process("pod-b").issuer(vaultTLS()).once(t)
		done, requests := len(c.writes), len(c.csrs())
		err = slow.perform(context.Background(), cert, o, step, c.now)
		if err == nil || !changedMeanwhile(err) || len(c.writes) != done || len(c.csrs()) != requests {
			t.Errorf("after %d writes, stale %s: %v, writes %q", before, step.Kind, err, c.writes[done:])
		}
	}
}

// TestLeadersCross: the old leader makes the request at the moment at which the
// new one prepares to make it. Either may go on with it.
func TestLeadersCross(t *testing.T) {
	c := newCluster(t)
	old := c.process("pod-a")
	old.killAfter = 1
	if _, err := old.issuer(vaultTLS()).Once(context.Background()); err == nil {
		t.Fatal("the old leader finished")
	}
	slow := c.process("pod-a").issuer(vaultTLS())
	o, err := slow.observe(context.Background(), slow.certificate(0), nil, c.now)
	if err != nil {
		t.Fatal(err)
	}
	step := k8scsr.Next(o.State, slow.certificate(0).Spec, c.now)

	preparing := c.process("pod-b")
	preparing.killAfter = 1
	if _, err := preparing.issuer(vaultTLS()).Once(context.Background()); err == nil {
		t.Fatal("the new leader finished")
	}
	if err := slow.perform(context.Background(), slow.certificate(0), o, step, c.now); err != nil {
		t.Fatal(err)
	}
	s := c.process("pod-b").issuer(vaultTLS())
	s.once(t)
	if c.leaf() == nil || len(c.csrs()) != 1 || has(c.csrs()[0], certificatesv1.CertificateDenied) {
		t.Errorf("leaf %v: %q\n%s", c.leaf(), c.writes, &s.log)
	}
}

// TestAttemptBeginsWhileObserving lets another instance begin, or finish, an
// attempt between two reads of an observation. It is neither denied nor doubled.
func TestAttemptBeginsWhileObserving(t *testing.T) {
	for _, call := range []string{"get secrets vault-tls", "get secrets vault-tls-next", "get configmaps ca", "create selfsubjectreviews", "list certificatesigningrequests", "create secrets"} {
		for writes := -1; writes <= 5; writes++ {
			t.Run(fmt.Sprintf("%s/%d", strings.ReplaceAll(call, " ", "_"), writes), func(t *testing.T) {
				c := newCluster(t)
				c.before[call] = func() {
					other := c.process("pod-b")
					other.killAfter = writes
					other.issuer(vaultTLS()).Once(context.Background())
				}
				s := c.process("pod-a").issuer(vaultTLS())
				s.once(t)
				if c.leaf() == nil || len(c.csrs()) != 1 || has(c.csrs()[0], certificatesv1.CertificateDenied) {
					t.Errorf("leaf %v: %q\n%s", c.leaf(), c.writes, &s.log)
				}
				if writes < 0 && len(c.writes) != 5 {
					t.Errorf("needless writes: %q", c.writes)
				}
			})
		}
	}
}

func TestWaitsForSomebodysApproval(t *testing.T) {
	c := newCluster(t)
	s := c.process("pod-a").issuer(vaultTLS(func(c *Certificate) { c.Spec.Approve = false }))
	next := s.once(t)
	if got := next.Sub(c.now); got != 2*time.Second {
		t.Errorf("looks again after %v", got)
	}
	for range 30 {
		s.once(t)
	}
	csr := c.csrs()[0]
	if n := strings.Count(s.log.String(), "kubectl certificate approve "+csr.Name); n != 1 {
		t.Errorf("the remedy is logged %d times:\n%s", n, &s.log)
	}
	if s.rules() != k8scsr.RuleMissing {
		t.Errorf("findings: %s", s.rules())
	}
	c.now = c.now.Add(15 * time.Minute)
	s.once(t)
	if s.rules() != k8scsr.RuleMissing+" "+k8scsr.RuleNeverApproved {
		t.Errorf("findings after a quarter of an hour: %s", s.rules())
	}
	c.decide(csr, certificatesv1.CertificateApproved, "by hand")
	c.issue(c.csrs()[0])
	s.once(t)
	if c.leaf() == nil || len(s.findings) != 0 || len(c.csrs()) != 1 {
		t.Errorf("leaf %v, findings %s", c.leaf(), s.rules())
	}
}

func TestNobodySigns(t *testing.T) {
	c := newCluster(t)
	c.sign = nil
	typo := vaultTLS(func(c *Certificate) { c.Spec.Signer = "ca.example/typo" })
	s := c.process("pod-a").issuer(typo)
	s.once(t)
	c.now = c.now.Add(15 * time.Minute)
	s.once(t)
	if s.rules() != k8scsr.RuleMissing+" "+k8scsr.RuleNeverSigned || !strings.Contains(s.findings[1].Summary, "signer ca.example/typo") {
		t.Errorf("findings: %+v", s.findings)
	}
	// The configuration is corrected: what nobody signs does not hold it up.
	c.sign, c.now = c.issue, c.now.Add(time.Second)
	c.mayOpen++ // an approved request cannot be closed, only left alone
	s = c.process("pod-b").issuer(vaultTLS())
	s.once(t)
	if c.leaf() == nil {
		t.Errorf("not issued: %q, %s", c.writes, s.rules())
	}
}

func TestDeniedFailedRefusedCollected(t *testing.T) {
	cases := map[string]struct {
		happens func(*cluster, *certificatesv1.CertificateSigningRequest)
		rule    string
		says    string
		result  string
	}{
		"denied": {func(c *cluster, csr *certificatesv1.CertificateSigningRequest) {
			c.decide(csr, certificatesv1.CertificateDenied, "not on my watch")
		}, k8scsr.RuleDenied, "was denied: Test: not on my watch", "denied"},
		"failed": {func(c *cluster, csr *certificatesv1.CertificateSigningRequest) {
			c.decide(csr, certificatesv1.CertificateFailed, "no CA")
		}, k8scsr.RuleFailed, "failed to answer request", "failed"},
		"refused": {func(c *cluster, csr *certificatesv1.CertificateSigningRequest) {
			c.ca = newAuthority(c.t)
			c.issue(csr)
		}, k8scsr.RuleRefused, "the trust bundle does not vouch for it", "refused"},
		"collected": {func(c *cluster, csr *certificatesv1.CertificateSigningRequest) {
			delete(c.objects, "certificatesigningrequests//"+csr.Name)
		}, k8scsr.RuleCollected, "was removed before it was answered", "expired"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			s := c.process("pod-a").issuer(vaultTLS(func(c *Certificate) { c.Spec.Approve = false }))
			s.once(t)
			tc.happens(c, c.csrs()[0])
			next := s.once(t)
			if got := next.Sub(c.now); got != time.Minute {
				t.Errorf("looks again after %v", got)
			}
			if s.rules() != k8scsr.RuleMissing+" "+tc.rule && s.rules() != tc.rule+" "+k8scsr.RuleMissing {
				t.Fatalf("findings: %s", s.rules())
			}
			if all := fmt.Sprint(s.findings); !strings.Contains(all, tc.says) {
				t.Errorf("%s\nlacks %q", all, tc.says)
			}
			if n := s.gather(t)["pkiwarden_csr_requests_total "+tc.result]; n != 1 {
				t.Errorf("%v counted as %s", n, tc.result)
			}
			if len(c.keysUsed) != 1 {
				t.Errorf("%d requests at once", len(c.keysUsed))
			}
			// A restart does not forget the back-off.
			s = c.process("pod-b").issuer(vaultTLS())
			s.once(t)
			if len(c.keysUsed) != 1 {
				t.Errorf("%d requests after a restart", len(c.keysUsed))
			}
			c.now = c.now.Add(time.Minute)
			s.once(t)
			if len(c.keysUsed) != 2 {
				t.Errorf("%d requests after a minute", len(c.keysUsed))
			}
		})
	}
}

func TestPermissionsAndNamespace(t *testing.T) {
	cases := map[string]struct {
		denied  string
		missing bool
		rule    string
		says    string
	}{
		"get secret":                   {"get secrets", false, k8scsr.RulePermission, `permission denied: needs verb "get" on secrets in namespace "vault" with name "vault-tls-next"`},
		"create":                       {"create secrets", false, k8scsr.RulePermission, `permission denied: needs verb "create" on secrets in namespace "vault" with name "vault-tls-next"`},
		"request":                      {"create certificatesigningrequests", false, k8scsr.RulePermission, `permission denied: needs verb "create" on certificatesigningrequests`},
		"approve":                      {"update certificatesigningrequests/approval", false, k8scsr.RulePermission, `needs verb "update" on certificatesigningrequests/approval`},
		"list":                         {"list certificatesigningrequests", false, k8scsr.RulePermission, `needs verb "list" on certificatesigningrequests`},
		"trust":                        {"get configmaps", false, k8scsr.RulePermission, `needs verb "get" on configmaps in namespace "vault" with name "ca"`},
		"signer":                       {"approve signers", false, k8scsr.RulePermission, `needs verb "approve" on signers.certificates.k8s.io with name "kubernetes.io/kubelet-serving"`},
		"no namespace":                 {"", true, k8scsr.RuleNamespace, `namespace "vault" does not exist: create it`},
		"no namespace, rights by Role": {"get secrets", true, k8scsr.RuleNamespace, `namespace "vault" does not exist: create it`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			c.denied[tc.denied] = true
			c.missing["vault"] = tc.missing
			s := c.process("pod-a").issuer(vaultTLS())
			_, err := s.Once(context.Background())
			if err == nil || !strings.Contains(err.Error(), tc.says) || !strings.HasPrefix(err.Error(), `certificate "vault-server": `) {
				t.Fatalf("%v\nlacks %s", err, tc.says)
			}
			var found *k8scsr.Finding
			for n := range s.findings {
				if s.findings[n].Rule == tc.rule {
					found = &s.findings[n]
				}
			}
			if found == nil || found.Severity != k8scsr.Critical || found.Remedy == "" {
				t.Fatalf("findings: %+v", s.findings)
			}
			// The cause is removed: it goes on.
			clear(c.denied)
			clear(c.missing)
			s.once(t)
			if c.leaf() == nil || len(c.csrs()) != 1 || len(s.findings) != 0 {
				t.Errorf("leaf %v, %d requests, findings %s", c.leaf(), len(c.csrs()), s.rules())
			}
		})
	}
}

// TestUnreachable: what cannot be seen is unknown, what was seen stays in the
// metrics, and the other certificates go on.
func TestUnreachable(t *testing.T) {
	c := newCluster(t)
	p := c.process("pod-a")
	s := p.issuer(vaultTLS())
	s.once(t)
	p.killAfter = 0
	_, err := s.Once(context.Background())
	if err == nil || s.rules() != k8scsr.RuleUnknown || s.findings[0].Severity != k8scsr.Unknown {
		t.Fatalf("%v, findings %+v", err, s.findings)
	}
	if s.gather(t)["pkiwarden_certificate_not_after_timestamp_seconds vault-server"] == 0 {
		t.Error("the last known end of validity is gone")
	}
	for _, tc := range []struct {
		err  error
		want bool
	}{{&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}, true}, {context.DeadlineExceeded, true}, {errKilled, false}} {
		if got := unreachable(&callError{err: tc.err}); got != tc.want {
			t.Errorf("%v: unreachable %v", tc.err, got)
		}
	}
}

func TestOneFailingDoesNotStopTheOthers(t *testing.T) {
	c := newCluster(t)
	c.missing["gone"] = true
	bad := vaultTLS(func(c *Certificate) {
		c.Spec.Name, c.Namespace, c.Trust.ConfigMap.Namespace = "bad", "gone", "vault"
	})
	worse := vaultTLS(func(c *Certificate) {
		c.Spec.Name, c.Namespace, c.Secret, c.Trust.ConfigMap.Namespace = "worse", "gone", "x", "vault"
	})
	s := c.process("pod-a").issuer(bad, vaultTLS(), worse)
	_, err := s.Once(context.Background())
	if err == nil || strings.Count(err.Error(), `namespace "gone" does not exist`) != 2 {
		t.Errorf("%v", err)
	}
	if c.leaf() == nil {
		t.Error("the good one was not issued")
	}
}

// TestForgedRequests: somebody with the right to create requests copies ours.
// His are neither approved nor denied nor counted.
func TestForgedRequests(t *testing.T) {
	c := newCluster(t)
	s := c.process("pod-a").issuer(vaultTLS(func(c *Certificate) { c.Spec.Approve = false }))
	s.once(t)
	for n := range 10 {
		forged := c.csrs()[0].DeepCopy()
		forged.Name, forged.Spec.Username = fmt.Sprintf("forged-%d", n), "mallory"
		c.put(forged)
	}
	for name, obj := range c.objects {
		if csr, ok := obj.(*certificatesv1.CertificateSigningRequest); ok && csr.Spec.Username != "mallory" {
			delete(c.objects, name)
		}
	}
	c.mayOpen += 10 // the forged ones
	s = c.process("pod-a").issuer(vaultTLS())
	s.once(t)
	c.now = c.now.Add(time.Minute)
	s.once(t)
	for _, csr := range c.csrs() {
		if csr.Spec.Username == "mallory" && len(csr.Status.Conditions) > 0 {
			t.Errorf("%s was decided: %+v", csr.Name, csr.Status.Conditions)
		}
	}
	if c.leaf() == nil {
		t.Errorf("not issued: %q", c.writes)
	}
}

func TestDamagedRecordHeals(t *testing.T) {
	for name, damage := range map[string]func(*corev1.Secret){
		"record":        func(s *corev1.Secret) { s.Annotations[AnnotationRecord] = "{" },
		"other version": func(s *corev1.Secret) { s.Annotations[AnnotationRecord] = `{"version":99}` },
		"record gone":   func(s *corev1.Secret) { delete(s.Annotations, AnnotationRecord) },
		"key":           func(s *corev1.Secret) { s.Data[nextKey] = []byte("junk") },
		"key gone":      func(s *corev1.Secret) { s.Data = nil },
	} {
		c := newCluster(t)
		c.process("pod-a").issuer(vaultTLS(func(c *Certificate) { c.Spec.Approve = false })).once(t)
		next := c.objects["secrets/vault/vault-tls-next"].(*corev1.Secret).DeepCopy()
		damage(next)
		c.put(next)
		s := c.process("pod-a").issuer(vaultTLS())
		s.once(t)
		if c.leaf() == nil {
			t.Errorf("%s: not issued: %q\n%s", name, c.writes, &s.log)
		}
	}
}

// TestRequestIsSwapped: our request is taken away between its check and its
// approval, and another one of the same name and content is in its place. It is
// not the one that was made, so it is not approved.
func TestRequestIsSwapped(t *testing.T) {
	c := newCluster(t)
	var swapped *certificatesv1.CertificateSigningRequest
	c.before["update certificatesigningrequests/approval"] = func() {
		swapped = c.csrs()[0].DeepCopy()
		delete(c.objects, "certificatesigningrequests//"+swapped.Name)
		c.put(swapped)
	}
	s := c.process("pod-a").issuer(vaultTLS())
	s.once(t)
	if swapped == nil {
		t.Fatal("nothing was approved")
	}
	now := c.objects["certificatesigningrequests//"+swapped.Name].(*certificatesv1.CertificateSigningRequest)
	if now.UID != swapped.UID || has(now, certificatesv1.CertificateApproved) || c.leaf() != nil {
		t.Errorf("approved: %v\n%s", now.Status.Conditions, &s.log)
	}
	if !strings.Contains(s.log.String(), "was replaced by another one of the same name") {
		t.Errorf("the log does not say so:\n%s", &s.log)
	}
}
