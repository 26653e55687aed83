package issuer

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// renewed asks for a renewal of what is declared, of which there is one.
func (s *subject) renewed(t *testing.T, r RenewRequest) Renewal {
	t.Helper()
	got, err := s.Renew(context.Background(), r)
	if err != nil || len(got) != 1 {
		t.Fatalf("%d renewals, %v", len(got), err)
	}
	return got[0]
}

// issued is a cluster in which the certificate was issued an hour ago.
func issued(t *testing.T) *cluster {
	c := newCluster(t)
	c.process("pod-a").issuer(vaultTLS()).once(t)
	c.now = c.now.Add(time.Hour)
	c.writes = nil
	return c
}

func TestRenewWhatIsDue(t *testing.T) {
	c := newCluster(t)
	got := c.process("pod-b").issuer(vaultTLS()).renewed(t, RenewRequest{})
	if !got.Renewed() || got.Before != nil || got.After == nil || !got.After.Equal(c.leaf()) || got.Needed != "" || got.Err != nil {
		t.Errorf("from nothing: %+v", got)
	}
	got = c.process("pod-b").issuer(vaultTLS()).renewed(t, RenewRequest{})
	if got.Renewed() || got.Needed != "" || !strings.HasPrefix(got.Step.Reason, "good until 2026-03-02T12:00:00Z, renewal is due 2026-03-02T0") || len(c.csrs()) != 1 {
		t.Errorf("at once again: %+v", got)
	}
}

// TestRenewByForce replaces a certificate that is not due; a controller that
// looks afterwards, or that replaced it before, has nothing to do.
func TestRenewByForce(t *testing.T) {
	c := issued(t)
	old := c.leaf()
	got := c.process("pod-b").issuer(vaultTLS()).renewed(t, RenewRequest{Force: true})
	if !got.Renewed() || !got.Before.Equal(old) || !got.After.Equal(c.leaf()) || got.Step.Kind != k8scsr.Nothing {
		t.Errorf("%+v", got)
	}
	want := []string{"create secrets", "create certificatesigningrequests",
		"update certificatesigningrequests/approval", "update secrets", "update secrets"}
	want[0] = "update secrets" // the one of the attempt before
	if !slices.Equal(c.writes, want) {
		t.Errorf("writes %q, want %q", c.writes, want)
	}
	c.writes = nil
	c.process("pod-a").issuer(vaultTLS()).once(t)
	if len(c.writes) != 0 {
		t.Errorf("then the controller wrote %q", c.writes)
	}
}

// TestRenewKeepsAnEarlierEnd: what was asked for may end sooner.
func TestRenewKeepsAnEarlierEnd(t *testing.T) {
	c := issued(t)
	shorter := vaultTLS(func(c *Certificate) { c.Spec.Lifetime = time.Hour })
	before := c.leaf()
	if got := c.process("pod-b").issuer(shorter).renewed(t, RenewRequest{}); got.Renewed() || len(c.csrs()) != 1 {
		t.Errorf("without force: %+v", got)
	}
	c.mayShorten = true
	got := c.process("pod-b").issuer(shorter).renewed(t, RenewRequest{Force: true})
	if !got.Renewed() || !got.After.NotAfter.Before(before.NotAfter) {
		t.Errorf("by force: %+v", got)
	}
}

func TestRenewDry(t *testing.T) {
	c := issued(t)
	wider := vaultTLS(func(c *Certificate) { c.Spec.DNSNames = append(c.Spec.DNSNames, "new.example") })
	for name, try := range map[string]struct {
		Certificate
		force        bool
		needed, kind string
	}{
		"not due": {vaultTLS(), false, "", "nothing"},
		"forced":  {vaultTLS(), true, "its renewal was asked for", "store-next-key"},
		"changed": {wider, false, "the certificate is not the one wanted: DNS name new.example is missing", "store-next-key"},
	} {
		got := c.process("pod-b").issuer(try.Certificate).renewed(t, RenewRequest{DryRun: true, Force: try.force})
		added := slices.Contains(got.Differences, k8scsr.Difference{What: "DNS name", Value: "new.example", Change: "added"})
		kept := slices.Contains(got.Differences, k8scsr.Difference{What: "DNS name", Value: "vault.example", Change: "kept"})
		if got.Needed != try.needed || string(got.Step.Kind) != try.kind || got.Renewed() || added != (name == "changed") || !kept {
			t.Errorf("%s: needed %q, step %s, %+v", name, got.Needed, got.Step.Kind, got.Differences)
		}
	}
	if len(c.writes) != 0 {
		t.Errorf("it wrote %q", c.writes)
	}
}

