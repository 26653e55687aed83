package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"reflect"
	"slices"
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
	step := func(kind k8scsr.Kind, reason string) issuer.StepStatus {
		return issuer.StepStatus{Kind: kind, Reason: reason}
	}
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
		if got, unknown := certificateOf(tt.given, at); unknown != (tt.state == "unknown") || got.State != tt.state || got.Reason != tt.reason {
			t.Errorf("%+v: %s, %q, want %s, %q", tt.given, got.State, got.Reason, tt.state, tt.reason)
		}
	}
	got, _ := certificateOf(issuer.Status{
		Name: "a", Namespace: "n", Secret: "s", ObservedAt: at.Add(time.Millisecond), NamesKnown: true, DNSNames: []string{"x"}, IPAddresses: []string{"::1"},
		Step: step("nothing", "r"), Failure: &k8scsr.Failure{Rule: "csr-denied", Summary: "no", At: at, Wanted: "fingerprint"}, Failures: 2, NotAfter: at.In(time.FixedZone("", 3600)),
	}, at.Add(-time.Hour))
	want := ops.Certificate{
		Name: "a", Secret: "n/s", State: "good", Step: "nothing", Reason: "r", ObservedAt: at, NotAfter: at,
		LastFailure: &ops.Failure{Rule: "csr-denied", Summary: "no", At: at, InARow: 2}, Names: &ops.Names{DNS: []string{"x"}, IP: []string{"::1"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant\n%+v", got, want)
	}
}

// What was observed is judged by the time at which it is asked for: nothing is
// good beyond its end, nor for long without a look.
func TestCertificatesAgainstTheClock(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	good := issuer.StepStatus{Kind: "nothing", Reason: "good until 2026-03-01T12:02:00Z"}
	given := issuer.Status{LookedAt: at, ObservedAt: at, NextAt: at.Add(time.Minute), NotAfter: at.Add(2 * time.Minute), Step: good}
	failed, asked, underWay, paused, ended := given, given, given, given, given
	failed.Err = errors.New("boom")
	asked.Err, asked.NextAt = errors.New("too many requests"), at.Add(10*time.Minute)
	asked.NotAfter = at.Add(time.Hour)
	underWay.LookedAt, underWay.NextAt, underWay.NotAfter = time.Time{}, time.Time{}, at.Add(time.Hour)
	paused.Paused, paused.Step.Reason = true, "paused by configuration"
	ended.Due, ended.NotAfter = true, at.Add(-time.Hour)
	ended.Step = issuer.StepStatus{Kind: "await-approval", Reason: "request x awaits approval"}
	for _, tt := range []struct {
		name          string
		given         issuer.Status
		after         time.Duration
		state, reason string
		unknown       bool
	}{
		{"fresh", given, 119 * time.Second, "good", "good until 2026-03-01T12:02:00Z", false},
		{"it has just ended", given, 2 * time.Minute, "expired", "expired 2026-03-01T12:02:00Z, and was not looked at since", false},
		{"nobody looks any more", given, 5 * time.Minute, "expired", "expired 2026-03-01T12:02:00Z; last looked at 2026-03-01T12:00:00Z, and it should be once a minute", true},
		{"looks fail, and ended", failed, 5 * time.Minute, "expired", "expired 2026-03-01T12:02:00Z; last looked at 2026-03-01T12:00:00Z, and it should be once a minute; that look failed: boom", true},
		{"the API wants to be left alone", asked, 9 * time.Minute, "unknown", "the last look failed: too many requests", true},
		{"a first look that does not end", underWay, 2 * time.Minute, "good", "good until 2026-03-01T12:02:00Z", false},
		{"nor later", underWay, 4 * time.Minute, "unknown", "last looked at 2026-03-01T12:00:00Z, and it should be once a minute", true},
		{"paused, and ended", paused, 150 * time.Second, "expired", "expired 2026-03-01T12:02:00Z; paused by configuration", false},
		{"ended, and waits", ended, time.Minute, "expired", "expired 2026-03-01T11:00:00Z; request x awaits approval", false},
	} {
		got, unknown := certificateOf(tt.given, at.Add(tt.after))
		if got.State != tt.state || got.Reason != tt.reason || unknown != tt.unknown {
			t.Errorf("%s: %s, %q, unknown %t, want %s, %q, %t", tt.name, got.State, got.Reason, unknown, tt.state, tt.reason, tt.unknown)
		}
	}
}

// A certificate that expires while nobody looks is critical, and a finding, once.
func TestStatusOfWhatExpiredUnseen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, _ := leading(t, "certificates: [{name: a, secret: {namespace: vault, name: a}}]\n")
		i.setLeader(true)
		began := time.Now()
		c := issuer.Status{Name: "a", Namespace: "vault", Secret: "a", LookedAt: began, ObservedAt: began, NextAt: began, NotAfter: began.Add(time.Hour), Step: issuer.StepStatus{Kind: "nothing", Reason: "good"}}
		i.known.change(func() {
			i.known.certificates = func() iter.Seq[issuer.Status] { return slices.Values([]issuer.Status{c}) }
		})
		if s := i.status(); s.Status != "ok" || len(s.Findings) != 0 || len(s.Undetermined) != 0 {
			t.Errorf("before: %+v", s)
		}
		time.Sleep(30 * time.Minute)
		if s := i.status(); s.Status != "unknown" || len(s.Undetermined) != 1 || !strings.HasPrefix(s.Undetermined[0], "certificate a: last looked at 2000-01-01T00:00:00Z") {
			t.Errorf("not looked at: %s, %q", s.Status, s.Undetermined)
		}
		time.Sleep(30 * time.Minute)
		s := i.status()
		if s.Status != "critical" || len(s.Undetermined) != 1 || len(s.Findings) != 1 || s.Findings[0].Rule != "certificate-expired" || s.Findings[0].Subject != "certificate a" ||
			s.Findings[0].Summary != "the certificate expired 2000-01-01T01:00:00Z" || s.Findings[0].Evidence != "it was last observed at 2000-01-01T00:00:00Z" {
			t.Errorf("expired: %s, %q, %+v", s.Status, s.Undetermined, s.Findings)
		}
		i.findings.Set(certificatesSource, []ops.Finding{{Rule: "certificate-expired", Severity: "critical", Subject: "certificate a"}})
		if s = i.status(); len(s.Findings) != 1 {
			t.Errorf("told twice: %+v", s.Findings)
		}
	})
}

