package pki_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/pkiwarden/pkiwarden/pki"
)

func TestAutoTidyFindings(t *testing.T) {
	quiet := newAuthority(t, "root").list(t, 0, 0, batch{10, hour})
	usual := pki.AutoTidy{Enabled: true, Interval: 12 * hour, SafetyBuffer: 72 * hour, CertStore: true, RevokedCerts: true}
	owned := &pki.OwnedAutoTidy{Was: usual, At: now.Add(-days), OffAt: now.Add(-days), Holder: "pod-1/x"}
	type want struct {
		rule     string
		severity pki.Severity
		says     string
	}
	tests := []struct {
		name   string
		auto   pki.AutoTidy
		change func(*pki.Observation, *pki.Policy)
		want   []want
	}{
		{"off", pki.AutoTidy{}, nil, nil},
		{"beside runs", usual, nil, []want{{"tidy-auto-tidy", pki.Info, "set tidy.ownAutoTidy: true to have pkiwarden switch it off, or do so: vault write pki/config/auto-tidy enabled=false"}}},
		{"beside runs, in a namespace", usual, func(o *pki.Observation, _ *pki.Policy) { o.Mount.Namespace = "team" },
			[]want{{"tidy-auto-tidy", pki.Info, "vault write -namespace=team pki/config/auto-tidy enabled=false"}}},
		{"alone", usual, func(_ *pki.Observation, p *pki.Policy) { p.Enabled = false }, nil},
		{"about to be switched off", usual, func(_ *pki.Observation, p *pki.Policy) { p.OwnAutoTidy = true }, nil},
		{"not switched off, since it does more", func() pki.AutoTidy {
			a := usual
			a.Also = []string{"tidy_acme", "tidy_expired_issuers"}
			return a
		}(), func(_ *pki.Observation, p *pki.Policy) { p.OwnAutoTidy = true }, []want{{"tidy-auto-tidy", pki.Info, "it does what pkiwarden does not: tidy_acme, tidy_expired_issuers"}}},
		{"not switched off, since certificates are not tidied", usual, func(_ *pki.Observation, p *pki.Policy) { p.OwnAutoTidy, p.CertStore = true, false },
			[]want{{"tidy-auto-tidy", pki.Info, "vault write pki/config/auto-tidy tidy_cert_store=false"}}},
		{"beside runs, and does more", func() pki.AutoTidy {
			a := usual
			a.Also = []string{"tidy_acme"}
			return a
		}(), nil, []want{{"tidy-auto-tidy", pki.Info, "leave it on"}}},
		{"short buffer", pki.AutoTidy{Enabled: true, Interval: hour, SafetyBuffer: 23 * hour, RevokedCerts: true}, func(_ *pki.Observation, p *pki.Policy) { p.Enabled = false },
			[]want{{"tidy-auto-tidy-buffer", pki.Warning, "safety buffer 23h0m0s, the floor is 24h0m0s"}}},
		{"short buffer, allowed", pki.AutoTidy{Enabled: true, Interval: hour, SafetyBuffer: hour, RevokedCerts: true}, func(_ *pki.Observation, p *pki.Policy) { p.Enabled, p.AllowShortSafetyBuffer = false, true }, nil},
		{"leaves revocations alone", pki.AutoTidy{Enabled: true, Interval: hour, SafetyBuffer: 72 * hour, CertStore: true}, func(_ *pki.Observation, p *pki.Policy) { p.Enabled = false },
			[]want{{"tidy-auto-tidy-idle", pki.Warning, "vault write pki/config/auto-tidy tidy_revoked_certs=true, or set tidy.enabled: true"}}},
		{"leaves revocations alone, beside runs", pki.AutoTidy{Enabled: true, Interval: hour, SafetyBuffer: 72 * hour, CertStore: true}, nil,
			[]want{{"tidy-auto-tidy", pki.Info, ""}, {"tidy-auto-tidy-idle", pki.Info, "tidy_revoked_certs is false"}}},
		{"never runs", pki.AutoTidy{Enabled: true, SafetyBuffer: 72 * hour, RevokedCerts: true}, func(_ *pki.Observation, p *pki.Policy) { p.Enabled = false },
			[]want{{"tidy-auto-tidy-idle", pki.Warning, "interval_duration is 0"}}},
		{"owned", pki.AutoTidy{}, func(o *pki.Observation, p *pki.Policy) { o.Record.AutoTidy, p.OwnAutoTidy = owned, true }, nil},
		{"no longer owned", pki.AutoTidy{}, func(o *pki.Observation, _ *pki.Policy) { o.Record.AutoTidy = owned },
			[]want{{"tidy-auto-tidy-off", pki.Info, "switched off at 2026-02-28T12:00:00Z by pod-1/x; before: interval 12h0m0s, safety buffer 72h0m0s\nto have it back: vault write pki/config/auto-tidy enabled=true"}}},
		{"no longer owned, and nothing tidies", pki.AutoTidy{}, func(o *pki.Observation, p *pki.Policy) { o.Record.AutoTidy, p.Enabled = owned, false },
			[]want{{"tidy-auto-tidy-off", pki.Warning, "Nothing tidies the mount"}}},
		{"given back", usual, func(o *pki.Observation, p *pki.Policy) { o.Record.AutoTidy, p.Enabled = owned, false }, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o, p := observation(quiet), policy()
			o.AutoTidy = &tt.auto
			if tt.change != nil {
				tt.change(&o, &p)
			}
			found := pki.Findings(o, p, pki.Plan(o, p, now), now)
			if len(found) != len(tt.want) {
				t.Fatalf("findings %+v, want %+v", found, tt.want)
			}
			for i, w := range tt.want {
				f := found[i]
				if f.Rule != w.rule || f.Severity != w.severity || !strings.Contains(f.Summary+"\n"+f.Evidence+"\n"+f.Remedy, w.says) || f.Citation == "" {
					t.Errorf("%+v\nwant %+v", f, w)
				}
			}
		})
	}
}

