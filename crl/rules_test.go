package crl

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestFindings holds one fixture for each verdict, and for each rule one where
// it is silent.
func TestFindings(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	limit := Limit{Backend: "raft", MaxBytes: 1000, Rule: "the rule", Known: true}
	list := func(bytes int64) *Summary {
		return &Summary{Bytes: bytes, Entries: 7, ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(71 * time.Hour)}
	}
	valid := func(left time.Duration) *Summary {
		return &Summary{Bytes: 1, ThisUpdate: now.Add(left - 72*time.Hour), NextUpdate: now.Add(left)}
	}
	for _, c := range []struct {
		name     string
		o        Observation
		want     string // "rule severity", several joined by a comma
		evidence string
	}{
		{"nothing known", Observation{}, "", ""},
		{"well below", Observation{List: list(599), Limit: limit}, "", ""},
		{"at the warning", Observation{List: list(600), Limit: limit}, "crl-near-limit warning", "600 bytes, 7 entries; limit 1000 bytes, about 19 entries: the rule"},
		{"below critical", Observation{List: list(799), Limit: limit}, "crl-near-limit warning", ""},
		{"at critical", Observation{List: list(800), Limit: limit}, "crl-near-limit critical", ""},
		{"at the limit", Observation{List: list(1000), Limit: limit}, "crl-near-limit critical", ""},
		{"over it", Observation{List: list(1001), Limit: limit}, "crl-over-limit critical", "1001 bytes"},
		{"no limit", Observation{List: list(1001), Limit: Limit{Known: true}}, "", ""},
		{"unknown limit", Observation{List: list(1001)}, "", ""},

		{"fresh", Observation{List: valid(8 * time.Hour)}, "", ""},
		{"a tenth left", Observation{List: valid(7*time.Hour + 12*time.Minute)}, "", ""},
		{"less than a tenth left", Observation{List: valid(7*time.Hour + 11*time.Minute)}, "crl-stale warning", "nextUpdate 2026-05-01T19:11:00Z"},
		{"passed", Observation{List: valid(0)}, "crl-stale critical", ""},
		{"no nextUpdate", Observation{List: &Summary{Bytes: 1, ThisUpdate: now}}, "", ""},

		{"wrong signature", Observation{Err: fmt.Errorf("verifying CRL: %w: why", ErrNotSigned)}, "crl-signature-invalid critical", "why"},
		{"Ed25519", Observation{Err: fmt.Errorf("x: %w", ErrNotVerifiable)}, "crl-not-verifiable unknown", ""},
		{"fetch failed", Observation{List: list(1), Err: errors.New("connection refused")}, "crl-unreadable unknown", "connection refused"},
		{"malformed", Observation{Err: fmt.Errorf("scanning CRL: %w", &SyntaxError{Offset: 3, Want: "a", Got: "b"})}, "crl-unreadable critical", "at byte 3"},
		{"too large", Observation{Err: fmt.Errorf("scanning CRL: %w", ErrTooLarge)}, "crl-unreadable unknown", "too large"},
		{"may not sign", Observation{CannotSign: true}, "crl-no-issuer-usage warning", "cRLSign"},
		{"two at once", Observation{List: &Summary{Bytes: 900, ThisUpdate: now.Add(-72 * time.Hour), NextUpdate: now}, Limit: limit}, "crl-near-limit critical,crl-stale critical", ""},
	} {
		c.o.Subject = "mount pki, issuer root"
		var got []string
		for _, f := range Findings(c.o, thresholds, now) {
			got = append(got, f.Rule+" "+string(f.Severity))
			if f.Subject != c.o.Subject || f.Summary == "" || f.Remedy == "" || f.Citation == "" || !strings.Contains(f.Evidence, c.evidence) {
				t.Errorf("%s: %+v", c.name, f)
			}
		}
		if strings.Join(got, ",") != c.want {
			t.Errorf("%s: %v, want %s", c.name, got, c.want)
		}
	}
}

func TestLimitFinding(t *testing.T) {
	if _, found := LimitFinding(Limit{Known: true}); found {
		t.Error("a backend without a limit is known")
	}
	f, found := LimitFinding(Limit{Rule: "permission denied"})
	if !found || f.Rule != "crl-limit-unknown" || f.Severity != Unknown || f.Evidence != "permission denied" || f.Remedy == "" || f.Citation == "" {
		t.Errorf("%+v", f)
	}
}

var thresholds = Thresholds{
	Warn:     Threshold{Share: 0.6, Horizon: 336 * time.Hour, Headroom: 2},
	Critical: Threshold{Share: 0.8, Horizon: 72 * time.Hour, Headroom: 1},
}