// election says what a test has it say.
type election struct {
	holder, last   string
	seenAt, lastAt time.Time
	lostAt         time.Time
	lostWhy        error
}

func (e election) Holder() (string, time.Time)     { return e.holder, e.seenAt }
func (e election) LastHolder() (string, time.Time) { return e.last, e.lastAt }
func (e election) Lost() (time.Time, error)        { return e.lostAt, e.lostWhy }

// Who does not lead says what it knows of who does, and of its own loss.
func TestFollowed(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name   string
		given  election
		want   ops.Leadership
		doubts []string
	}{
		{"another leads", election{holder: "b", seenAt: at, last: "b", lastAt: at}, ops.Leadership{Leader: "b", SeenAt: at}, nil},
		{"nobody ever", election{}, ops.Leadership{}, []string{"who leads: nobody was seen to hold Lease n/l"}},
		{"it is about to lead", election{holder: "a", seenAt: at, last: "a", lastAt: at}, ops.Leadership{LastLeader: "a", LastSeenAt: at}, nil},
		{"the API is away", election{last: "b", lastAt: at}, ops.Leadership{LastLeader: "b", LastSeenAt: at},
			[]string{"who leads: nobody was seen to hold Lease n/l since b did, last seen at 2026-03-01T12:00:00Z"}},
		{"it has lost it", election{last: "a", lastAt: at, lostAt: at.Add(10 * time.Second), lostWhy: errors.New("connection\nrefused")},
			ops.Leadership{LastLeader: "a", LastSeenAt: at, LostAt: at.Add(10 * time.Second), LostWhy: "connection; refused"},
			[]string{
				"who leads: nobody was seen to hold Lease n/l since this instance did, last at 2026-03-01T12:00:00Z",
				"certificates and mounts: nothing is known of them since 2026-03-01T12:00:10Z, when this instance lost Lease n/l",
			}},
		{"it was taken", election{holder: "b", seenAt: at, last: "b", lastAt: at, lostAt: at}, ops.Leadership{Leader: "b", SeenAt: at, LostAt: at}, nil},
	} {
		got := ops.Leadership{Lease: "n/l"}
		tt.want.Lease = "n/l"
		var doubts []string
		followed(&got, tt.given, "a", func(format string, args ...any) { doubts = append(doubts, fmt.Sprintf(format, args...)) })
		if got != tt.want || !reflect.DeepEqual(doubts, tt.doubts) {
			t.Errorf("%s: %+v, %q\nwant %+v, %q", tt.name, got, doubts, tt.want, tt.doubts)
		}
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
