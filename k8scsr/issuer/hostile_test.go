package issuer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// poison writes another record beside the pending key of vault-tls.
func (c *cluster) poison(edit func(record string) string) {
	c.t.Helper()
	next := c.objects["secrets/vault/vault-tls-next"].(*corev1.Secret).DeepCopy()
	was := next.Annotations[AnnotationRecord]
	next.Annotations[AnnotationRecord] = edit(was)
	if next.Annotations[AnnotationRecord] == was {
		c.t.Fatalf("the record is as it was: %s", was)
	}
	c.put(next)
}

// TestPoisonedRecords: whatever stands in a record, the attempt is given up, and
// the certificate comes.
func TestPoisonedRecords(t *testing.T) {
	set := func(field, value string) func(string) string {
		return func(record string) string { return `{"` + field + `":` + value + `,` + record[1:] }
	}
	name := func(name string) func(string) string {
		return func(record string) string {
			const field = `"csrName":"`
			from := strings.Index(record, field) + len(field)
			return record[:from] + name + record[from+strings.Index(record[from:], `"`):]
		}
	}
	for what, edit := range map[string]func(string) string{
		"failures below zero":  set("failures", "-1"),
		"failures beyond all":  set("failures", "9223372036854775807"),
		"far in the future":    set("retryAt", `"9000-01-01T00:00:00Z"`),
		"replace is no digest": set("replace", `"latest"`),
		"too many pods":        func(r string) string { return strings.Replace(r, `["pod-a"]`, `["`+strings.Repeat(`x","`, 20)+`"]`, 1) },
		"name in upper case":   name("pkiwarden-UPPER CASE%"),
		"name with a slash":    name("pkiwarden-a/b"),
		"name too long":        name("pkiwarden-" + strings.Repeat("a", 300)),
		"name not ours":        name("kube-apiserver"),
		"no name":              name(""),
	} {
		t.Run(strings.ReplaceAll(what, " ", "_"), func(t *testing.T) {
			c := newCluster(t)
			p := c.process("pod-a")
			p.killAfter = 1 // the key is stored, and its request not yet made
			if _, err := p.issuer(vaultTLS()).Once(t.Context()); !errors.Is(err, errKilled) {
				t.Fatal(err)
			}
			c.poison(edit)
			s := c.process("pod-a").issuer(vaultTLS())
			s.once(t)
			if c.leaf() == nil || !strings.Contains(s.log.String(), "the stored next key is unusable: its record") {
				t.Errorf("certificate: %t; log:\n%s", c.leaf() != nil, &s.log)
			}
		})
	}
}

// TestPanicsStayWithinOneCertificate: the others are looked at, and the one is
// told and looked at again at its own pace.
func TestPanicsStayWithinOneCertificate(t *testing.T) {
	c := newCluster(t)
	c.mayOpen = 3
	cs := c.process("pod-a").client()
	faulty := true
	reads := failing(cs, "server-0-tls", func() error {
		if faulty {
			panic("negative shift amount")
		}
		return nil
	})
	s := c.issuerOn(cs, nil, numbered(0), numbered(1), numbered(2))
	var log bytes.Buffer
	s.Issuer.log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	next, err := s.OnceUntil(t.Context())
	if err == nil || !strings.Contains(err.Error(), `certificate "server-0": a fault of pkiwarden itself: panic: negative shift amount`) || strings.Contains(err.Error(), "server-1") {
		t.Fatalf("error %v", err)
	}
	for n, want := range []bool{false, true, true} {
		if _, is := c.objects[fmt.Sprintf("secrets/vault/server-%d-tls", n)]; is != want {
			t.Errorf("server-%d has a certificate: %t", n, is)
		}
	}
	if s.rules() != k8scsr.RuleUnknown || s.findings[0].Severity != k8scsr.Unknown || s.findings[0].Remedy == "" {
		t.Errorf("findings %+v", s.findings)
	}
	if pause := next.Sub(c.now); pause != time.Second {
		t.Errorf("looks again after %v, want 1 s", pause)
	}
	if !strings.Contains(log.String(), "level=DEBUG") || !strings.Contains(log.String(), "hostile_test.go") {
		t.Errorf("the stack is not in the log:\n%s", &log)
	}
	before := *reads
	if s.OnceUntil(t.Context()); *reads != before {
		t.Error("it was looked at again before its time")
	}
	faulty, c.now = false, next
	if _, err := s.OnceUntil(t.Context()); err != nil || len(s.findings) != 0 {
		t.Errorf("after it was mended: %v, %s", err, s.rules())
	}
}

// forged is a request that somebody else made with our label.
func forged(n, octets int) *certificatesv1.CertificateSigningRequest {
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("aaa-%05d", n), Labels: map[string]string{LabelCertificate: "vault_vault-tls"}},
		Spec:       certificatesv1.CertificateSigningRequestSpec{Username: "mallory", SignerName: "x/y", Request: bytes.Repeat([]byte("x"), octets)},
	}
}