func TestMayOwn(t *testing.T) {
	usual := pki.AutoTidy{Enabled: true, Interval: 12 * hour, CertStore: true, RevokedCerts: true}
	tests := []struct {
		name   string
		change func(*pki.Observation)
		says   string
		may    bool
	}{
		{"on", nil, "at least every 168h0m0s, in place of every 12h0m0s", true},
		{"off", func(o *pki.Observation) { o.AutoTidy.Enabled = false }, "not known to be on", false},
		{"unknown", func(o *pki.Observation) { o.AutoTidy = nil }, "not known to be on", false},
		{"does more", func(o *pki.Observation) { o.AutoTidy.Also = []string{"tidy_acme"} }, "tidy_acme", false},
		{"sealed", func(o *pki.Observation) { o.Health.Sealed = true }, "not active", false},
		{"a run is on", func(o *pki.Observation) { o.Status.State = pki.TidyRunning }, "a run is", false},
		{"a run may be on", func(o *pki.Observation) { o.Status = nil }, "a run is", false},
	}
	for _, tt := range tests {
		o := observation()
		o.AutoTidy = new(usual)
		if tt.change != nil {
			tt.change(&o)
		}
		if reason, may := pki.MayOwn(o, policy()); may != tt.may || !strings.Contains(reason, tt.says) {
			t.Errorf("%s: %t, %s", tt.name, may, reason)
		}
	}
}

// What is in records has to stay readable.
func TestOwnedAutoTidyForm(t *testing.T) {
	data, err := json.Marshal(pki.Record{Version: 1, Mount: "pki", AutoTidy: &pki.OwnedAutoTidy{
		Was: pki.AutoTidy{Enabled: true, Interval: hour, SafetyBuffer: 72 * hour, RevokedCerts: true}, At: now, Reason: "r", Holder: "h",
	}})
	want := `{"version":1,"mount":"pki","autoTidy":{"was":{"enabled":true,"interval":3600000000000,"safetyBuffer":259200000000000,"certStore":false,"revokedCerts":true},"at":"2026-03-01T12:00:00Z","reason":"r","holder":"h"}}`
	if err != nil || string(data) != want {
		t.Errorf("%s, %v, want\n%s", data, err, want)
	}
}

