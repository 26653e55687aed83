package crl

import (
	"strings"
	"testing"
	"time"
)

// The list that is served may be the last that was written: from 95 % of the
// limit on that is said, with the command that tells.
func TestNearlyFull(t *testing.T) {
	thresholds := Thresholds{Warn: Threshold{Share: 0.6}, Critical: Threshold{Share: 0.8}}
	for bytes, want := range map[int64]bool{949: false, 950: true, 1000: true} {
		o := Observation{Subject: "s", List: &Summary{Bytes: bytes}, Limit: Limit{Known: true, MaxBytes: 1000}}
		for _, f := range Findings(o, thresholds, time.Unix(0, 0)) {
			if f.Rule != "crl-near-limit" {
				continue
			}
			if got := strings.Contains(f.Summary, "so already") && strings.Contains(f.Remedy, "pkiwarden tidy --rescue"); got != want {
				t.Errorf("%d of 1000 bytes: %+v", bytes, f)
			}
		}
	}
}
