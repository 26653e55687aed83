package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
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

// TestNothingBeginsInACAsSecret: where the namespace of a CA's Secret is the
// pod's own, which the configuration does not know, nothing is begun that could
// write a leaf into it, neither at first nor by a command.
func TestNothingBeginsInACAsSecret(t *testing.T) {
	for name, tt := range map[string]struct{ pod, secret, want string }{
		"the pair":          {"consul", "ca", `the Secret consul/ca of the CA of signer pkiwarden.io/consul is where certificate "a" is written to; a CA needs one of its own (where caSecret names no namespace, it is that of the pod, consul)`},
		"another namespace": {"vault", "ca", ""},
		"another Secret":    {"consul", "b", ""},
		"what looks alike":  {"consul", "ca-next", ""},
	} {
		t.Run(name, func(t *testing.T) {
			kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
			text := "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{name: a, context: {cluster: a, user: a}}]\n" +
				"clusters: [{name: a, cluster: {server: \"https://127.0.0.1:1\"}}]\nusers: [{name: a, user: {}}]\n"
			if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv("POD_NAMESPACE", tt.pod)
			cfg, err := config.Parse("test.yaml", []byte(aSigner+"kubernetes: {kubeconfig: "+kubeconfig+"}\ncertificates: [{name: a, secret: {namespace: consul, name: "+tt.secret+
				"}, signer: pkiwarden.io/consul, subject: {commonName: a.example}, dnsNames: [a.example], trust: {configMap: {namespace: consul, name: ca}}}]\n"), func(string) string { return "" })
			if err != nil {
				t.Fatal(err)
			}
			_, err = newCluster(&app{now: time.Now}, slog.New(slog.DiscardHandler), cfg)
			var exit *exitError
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (!errors.As(err, &exit) || exit.code != exitUsage || exit.Error() != tt.want):
				t.Errorf("%+v", err)
			}
		})
	}
}
