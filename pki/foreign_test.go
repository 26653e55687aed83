package pki_test

import (
	"strings"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

// A run of somebody else's with a shorter buffer than pkiwarden's floor is told
// for a day, whether Vault or only the record still knows of it.
func TestSomebodyElsesShortBuffer(t *testing.T) {
	status := func(buffer time.Duration, ago time.Duration) *pki.TidyStatus {
		return &pki.TidyStatus{
			State: pki.TidyFinished, StartedAt: now.Add(-ago - time.Minute), FinishedAt: now.Add(-ago),
			RevokedCerts: true, SafetyBuffer: buffer, RevokedDeleted: 40,
		}
	}
	tests := []struct {
		name     string
		change   func(*pki.Observation, *pki.Policy)
		severity pki.Severity // "": none
	}{
		{"a second", func(o *pki.Observation, _ *pki.Policy) { o.Status = status(time.Second, hour) }, pki.Warning},
		{"which deleted nothing", func(o *pki.Observation, _ *pki.Policy) {
			o.Status = status(time.Second, hour)
			o.Status.RevokedDeleted = 0
		}, pki.Info},
		{"yesterday", func(o *pki.Observation, _ *pki.Policy) { o.Status = status(time.Second, 25*hour) }, ""},
		{"the floor", func(o *pki.Observation, _ *pki.Policy) { o.Status = status(24*hour, hour) }, ""},
		{"allowed", func(o *pki.Observation, p *pki.Policy) {
			o.Status, p.AllowShortSafetyBuffer = status(time.Second, hour), true
		}, ""},
		{"pkiwarden's own", func(o *pki.Observation, _ *pki.Policy) {
			o.Status = status(time.Second, hour)
			o.Record.History = []pki.Run{{StartedAt: o.Status.StartedAt, EndedAt: now.Add(-hour), SafetyBuffer: time.Second, Outcome: pki.OutcomeOK}}
		}, ""},
		{"auto-tidy's", func(o *pki.Observation, _ *pki.Policy) {
			o.Status = status(hour, hour)
			o.AutoTidy = &pki.AutoTidy{Enabled: true, SafetyBuffer: hour, Interval: 12 * hour}
		}, ""},
		{"forgotten by Vault", func(o *pki.Observation, _ *pki.Policy) {
			o.Status = &pki.TidyStatus{State: pki.TidyInactive}
			o.Record.History = []pki.Run{{Foreign: true, StartedAt: now.Add(-2 * hour), EndedAt: now.Add(-hour), SafetyBuffer: time.Second, Outcome: pki.OutcomeOK}}
		}, pki.Warning},
	}
	for _, tt := range tests {
		o, p := observation(), policy()
		tt.change(&o, &p)
		var severity pki.Severity
		for _, f := range pki.Findings(o, p, pki.Plan(o, p, now), now) {
			if f.Rule == "tidy-short-buffer" {
				severity = f.Severity
				if !strings.Contains(f.Evidence, "safety buffer 1s, the floor is 24h0m0s") {
					t.Errorf("%s: evidence %s", tt.name, f.Evidence)
				}
			}
		}
		if severity != tt.severity {
			t.Errorf("%s: severity %q, want %q", tt.name, severity, tt.severity)
		}
	}
}