// TestRenewAwaitsApproval: somebody else approves, or nobody until the call ends;
// then the controller goes on with the very request.
func TestRenewAwaitsApproval(t *testing.T) {
	unapproved := vaultTLS(func(c *Certificate) { c.Spec.Approve = false })
	c := issued(t)
	approve := func() {
		for _, csr := range c.csrs() {
			if len(csr.Status.Conditions) == 0 {
				c.decide(csr, certificatesv1.CertificateApproved, "")
				c.issue(c.objects["certificatesigningrequests//"+csr.Name].(*certificatesv1.CertificateSigningRequest))
			}
		}
	}
	var told []string
	got := c.process("pod-b").issuer(unapproved).renewed(t, RenewRequest{Force: true, Watch: func(name string, step k8scsr.Step) {
		told = append(told, name+": "+step.Reason)
		approve()
		c.now = c.now.Add(time.Minute)
	}})
	if !got.Renewed() || len(told) != 1 || !strings.Contains(told[0], "kubectl certificate approve pkiwarden-vault-tls-") {
		t.Errorf("%+v\ntold %q", got, told)
	}

	ctx, cancel := context.WithCancel(context.Background())
	left, err := c.process("pod-b").issuer(unapproved).Renew(ctx, RenewRequest{Force: true, Watch: func(string, k8scsr.Step) { cancel() }})
	if !errors.Is(err, context.Canceled) || left[0].Renewed() || left[0].Step.Kind != k8scsr.AwaitApproval || left[0].Needed == "" {
		t.Errorf("ended in mid-wait: %+v, %v", left, err)
	}
	before, requests := c.leaf(), len(c.csrs())
	controller := c.process("pod-a").issuer(unapproved)
	controller.once(t)
	approve()
	controller.once(t)
	if c.leaf().Equal(before) || len(c.csrs()) != requests {
		t.Errorf("the controller made %d requests more, and the certificate changed: %v", len(c.csrs())-requests, !c.leaf().Equal(before))
	}
}

// TestRenewIsTakenOver: whatever step the call dies after, a controller, which
// knows nothing of the wish, brings it to its end with the same key.
func TestRenewIsTakenOver(t *testing.T) {
	for writes := 1; writes <= 4; writes++ {
		synctest.Test(t, func(t *testing.T) {
			c := issued(t)
			old := c.leaf()
			dying := c.process("pod-b")
			dying.killAfter = writes
			s, began, start := dying.issuer(vaultTLS()), c.now, time.Now()
			s.now = func() time.Time { return began.Add(time.Since(start)) }
			got, err := s.Renew(t.Context(), RenewRequest{Force: true})
			if err != nil || got[0].Err == nil || time.Since(start) > 10*time.Second {
				t.Fatalf("after %d writes and %v: %+v, %v", writes, time.Since(start), got, err)
			}
			c.process("pod-a").issuer(vaultTLS()).once(t)
			if c.leaf().Equal(old) || len(c.csrs()) != 2 {
				t.Errorf("killed after %d writes, the old certificate is in place: %v; %d requests, want 2", writes, c.leaf().Equal(old), len(c.csrs()))
			}
		})
	}
}

func TestRenewIsDenied(t *testing.T) {
	unapproved := vaultTLS(func(c *Certificate) { c.Spec.Approve = false })
	c := issued(t)
	got := c.process("pod-b").issuer(unapproved).renewed(t, RenewRequest{Force: true, Watch: func(string, k8scsr.Step) {
		for _, csr := range c.csrs() {
			if len(csr.Status.Conditions) == 0 {
				c.decide(csr, certificatesv1.CertificateDenied, "not today")
			}
		}
		c.now = c.now.Add(time.Minute)
	}})
	if got.Renewed() || got.Needed != "its renewal was asked for" || !strings.Contains(got.Step.Reason, "not today") || len(c.csrs()) != 2 {
		t.Errorf("%d requests, %+v", len(c.csrs()), got)
	}
}

