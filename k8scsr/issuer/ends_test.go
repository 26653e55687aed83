package issuer

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// fate is what the world does to requests for as long as a simulation lasts. All
// of them are failures: no certificate ever comes that may be used.
type fate struct {
	name    string
	approve bool // by ourselves
	damage  bool // the record is lost at times
	// decide happens to an open request of some age; it may do nothing.
	decide func(*cluster, *certificatesv1.CertificateSigningRequest, time.Duration)
	rule   string // that has been found at the end, or while it waited
}

var fates = []fate{
	{"denied at once", false, true, func(c *cluster, csr *certificatesv1.CertificateSigningRequest, _ time.Duration) {
		c.decide(csr, certificatesv1.CertificateDenied, "no")
	}, k8scsr.RuleDenied},
	{"denied after a while", false, true, func(c *cluster, csr *certificatesv1.CertificateSigningRequest, age time.Duration) {
		if age > 7*time.Minute {
			c.decide(csr, certificatesv1.CertificateDenied, "no")
		}
	}, k8scsr.RuleDenied},
	{"failed", true, true, func(c *cluster, csr *certificatesv1.CertificateSigningRequest, _ time.Duration) {
		if has(csr, certificatesv1.CertificateApproved) {
			c.decide(csr, certificatesv1.CertificateFailed, "no CA")
		}
	}, k8scsr.RuleFailed},
	{"answered by another CA", true, false, func(c *cluster, csr *certificatesv1.CertificateSigningRequest, _ time.Duration) {
		own := c.ca
		c.ca = newAuthority(c.t)
		c.issue(csr)
		c.ca = own
	}, k8scsr.RuleRefused},
	{"answered with junk", true, false, func(c *cluster, csr *certificatesv1.CertificateSigningRequest, _ time.Duration) {
		answered := csr.DeepCopy()
		answered.Status.Certificate = []byte("junk")
		c.put(answered)
	}, k8scsr.RuleRefused},
	{"removed", false, false, func(c *cluster, csr *certificatesv1.CertificateSigningRequest, _ time.Duration) {
		// One that is removed before its UID is recorded is made again, as the
		// same one: nobody could tell that it had been there.
		if !strings.Contains(c.objects["secrets/vault/vault-tls-next"].(*corev1.Secret).Annotations[AnnotationRecord], string(csr.UID)) {
			return
		}
		delete(c.objects, "certificatesigningrequests//"+csr.Name)
	}, k8scsr.RuleCollected},
	{"never approved", false, false, func(*cluster, *certificatesv1.CertificateSigningRequest, time.Duration) {}, k8scsr.RuleNeverApproved},
	{"never signed", true, false, func(*cluster, *certificatesv1.CertificateSigningRequest, time.Duration) {}, k8scsr.RuleNeverSigned},
}

// TestEveryEndOverDays lets requests end in every way but well for simulated
// days, while processes are killed at any write, leaders change, records are
// damaged and calls fail. The fake checks after each write that at most one
// request is open, that no key is used twice and that the live pair stays good.
// Here: never more than six requests within an hour, and attempts never end.
func TestEveryEndOverDays(t *testing.T) {
	seeds, length := 1, 30*time.Hour
	if testing.Short() {
		length = 4 * time.Hour
	}
	for _, f := range fates {
		for seed := range seeds {
			t.Run(fmt.Sprintf("%s/%d", strings.ReplaceAll(f.name, " ", "_"), seed), func(t *testing.T) {
				t.Parallel()
				f.simulate(t, rand.New(rand.NewPCG(uint64(seed), 5)), length)
			})
		}
	}
}

func (f fate) simulate(t *testing.T, chance *rand.Rand, length time.Duration) {
	c := newCluster(t)
	c.process("pod-0").issuer(vaultTLS()).once(t) // a good pair, which is due after 16 h
	c.sign = nil
	begin := c.now.Add(16*time.Hour + 50*time.Minute)
	c.now = begin
	for _, csr := range c.csrs() { // answered, and gone after an hour
		delete(c.objects, "certificatesigningrequests//"+csr.Name)
	}

	var made []time.Time
	known := map[string]bool{}
	rules := map[string]bool{}
	p := c.process("pod-0")
	edit := func(cert *Certificate) { cert.Spec.Approve = f.approve }
	s := p.issuer(vaultTLS(edit))
	for c.now.Before(begin.Add(length)) {
		if chance.IntN(20) == 0 { // a restart, often as another pod, which is killed at some write
			p = c.process(fmt.Sprintf("pod-%d", chance.IntN(3)))
			if p.killAfter, p.losesLast = -1, chance.IntN(2) == 0; chance.IntN(2) == 0 {
				p.killAfter = 1 + chance.IntN(6)
			}
			s = p.issuer(vaultTLS(edit))
		}
		next, err := s.OnceUntil(context.Background())
		if err != nil && p.killAfter == 0 {
			p = c.process("pod-0")
			s, next = p.issuer(vaultTLS(edit)), c.now.Add(time.Duration(chance.IntN(30))*time.Second)
		} else if err != nil && len(c.denied) == 0 {
			t.Fatalf("at %v: %v", c.now, err)
		}
		for _, found := range s.findings {
			rules[found.Rule] = true
		}
		for _, csr := range c.csrs() {
			if !known[csr.Name] {
				known[csr.Name] = true
				made = append(made, csr.CreationTimestamp.Time)
			}
			age := c.now.Sub(csr.CreationTimestamp.Time)
			if ended := len(csr.Status.Certificate) > 0 || has(csr, certificatesv1.CertificateDenied) || has(csr, certificatesv1.CertificateFailed); ended {
				if age > time.Hour {
					delete(c.objects, "certificatesigningrequests//"+csr.Name)
				}
			} else if age > 24*time.Hour {
				delete(c.objects, "certificatesigningrequests//"+csr.Name)
			} else {
				f.decide(c, csr, age)
			}
		}
		if f.damage && chance.IntN(50) == 0 {
			record := c.objects["secrets/vault/vault-tls-next"].(*corev1.Secret).DeepCopy()
			record.Annotations[AnnotationRecord] = "{"
			c.put(record)
		}
		clear(c.denied)
		if chance.IntN(30) == 0 {
			c.denied["get secrets"] = true
		}
		if !next.After(c.now) {
			next = c.now.Add(time.Second)
		}
		c.now = next
	}
	for n := range made {
		if n >= 6 && made[n].Sub(made[n-6]) < time.Hour {
			t.Fatalf("seven requests within %v: %v", made[n].Sub(made[n-6]), made[n-6:n+1])
		}
	}
	if len(made) == 0 || c.now.Sub(made[len(made)-1]) > 25*time.Hour {
		t.Errorf("%d requests, the last %v", len(made), made)
	}
	if !rules[f.rule] {
		t.Errorf("found %v, never %s", rules, f.rule)
	}
	t.Logf("%d requests in %v", len(made), length)
}
