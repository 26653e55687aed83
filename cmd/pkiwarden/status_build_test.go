package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/config"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/loop"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/ops"
	"github.com/pkiwarden/pkiwarden/k8scsr"
	"github.com/pkiwarden/pkiwarden/k8scsr/issuer"
)

// The leader's part is there while it leads, says so where it has not begun, and
// is gone afterwards.
func TestStatusOverALife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, _ := leading(t, "certificates: [{name: a, secret: {namespace: vault, name: a}}]\nvault: {address: 'http://127.0.0.1:18300'}\n")
		s := i.status()
		if s.Status != "ok" || s.Leadership.Leading || s.Certificates != nil || s.Mounts != nil || s.Role != "candidate" || s.Version == "" || s.Identity == "" || !s.Leadership.Since.IsZero() {
			t.Errorf("before it leads: %+v", s)
		}

		i.setConfig(true, time.Now())
		i.setLeader(true)
		since := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); i.lead(ctx) }()
		time.Sleep(5 * time.Second)
		s = i.status()
		if !s.Leadership.Leading || !s.Leadership.Since.Equal(since) || s.Certificates != nil || !s.Config.Accepted || s.Status != "unknown" {
			t.Errorf("while it leads: %+v", s)
		}
		all := strings.Join(s.Undetermined, "\n")
		for _, want := range []string{"certificates: looking at them has not begun", "loop certificates fails: preparing the leader's work: certificates are declared, and there is no cluster", "mounts: not all of their lists were looked at yet"} {
			if !strings.Contains(all, want) {
				t.Errorf("undetermined lacks %q:\n%s", want, all)
			}
		}
		if s.Mounts == nil || len(s.Mounts) != 0 {
			t.Errorf("mounts %v", s.Mounts)
		}

		cancel()
		<-done
		i.setLeader(false)
		s = i.status()
		if s.Leadership.Leading || s.Certificates != nil || s.Mounts != nil || len(s.Loops) != 0 || len(s.Findings) != 0 || s.Status != "ok" {
			t.Errorf("when it leads no longer: %+v", s)
		}
		i.setConfig(false, time.Now())
		if s = i.status(); s.Status != "warning" || s.Config.Accepted {
			t.Errorf("with a refused configuration: %s, %+v", s.Status, s.Config)
		}
	})
}

func TestStatusNobodyLeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, err := config.Parse("test.yaml", []byte("leaderElection: {backend: none, role: local}\n"), func(string) string { return "" })
		if err != nil {
			t.Fatal(err)
		}
		i, err := newInstance(&app{now: time.Now}, slog.New(slog.DiscardHandler), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if s := i.status(); s.Role != "local" || s.Status != "ok" || s.Leadership != (ops.Leadership{}) {
			t.Errorf("a local one: %+v", s)
		}
	})
}

func TestStatesOfCertificates(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	step := func(kind k8scsr.Kind, reason string) k8scsr.Step { return k8scsr.Step{Kind: kind, Reason: reason} }
	for _, tt := range []struct {
		given         issuer.Status
		state, reason string
	}{
		{issuer.Status{}, "unknown", "it was not looked at yet"},
		{issuer.Status{ObservedAt: at, Step: step("nothing", "good until then")}, "good", "good until then"},
		{issuer.Status{ObservedAt: at, Due: true, Step: step("nothing", "the last attempt failed")}, "held-back", "the last attempt failed"},
		{issuer.Status{ObservedAt: at, Due: true, Hindered: true, Step: step("nothing", "the Secret is immutable")}, "hindered", "the Secret is immutable"},
		{issuer.Status{ObservedAt: at, Due: true, Paused: true, Step: step("nothing", "paused by configuration")}, "paused", "paused by configuration"},
		{issuer.Status{ObservedAt: at, Due: true, Step: step("await-approval", "somebody else's")}, "await-approval", "somebody else's"},
		{issuer.Status{ObservedAt: at, Err: errors.New("boom\nbang"), Step: step("nothing", "good until then")}, "unknown", "the last look failed: boom; bang"},
	} {
		if got := certificateOf(tt.given); got.State != tt.state || got.Reason != tt.reason {
			t.Errorf("%+v: %s, %q, want %s, %q", tt.given, got.State, got.Reason, tt.state, tt.reason)
		}
	}
	got := certificateOf(issuer.Status{
		Name: "a", Namespace: "n", Secret: "s", ObservedAt: at.Add(time.Millisecond), NamesKnown: true, DNSNames: []string{"x"}, IPAddresses: []string{"::1"},
		Step: step("nothing", "r"), Failure: &k8scsr.Failure{Rule: "csr-denied", Summary: "no", At: at, Wanted: "fingerprint"}, Failures: 2, NotAfter: at.In(time.FixedZone("", 3600)),
	})
	want := ops.Certificate{
		Name: "a", Secret: "n/s", State: "good", Step: "nothing", Reason: "r", ObservedAt: at, NotAfter: at,
		LastFailure: &ops.Failure{Rule: "csr-denied", Summary: "no", At: at, InARow: 2}, Names: &ops.Names{DNS: []string{"x"}, IP: []string{"::1"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant\n%+v", got, want)
	}
}

// A loop that hangs, comes too late, fails or has never worked leaves unknown
// what it looks after; one that runs for a while does not.
func TestLoopsInDoubt(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	states := []loop.State{
		{Name: "fine", LastSuccess: ago(time.Minute), NextAt: now.Add(time.Minute), LastError: "once", LastErrorAt: ago(time.Hour)},
		{Name: "busy", LastSuccess: ago(time.Hour), RunningAt: ago(10 * time.Minute)},
		{Name: "hangs", LastSuccess: ago(time.Hour), RunningAt: ago(16 * time.Minute)},
		{Name: "late", LastSuccess: ago(time.Hour), NextAt: ago(16 * time.Minute)},
		{Name: "fails", LastSuccess: ago(time.Hour), NextAt: now, Failures: 2, LastError: "no\nanswer"},
		{Name: "new", RunningAt: now},
	}
	var doubts []string
	out := loopsOf(states, now, func(format string, args ...any) { doubts = append(doubts, fmt.Sprintf(format, args...)) })
	want := []string{
		"loop hangs: its run goes on since 2026-03-01T11:44:00Z, and should have ended",
		"loop late: its next run was due at 2026-03-01T11:44:00Z, and has not begun",
		"loop fails fails: no; answer",
		"loop new has not worked once yet",
	}
	if !reflect.DeepEqual(doubts, want) || len(out) != 6 || out[0].LastError != "once" {
		t.Errorf("doubts\n%s\nwant\n%s", strings.Join(doubts, "\n"), strings.Join(want, "\n"))
	}
}
