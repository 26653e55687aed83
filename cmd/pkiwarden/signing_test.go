package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/config"
	"github.com/pkiwarden/pkiwarden/k8scsr/signer"
)

const aSigner = "signers: [{name: pkiwarden.io/consul, caSecret: {name: ca}, allow: {dnsNames: [localhost]}}]\n"

// TestSigningIsAPart: the leader signs, says so where it cannot begin, and all of
// it is gone when it leads no longer.
func TestSigningIsAPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, _ := leading(t, aSigner)
		if s := i.status(); s.Signers != nil || s.Status != "ok" {
			t.Errorf("before it leads: %+v", s)
		}
		i.setLeader(true)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); i.lead(ctx) }()
		time.Sleep(5 * time.Second)
		s := i.status()
		all := strings.Join(s.Undetermined, "\n")
		if s.Signers != nil || !strings.Contains(all, "signers: looking at them has not begun") || !strings.Contains(all, "loop signer fails: preparing the leader's work: signers are configured, and there is no cluster") {
			t.Errorf("while it leads: %s", all)
		}
		if len(s.Findings) != 1 || s.Findings[0].Rule != RuleNotStarted {
			t.Errorf("findings %+v", s.Findings)
		}
		cancel()
		<-done
		i.setLeader(false)
		if s := i.status(); s.Signers != nil || len(s.Findings) != 0 {
			t.Errorf("when it leads no longer: %+v", s)
		}
	})
}

func TestStatesOfSigners(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		given         signer.Status
		state, reason string
	}{
		{signer.Status{}, "unknown", "it was not looked at yet"},
		{signer.Status{LookedAt: at, NotAfter: at.Add(time.Hour)}, "good", ""},
		{signer.Status{LookedAt: at, CAProblem: "the Secret\ndoes not exist"}, "unusable", "the Secret; does not exist"},
		{signer.Status{LookedAt: at, NotAfter: at}, "expired", "the CA ended 2026-03-01T12:00:00Z"},
		{signer.Status{LookedAt: at, Err: errors.New("boom"), CAProblem: "x"}, "unknown", "boom"},
		{signer.Status{LookedAt: at.Add(-4 * time.Minute), NotAfter: at.Add(time.Hour)}, "unknown", "it was last looked at 2026-03-01T11:56:00Z"},
	} {
		tt.given.Name, tt.given.Namespace, tt.given.Secret, tt.given.Signed, tt.given.Refused = "s", "n", "ca", 2, 1
		doubts := 0
		got := signersOf(func() []signer.Status { return []signer.Status{tt.given} }, at, func(string, ...any) { doubts++ })
		if len(got) != 1 || got[0].State != tt.state || got[0].Reason != tt.reason || (doubts == 1) != (tt.state == "unknown") ||
			got[0].Name != "s" || got[0].Secret != "n/ca" || got[0].Signed != 2 || got[0].Refused != 1 {
			t.Errorf("%+v, %d doubts, want %s %q", got, doubts, tt.state, tt.reason)
		}
	}
}

// TestCAsAreApart: a CA in the pod's own namespace must be no certificate's Secret.
func TestCAsAreApart(t *testing.T) {
	for name, bad := range map[string]bool{"ca": true, "ca-next": false, "b": false} {
		c := &config.Config{
			Signers:      []config.Signer{{Name: "pkiwarden.io/consul", CASecret: config.CASecret{Name: "ca"}}},
			Certificates: config.NewCertificates([]config.Certificate{{Name: "x", Secret: config.ObjectName{Namespace: "own", Name: name}}}),
		}
		if err := apart(c, "own"); (err != nil) != bad {
			t.Errorf("%s: %v", name, err)
		}
		if err := apart(c, "other"); err != nil {
			t.Errorf("%s in another namespace: %v", name, err)
		}
	}
	c := &config.Config{
		Signers:      []config.Signer{{CASecret: config.CASecret{Name: "b-next"}}},
		Certificates: config.NewCertificates([]config.Certificate{{Name: "x", Secret: config.ObjectName{Namespace: "own", Name: "b"}}}),
	}
	if err := apart(c, "own"); err == nil {
		t.Error("a CA where the next key is kept")
	}
}