// TestRenewLeavesAForeignAttemptAlone: an open request of the controller's is
// neither denied nor given up by somebody under another account.
func TestRenewLeavesAForeignAttemptAlone(t *testing.T) {
	c := issued(t)
	ctx, cancel := context.WithCancel(context.Background())
	unapproved := vaultTLS(func(c *Certificate) { c.Spec.Approve = false })
	if _, err := c.process("pod-b").issuer(unapproved).Renew(ctx, RenewRequest{Force: true, Watch: func(string, k8scsr.Step) { cancel() }}); err == nil {
		t.Fatal("it did not wait")
	}
	for _, csr := range c.csrs() {
		csr.Spec.Username = "system:serviceaccount:vault:controller"
	}
	c.writes = nil
	got := c.process("pod-c").issuer(vaultTLS()).renewed(t, RenewRequest{Force: true})
	var foreign *ForeignAttempt
	if !errors.As(got.Err, &foreign) || foreign.Requester != "system:serviceaccount:vault:controller" || foreign.Own != "system:serviceaccount:vault:pkiwarden" || len(c.writes) != 0 {
		t.Errorf("%v, writes %q", got.Err, c.writes)
	}
}

func TestRenewOneOfSeveral(t *testing.T) {
	other := vaultTLS(func(c *Certificate) { c.Spec.Name, c.Secret = "other", "other-tls" })
	c := newCluster(t)
	got := c.process("pod-b").issuer(vaultTLS(), other).renewed(t, RenewRequest{Names: []string{"other"}})
	if got.Certificate != "other" || got.Secret != "other-tls" || got.Namespace != "vault" || !got.Renewed() || c.leaf() != nil {
		t.Errorf("%+v", got)
	}
}

func TestRenewIsHindered(t *testing.T) {
	for name, try := range map[string]struct {
		given    func(*cluster)
		edit     func(*Certificate)
		err, why string
	}{
		"right missing":     {func(c *cluster) { c.denied["create certificatesigningrequests"] = true }, nil, `permission denied: needs verb "create" on certificatesigningrequests`, ""},
		"namespace missing": {func(c *cluster) { c.missing["else"] = true }, func(c *Certificate) { c.Namespace = "else"; c.Trust = TrustSource{} }, `namespace "else" does not exist`, ""},
		"paused":            {nil, func(c *Certificate) { c.Spec.Paused = true }, "", "paused by configuration"},
	} {
		c := newCluster(t)
		if try.given != nil {
			try.given(c)
		}
		certificate := vaultTLS()
		if try.edit != nil {
			try.edit(&certificate)
		}
		got := c.process("pod-b").issuer(certificate).renewed(t, RenewRequest{Force: true})
		if got.Renewed() || got.Needed != "there is no certificate yet" || !strings.Contains(got.Step.Reason, try.why) || (got.Err == nil) != (try.err == "") ||
			got.Err != nil && !strings.Contains(got.Err.Error(), try.err) {
			t.Errorf("%s: needed %q, %q, %v", name, got.Needed, got.Step.Reason, got.Err)
		}
	}
}

// TestRenewWithoutTime: what was never looked at is unknown, not well.
func TestRenewWithoutTime(t *testing.T) {
	c := issued(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, r := range []RenewRequest{{}, {Force: true}, {DryRun: true}} {
		got, err := c.process("pod-b").issuer(vaultTLS()).Renew(ctx, r)
		if !errors.Is(err, context.Canceled) || len(got) != 1 || !errors.Is(got[0].Err, ErrUnfinished) || !Undetermined(got[0].Err) || got[0].Observed {
			t.Errorf("%+v: %+v, %v", r, got, err)
		}
	}
}

// errNotSent is what a client says that keeps to a limit of its own, where the
// deadline comes before the request's turn.
type errNotSent struct{}

func (errNotSent) Error() string        { return "not sent" }
func (errNotSent) Is(target error) bool { return target == context.DeadlineExceeded }

// TestRenewBeforeItsTurn: a request that could not be sent in time is no error of
// the API's, and what was not looked at for that is unknown.
func TestRenewBeforeItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := issued(t)
		p := c.process("pod-b")
		p.killAfter, p.ends = 0, errNotSent{}
		s, began, start := p.issuer(vaultTLS()), c.now, time.Now()
		s.now = func() time.Time { return began.Add(time.Since(start)) }
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		got, err := s.Renew(ctx, RenewRequest{})
		if !errors.Is(err, context.DeadlineExceeded) || len(got) != 1 || got[0].Observed || got[0].Err != ErrUnfinished {
			t.Errorf("%+v, %v", got, err)
		}
	})
	err := &callError{call{"get", "secrets", "vault", "vault-tls"}, errNotSent{}}
	if !Undetermined(err) || strings.Contains(err.Error(), "cannot be reached") {
		t.Errorf("taken for an API that cannot be reached, or for an answer: %v", err)
	}
}
