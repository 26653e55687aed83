package pki_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

func TestFindings(t *testing.T) {
	ca := newAuthority(t, "root")
	ripe := ca.list(t, 0, 0, batch{300, 200 * hour}, batch{700, hour})
	quiet := ca.list(t, 0, 0, batch{10, hour})
	ripeUnknown := ca.list(t, 0, 0, batch{10, 200 * hour})
	stale := ca.list(t, 3*days, 0, batch{10, 4 * days})
	before := stale
	before.MeasuredAt = now.Add(-2*days - time.Second)
	full := ca.list(t, 0, 2000, batch{50, hour})
	fullRipe := ca.list(t, 0, 2000, batch{50, 200 * hour})

	deleted := func(o *pki.Observation) { o.Status.RevokedDeleted = 5 }
	last := func(run pki.Run) func(*pki.Observation, *pki.Policy) {
		return func(o *pki.Observation, _ *pki.Policy) { o.Record.History = []pki.Run{run} }
	}
	tests := []struct {
		name     string
		list     pki.CRL
		change   func(*pki.Observation, *pki.Policy)
		rule     string // "": none at all
		severity pki.Severity
		says     string // in summary, evidence or remedy
	}{
		{"all well", quiet, nil, "", "", ""},
		{"due and enabled", ripe, nil, "", "", ""},
		{"due and disabled", ripe, func(_ *pki.Observation, p *pki.Policy) { p.Enabled = false }, "tidy-would-run", pki.Info, "pkiwarden tidy --mount pki"},
		{"due and disabled near the limit", fullRipe, func(_ *pki.Observation, p *pki.Policy) { p.Enabled = false }, "tidy-would-run", pki.Warning, "would take 50 entries off"},
		{"not due and disabled", quiet, func(_ *pki.Observation, p *pki.Policy) { p.Enabled = false }, "", "", ""},
		{"cannot help", full, nil, "tidy-cannot-help", pki.Warning, "2026-03-04T11:00:00Z at the earliest"},
		{"no effect", quiet, last(pki.Run{Outcome: pki.OutcomeNoEffect, Predicted: pki.Prediction{Reclaimable: 7}, Explanation: "the CRL was empty", EndedAt: now.Add(-days)}), "tidy-no-effect", pki.Warning, "achieved nothing: the CRL was empty."},
		{"no effect, as predicted", quiet, last(pki.Run{Outcome: pki.OutcomeNoEffect, Deleted: new(int64), EndedAt: now.Add(-days)}), "", "", ""},
		{"no effect, though some were deleted", quiet, last(pki.Run{Outcome: pki.OutcomeNoEffect, Deleted: new(int64(3)), Explanation: "the CRL was not rebuilt", EndedAt: now.Add(-days)}), "tidy-no-effect", pki.Warning, "not rebuilt"},
		{"effect", quiet, last(pki.Run{Outcome: pki.OutcomeOK, EndedAt: now.Add(-days)}), "", "", ""},
		{"failed, as Vault says", quiet, func(o *pki.Observation, _ *pki.Policy) {
			o.Status.State, o.Status.Error = pki.TidyError, `unable to parse stored certificate with serial "aa-bb"`
		}, "tidy-failed", pki.Warning, `serial "aa-bb"`},
		{"failed, and the certificate is named", quiet, func(o *pki.Observation, _ *pki.Policy) {
			o.Status.State, o.Status.Error = pki.TidyError, `unable to parse stored revoked certificate with serial "5e-aa-01": x509: malformed certificate`
		}, "tidy-failed", pki.Warning, "Certificate 5e:aa:01 stops every tidy of the mount: Vault cannot read it.\nentry revoked/5e-aa-01 of the mount"},
		{"failed, and where to look", quiet, last(pki.Run{Outcome: pki.OutcomeFailed, Error: `unable to parse stored certificate with serial "5e-aa-01": x509: malformed certificate`}), "tidy-failed", pki.Warning,
			"see it with vault read -field=certificate pki/cert/5e:aa:01; take a snapshot of the storage, then have an administrator read, repair or delete sys/raw/logical/u-1/certs/5e-aa-01"},
		{"failed, as we remember", quiet, last(pki.Run{Outcome: pki.OutcomeFailed, Explanation: "disk full"}), "tidy-failed", pki.Warning, "The last tidy failed: disk full."},
		{"refused", quiet, last(pki.Run{Outcome: pki.OutcomeRefused, Explanation: `needs capability "update" on path "pki/tidy"`}), "tidy-failed", pki.Warning, `"pki/tidy"`},
		{"interrupted", quiet, last(pki.Run{Outcome: pki.OutcomeInterrupted, EndedAt: now.Add(-days)}), "", "", ""},
		{"stale list", stale, func(o *pki.Observation, _ *pki.Policy) { deleted(o) }, "tidy-stale-crl", pki.Critical, "deleted 5 revocations; the CRL of issuer root is of 2026-02-26T12:00:00Z, with 10 entries"},
		{"old list, measured before the run ended", before, func(o *pki.Observation, _ *pki.Policy) { deleted(o) }, "", "", ""},
		{"old list, nothing deleted", stale, nil, "", "", ""},
		{"list after the run", quiet, func(o *pki.Observation, _ *pki.Policy) { deleted(o) }, "", "", ""},
		{"rotation needed", stale, func(o *pki.Observation, p *pki.Policy) {
			deleted(o)
			o.CRLConfig.AutoRebuild, p.Rotate = true, false
		}, "crl-rotate-needed", pki.Info, "pki/crl/rotate, or set tidy.rotate: auto"},
		{"lists are off", stale, func(o *pki.Observation, _ *pki.Policy) { deleted(o); o.CRLConfig.Disabled = true }, "", "", ""},
		{"longest TTL unknown", ripeUnknown, func(o *pki.Observation, _ *pki.Policy) {
			o.LongestTTL = pki.LongestTTL{Source: "role x issues with a fixed not_after"}
		}, "tidy-estimate-unknown", pki.Info, "role x issues with a fixed not_after; at most 10"},
		{"longest TTL unknown and irrelevant", quiet, func(o *pki.Observation, _ *pki.Policy) { o.LongestTTL = pki.LongestTTL{} }, "", "", ""},
		{"permission", quiet, func(o *pki.Observation, _ *pki.Policy) {
			e := pki.PermissionError{Path: "pki/roles", Capability: "list"}
			o.Denied = []pki.PermissionError{e, e}
		}, "tidy-permission", pki.Warning, `path "pki/roles" { capabilities = ["list"] }`},
		{"token", quiet, func(o *pki.Observation, _ *pki.Policy) {
			o.Denied = []pki.PermissionError{{Path: "pki/roles", Capability: "list", InvalidToken: true}}
		}, "", "", ""}, // the login's matter
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o, p := observation(tt.list), policy()
			if tt.change != nil {
				tt.change(&o, &p)
			}
			found := pki.Findings(o, p, pki.Plan(o, p, now), now)
			if tt.rule == "" {
				if len(found) > 0 {
					t.Errorf("unexpected finding %+v", found[0])
				}
				return
			}
			if len(found) != 1 || found[0].Rule != tt.rule || found[0].Severity != tt.severity {
				t.Fatalf("findings %+v, want one %s of severity %s", found, tt.rule, tt.severity)
			}
			f := found[0]
			if text := f.Summary + "\n" + f.Evidence + "\n" + f.Remedy; !strings.Contains(text, tt.says) {
				t.Errorf("finding says\n%s\nwithout %q", text, tt.says)
			}
			if f.Subject != "mount pki" || f.Remedy == "" || f.Citation == "" || f.Evidence == "" {
				t.Errorf("finding lacks something: %+v", f)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	ca := newAuthority(t, "root")
	n := func(n int64) *int64 { return &n }
	before := pki.Size{Entries: 100, Bytes: 4146}
	newer := ca.list(t, 0, 0, batch{40, 9 * hour})
	same := ca.list(t, 0, 0, batch{100, 9 * hour})
	older := ca.list(t, 2*hour, 0, batch{100, 9 * hour})
	auto := &pki.CRLConfig{AutoRebuild: true}
	tests := []struct {
		name    string
		run     pki.Run
		after   pki.CRL
		config  *pki.CRLConfig
		outcome pki.Outcome
		says    string
	}{
		{"shrunk", pki.Run{State: pki.RunFinished, Deleted: n(60)}, newer, nil, pki.OutcomeOK, "100 entries and 4146 bytes before, 40"},
		{"deleted as many as were revoked meanwhile", pki.Run{State: pki.RunFinished, Deleted: n(60)}, same, nil, pki.OutcomeOK, "deleted 60; as many were revoked meanwhile"},
		{"error, repaired by rotation", pki.Run{State: pki.RunError, Error: "storing CRL", Deleted: n(60)}, newer, nil, pki.OutcomeOK, ""},
		{"forgotten and effective", pki.Run{State: pki.RunUnknown}, newer, nil, pki.OutcomeOK, ""},
		{"false success beside a stale list", pki.Run{State: pki.RunFinished, Deleted: n(60), Error: "CRL over the limit"}, older, nil, pki.OutcomeNoEffect, "60 revocations were deleted, and the CRL was not rebuilt: CRL over the limit"},
		{"not rotated", pki.Run{State: pki.RunFinished, Deleted: n(60)}, older, auto, pki.OutcomeNoEffect, "auto_rebuild"},
		{"error", pki.Run{State: pki.RunError, Error: "bad certificate", Deleted: n(0)}, same, nil, pki.OutcomeFailed, "Vault stopped the run: bad certificate"},
		{"cancelled", pki.Run{State: pki.RunCancelled, Deleted: n(0)}, same, nil, pki.OutcomeInterrupted, "cancelled"},
		{"forgotten", pki.Run{State: pki.RunUnknown}, older, nil, pki.OutcomeInterrupted, "forgot"},
		{"lists off", pki.Run{State: pki.RunFinished, Deleted: n(0)}, same, &pki.CRLConfig{Disabled: true}, pki.OutcomeNoEffect, "switched off"},
		{"all fresh", pki.Run{State: pki.RunFinished, Deleted: n(0)}, same, nil, pki.OutcomeNoEffect, "more than the safety buffer of 72h0m0s before"},
		{"nothing expired", pki.Run{State: pki.RunFinished, Deleted: n(0), Possible: 50}, same, nil, pki.OutcomeNoEffect, "no revoked certificate had been expired"},
		{"bound was wrong", pki.Run{State: pki.RunFinished, Deleted: n(0), Possible: 50, Predicted: pki.Prediction{Reclaimable: 40}}, same, nil, pki.OutcomeNoEffect, "live longer than 24h0m0s (max_ttl of role web)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			run := tt.run
			run.Before, run.SafetyBuffer = before, 72*hour
			run.DecidedAt, run.StartedAt = now.Add(-hour), now.Add(-hour)
			got := run.Judge([]pki.CRL{tt.after}, tt.config, observation().LongestTTL)
			if got.Outcome != tt.outcome || !strings.Contains(got.Explanation, tt.says) {
				t.Errorf("%s: %s\nwant %s: … %s …", got.Outcome, got.Explanation, tt.outcome, tt.says)
			}
			if got.After == nil || got.After.Entries != tt.after.Summary.Entries {
				t.Errorf("after: %+v", got.After)
			}
		})
	}
}

func TestNeedsRotation(t *testing.T) {
	n := func(n int64) *int64 { return &n }
	tests := []struct {
		name   string
		run    pki.Run
		config *pki.CRLConfig
		want   bool
	}{
		{"Vault rebuilt", pki.Run{State: pki.RunFinished, Deleted: n(5)}, &pki.CRLConfig{}, false},
		{"by time", pki.Run{State: pki.RunFinished, Deleted: n(5)}, &pki.CRLConfig{AutoRebuild: true}, true},
		{"configuration unknown", pki.Run{State: pki.RunFinished, Deleted: n(5)}, nil, true},
		{"nothing deleted", pki.Run{State: pki.RunFinished, Deleted: n(0)}, &pki.CRLConfig{AutoRebuild: true}, false},
		{"nothing deleted though surely reclaimable: an earlier rebuild failed", pki.Run{State: pki.RunFinished, Deleted: n(0), Predicted: pki.Prediction{Reclaimable: 1}}, &pki.CRLConfig{}, true},
		{"error after deleting", pki.Run{State: pki.RunError, Deleted: n(5)}, &pki.CRLConfig{}, true},
		{"cancelled after deleting", pki.Run{State: pki.RunCancelled, Deleted: n(5)}, &pki.CRLConfig{}, true},
		{"forgotten", pki.Run{State: pki.RunUnknown}, &pki.CRLConfig{}, true},
		{"lists off", pki.Run{State: pki.RunUnknown}, &pki.CRLConfig{Disabled: true}, false},
	}
	for _, tt := range tests {
		if got := tt.run.NeedsRotation(tt.config); got != tt.want {
			t.Errorf("%s: %t, want %t", tt.name, got, tt.want)
		}
	}
}

func TestRecordForm(t *testing.T) {
	var r pki.Record
	for i := range 30 {
		r = r.Conclude(pki.Run{Outcome: pki.OutcomeOK, EndedAt: now.Add(time.Duration(i) * hour)})
	}
	if len(r.History) != 20 || !r.EffectiveAt.Equal(now.Add(29*hour)) || !r.History[0].EndedAt.Equal(now.Add(10*hour)) {
		t.Errorf("history of %d runs, effective at %s", len(r.History), r.EffectiveAt)
	}
	data, err := json.Marshal(pki.Record{Version: 1, Mount: "pki", Run: &pki.Run{ID: "A", Holder: "pod/x", Step: pki.StepDecided, Reason: "r", Before: pki.Size{Entries: 2, Bytes: 300}}})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"version":1,"mount":"pki","run":{"id":"A","holder":"pod/x","step":"decided","reason":"r","safetyBuffer":0,"predicted":{"reclaimable":0,"bytesAfter":0},"possible":0,"before":{"entries":2,"bytes":300}}}`
	if string(data) != want {
		t.Errorf("record's form\n%s, want\n%s", data, want)
	}
}