// The texts are those of Vault 1.13.0, 1.17.6 and 1.21.1
// (builtin/logical/pki/path_tidy.go).
func TestFindCulprit(t *testing.T) {
	tests := []struct {
		text    string
		key     string // "": none
		content bool
	}{
		{`unable to parse stored certificate with serial "5e-aa-01": x509: malformed certificate`, "certs/5e-aa-01", true},
		{`unable to parse stored revoked certificate with serial "5E:AA:01": asn1: structure error`, "revoked/5e-aa-01", true},
		{`error decoding revocation entry for serial "5e-aa-01": invalid character 'x'`, "revoked/5e-aa-01", true},
		{`error fetching certificate "5e-aa-01": context deadline exceeded`, "certs/5e-aa-01", false},
		{`unable to fetch revoked cert with serial "5e-aa-01": i/o timeout`, "revoked/5e-aa-01", false},
		{`error deleting nil entry with serial 5e-aa-01: read-only`, "certs/5e-aa-01", false},
		{`error deleting entry with nil value with serial 5e-aa-01: read-only`, "certs/5e-aa-01", false},
		{`error deleting nil revoked entry with serial 5e-aa-01: read-only`, "revoked/5e-aa-01", false},
		{`error deleting revoked entry with nil value with serial 5e-aa-01: read-only`, "revoked/5e-aa-01", false},
		{`error deleting serial "5e-aa-01" from storage: read-only`, "certs/5e-aa-01", false},
		{`error deleting serial "5e-aa-01" from revoked list: read-only`, "revoked/5e-aa-01", false},
		{`error deleting serial "5e-aa-01" from store when tidying revoked: read-only`, "certs/5e-aa-01", false},
		{`error building entry to persist changes to serial 5e-aa-01 from revoked list: x`, "revoked/5e-aa-01", false},
		{`error persisting changes to serial 5e-aa-01 from revoked list: x`, "revoked/5e-aa-01", false},
		{"1 error occurred:\n\t* unable to parse stored certificate with serial \"07\": x509: malformed", "certs/07", true},
		{`error fetching list of certs: context canceled`, "", false},
		{`error encountered during CRL building: error storing CRL: put failed due to value being too large`, "", false},
		{"", "", false},
	}
	for _, tt := range tests {
		c, ok := pki.FindCulprit(tt.text)
		switch {
		case !ok && tt.key != "", ok && (c.Key() != tt.key || c.Content != tt.content), ok && tt.key == "":
			t.Errorf("%s: %+v, %t", tt.text, c, ok)
		}
	}
}

func TestVaultFindings(t *testing.T) {
	tests := []struct {
		leases *pki.Leases
		want   string
	}{
		{nil, ""},
		{&pki.Leases{Total: 99_999}, ""},
		{&pki.Leases{Total: 100_000}, "vault-lease-backlog warning;"},
		{&pki.Leases{Total: 299_999}, "vault-lease-backlog warning;"},
		{&pki.Leases{Total: 300_000}, "vault-lease-backlog critical;"},
		{&pki.Leases{Total: 5, Irrevocable: 1}, "vault-irrevocable-leases warning;"},
		{&pki.Leases{Total: 400_000, Irrevocable: 7}, "vault-lease-backlog critical;vault-irrevocable-leases warning;"},
	}
	for _, tt := range tests {
		var got string
		for _, f := range pki.VaultFindings(tt.leases) {
			got += f.Rule + " " + string(f.Severity) + ";"
			if f.Subject != "Vault" || f.Summary == "" || f.Evidence == "" || f.Remedy == "" || f.Citation == "" {
				t.Errorf("finding lacks something: %+v", f)
			}
		}
		if got != tt.want {
			t.Errorf("%+v: %s, want %s", tt.leases, got, tt.want)
		}
	}
}