// paged makes the cluster's answers to lists pages, each of which the client
// refuses above 4 MiB, or 10 MiB for a single object.
func (c *cluster) paged(p *process) (client *fakeClient) {
	client = &fakeClient{Clientset: p.client()}
	client.PrependReactor("list", "certificatesigningrequests", func(a clienttesting.Action) (bool, runtime.Object, error) {
		o := a.(clienttesting.ListActionImpl).ListOptions
		if o.Limit < 1 || o.Limit > 500 {
			c.t.Fatalf("a list without a limit: %+v", o)
		}
		client.lists++
		if client.expire > 0 && o.Continue != "" {
			client.expire--
			return true, nil, apierrors.NewResourceExpired("the provided continue parameter is too old")
		}
		if o.Continue == "" {
			client.all = c.list(a.(clienttesting.ListActionImpl).ListRestrictions.Labels).Items
		}
		all := client.all
		slices.SortFunc(all, func(a, b certificatesv1.CertificateSigningRequest) int { return strings.Compare(a.Name, b.Name) })
		from := 0
		for from < len(all) && all[from].Name < o.Continue {
			from++
		}
		end := min(len(all), from+int(o.Limit))
		out := &certificatesv1.CertificateSigningRequestList{Items: all[from:end]}
		if end < len(all) {
			out.Continue = all[end].Name
		}
		size, most := 0, 4<<20
		if o.Limit == 1 {
			most = 10 << 20
		}
		for _, csr := range out.Items {
			size += len(csr.Spec.Request) * 4 / 3
		}
		client.largest = max(client.largest, min(size, most))
		if size > most {
			return true, nil, fmt.Errorf("reading: %w", &http.MaxBytesError{Limit: int64(most)})
		}
		return true, out, nil
	})
	return client
}

type fakeClient struct {
	*fake.Clientset
	lists, expire, largest int
	all                    []certificatesv1.CertificateSigningRequest // as they were when the list began
}

// TestForgedRequestsHideNothing: however many there are, and however large, our own open
// one is seen behind them, and no second one is made.
func TestForgedRequestsHideNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		small, large, expire int
		most                 int // lists
	}{
		"none":            {0, 0, 0, 1},
		"600 small":       {600, 0, 0, 14},
		"40 large":        {0, 40, 0, 25},
		"small and large": {300, 40, 0, 40},
		"list expires":    {100, 0, 2, 10},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			c := newCluster(t)
			c.mayOpen = 1000
			// Our own request is open, and its record lost.
			c.process("pod-a").issuer(vaultTLS(func(c *Certificate) { c.Spec.Approve = false })).once(t)
			delete(c.objects, "secrets/vault/vault-tls-next")
			for n := range tc.small {
				c.put(forged(n, 500))
			}
			for n := range tc.large {
				c.put(forged(10_000+n, 1<<20))
			}
			cs := c.paged(c.process("pod-a"))
			cs.expire = tc.expire
			writes := len(c.writes)
			s := c.issuerOn(cs.Clientset, nil, vaultTLS(func(c *Certificate) { c.Spec.Approve = false }))
			s.once(t)
			if len(c.writes) != writes || !strings.Contains(s.log.String(), "is no longer wanted, but still open: kubectl certificate deny pkiwarden-vault-tls-") {
				t.Errorf("writes %q; log:\n%s", c.writes[writes:], &s.log)
			}
			if most := 4 << 20; cs.largest > most {
				t.Errorf("read %d octets of one answer", cs.largest)
			}
			if cs.lists > tc.most {
				t.Errorf("%d lists, want %d at most", cs.lists, tc.most)
			}
		})
	}
}

// TestRequestsAreCountedOnce: also where the list had to be begun again.
func TestRequestsAreCountedOnce(t *testing.T) {
	c := newCluster(t)
	c.mayOpen = 1000
	for n := range 100 {
		csr := forged(n, 1)
		csr.Spec.Username, csr.Spec.UID = "system:serviceaccount:vault:pkiwarden", "sa-uid"
		c.put(csr)
	}
	for _, expire := range []int{0, 3} {
		cs := c.paged(c.process("pod-a"))
		cs.expire = expire
		s := c.issuerOn(cs.Clientset, nil, vaultTLS())
		listed, err := s.listRequests(t.Context(), k8scsr.Identity{Username: "system:serviceaccount:vault:pkiwarden", UID: "sa-uid"})
		if err != nil || len(listed) != 1 || len(listed["x/y"]) != 100 {
			t.Errorf("%d of 100 are counted, %v", len(listed["x/y"]), err)
		}
	}
	cs := c.paged(c.process("pod-a"))
	cs.expire = 4
	if _, err := c.issuerOn(cs.Clientset, nil, vaultTLS()).listRequests(t.Context(), k8scsr.Identity{Username: "x"}); !apierrors.IsResourceExpired(err) {
		t.Errorf("a list that always expires: %v", err)
	}
}

// TestFloodOfRequests: where our own cannot be seen among them, nothing is asked
// for, and it is told what to do.
func TestFloodOfRequests(t *testing.T) {
	for name, with := range map[string]State{"one certificate's": nil, "all, to count them": &kept{}} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			c := newCluster(t)
			for n := range 11_000 {
				csr := forged(n, 1)
				if with != nil {
					csr.Labels[LabelCertificate] = "other"
				}
				c.objects["certificatesigningrequests//"+csr.Name] = csr
			}
			cs := c.paged(c.process("pod-a"))
			s := c.issuerOn(cs.Clientset, func(o *Options) { o.State = with }, vaultTLS())
			_, err := s.Once(context.Background())
			if err == nil || len(c.writes) != 0 || s.rules() != k8scsr.RuleUnknown {
				t.Fatalf("error %v, writes %q, findings %s", err, c.writes, s.rules())
			}
			if f := s.findings[0]; !strings.Contains(f.Summary, "too many certificate signing requests with label pkiwarden.io/certificate") || !strings.Contains(f.Remedy, "kubectl delete csr") {
				t.Errorf("%+v", f)
			}
		})
	}
}

// TestLongDenials: what an approver says is bounded wherever it is kept or said.
func TestLongDenials(t *testing.T) {
	c := newCluster(t)
	s := c.process("pod-a").issuer(vaultTLS(func(c *Certificate) { c.Spec.Approve = false }))
	s.once(t)
	c.decide(c.csrs()[0], certificatesv1.CertificateDenied, "no\x1b[2J\u202e\a"+strings.Repeat("x", 400_000))
	s.once(t)
	record := c.objects["secrets/vault/vault-tls-next"].(*corev1.Secret).Annotations[AnnotationRecord]
	if len(record) > 4096 || !strings.Contains(record, "Test: no?[2J??xxx") {
		t.Errorf("the record has %d octets: %.300s", len(record), record)
	}
	for what, text := range map[string]string{"finding": s.findings[len(s.findings)-1].Summary + s.findings[0].Summary, "event": s.events.queue[0].event.Message, "log": s.log.String()} {
		if strings.ContainsAny(text, "\x1b\a\u202e") || len(text) > 8192 {
			t.Errorf("%s has %d octets: %.300q", what, len(text), text)
		}
	}
	c.now = c.now.Add(time.Minute)
	s.once(t)
	if len(c.csrs()) != 2 {
		t.Errorf("%d requests, want another one after a minute", len(c.csrs()))
	}
}

// TestIssuedAtYetToCome: who moves the time of issue does not move the renewal.
func TestIssuedAtYetToCome(t *testing.T) {
	c := newCluster(t)
	s := c.process("pod-a").issuer(vaultTLS())
	s.once(t)
	first := c.leaf()
	live := c.objects["secrets/vault/vault-tls"].(*corev1.Secret).DeepCopy()
	live.Annotations[AnnotationIssuedAt] = first.NotAfter.Add(-time.Minute).Format(time.RFC3339)
	c.put(live)
	c.now = c.now.Add(18 * time.Hour)
	s.once(t)
	if c.leaf().Equal(first) {
		t.Errorf("it is not renewed after 18 of its 24 hours; log:\n%s", &s.log)
	}
}

// TestSecretsThatAreTooFull: the error names the Secret, and what to do.
func TestSecretsThatAreTooFull(t *testing.T) {
	for name, err := range map[string]error{
		"annotations": apierrors.NewInvalid(schema.GroupKind{Kind: "Secret"}, "vault-tls", field.ErrorList{field.TooLong(field.NewPath("metadata", "annotations"), "", 262144)}),
		"the whole":   apierrors.NewRequestEntityTooLargeError("limit is 3145728"),
		"etcd":        apierrors.NewInternalError(errors.New("etcdserver: request is too large")),
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			c := newCluster(t)
			existing(t, c, func(*corev1.Secret) {})
			c.now = c.now.Add(23 * time.Hour)
			cs := c.process("pod-a").client()
			cs.PrependReactor("update", "secrets", func(a clienttesting.Action) (bool, runtime.Object, error) {
				written := a.(clienttesting.UpdateAction).GetObject().(*corev1.Secret).Name
				return written == "vault-tls", nil, err
			})
			s := c.issuerOn(cs, nil, vaultTLS())
			if _, err := s.Once(t.Context()); err == nil {
				t.Fatal("no error")
			}
			f := s.findings[slices.IndexFunc(s.findings, func(f k8scsr.Finding) bool { return f.Rule == k8scsr.RuleUnknown })]
			if !strings.Contains(f.Summary, "Secret vault/vault-tls cannot be written") || !strings.Contains(f.Remedy, "kubectl -n vault get secret vault-tls") || !strings.Contains(f.Remedy, "remove the annotations") {
				t.Errorf("%+v", f)
			}
		})
	}
}
