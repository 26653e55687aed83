package pki_test

import (
	"strings"
	"testing"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

// pressed is a list of 1,500 entries, 246 + 39 × 1,500 = 58,746 bytes, on a raft
// storage that takes 65,536 − 98 − 33 = 65,405: 89.8 %. A hundred certificates
// are revoked each day, ten days before they expire.
func pressed(t *testing.T) pki.Observation {
	list := newAuthority(t, "root").list(t, 0, 0, batch{100, 520 * hour}, batch{400, 30 * hour}, batch{1000, hour})
	list.Summary.Bytes = 246 + 39*1500
	list.Limit = crl.Storage{Backend: "raft", Raft: crl.RaftLimits{MaxEntrySize: 65536}}.Limit()
	list.Growth = crl.SteadyInputs{
		Revocations: crl.Rate{PerDay: 100, Days: 14}, RemainingLife: 10 * days, SafetyBuffer: 72 * hour, TidyInterval: 24 * hour,
	}
	list.Projection = crl.Projection{GrowthKnown: true, BytesPerDay: 3900}
	o := observation(list)
	o.LongestTTL = pki.LongestTTL{Duration: 480 * hour, Source: "max_ttl of role web"}
	return o
}

func levers(o pki.Observation, p pki.Policy) map[pki.LeverName]pki.Lever {
	all := map[pki.LeverName]pki.Lever{}
	for _, l := range pki.Levers(o, p, pki.Plan(o, p, now).Estimate, now) {
		all[l.Name] = l
	}
	return all
}

// In 10 + 3 + 1 days 1,400 entries come together: 54,846 bytes.
func TestLevers(t *testing.T) {
	type wanted struct {
		name  pki.LeverName
		bytes int64
		known bool
		says  []string
	}
	tests := []struct {
		name   string
		change func(*pki.Observation, *pki.Policy)
		want   wanted
	}{
		// 5 + 3 + 1 days: 900 entries. 60 % of the limit is 39,243 bytes, which is
		// 4.0008 days of life less: 5.9992 of 10, and of 480 h so much.
		{"half the lifetime", nil, wanted{pki.ShorterCertificates, 35_346, true, []string{
			"for half as long (240h0m0s in place of 480h0m0s, max_ttl of role web)",
			"growth then stops at 35346 bytes (54 % of the limit) in place of 54846", "287h57m0s at the longest keep it below 60 % of the limit"}}},
		{"half the lifetime, longest TTL unknown", func(o *pki.Observation, _ *pki.Policy) { o.LongestTTL = pki.LongestTTL{} },
			wanted{pki.ShorterCertificates, 35_346, true, []string{"for half as long;", "143h58m0s left of life when revoked, in place of 240h0m0s"}}},
		{"no lifetime is short enough", func(o *pki.Observation, _ *pki.Policy) { o.CRLs[0].Growth.Revocations.PerDay = 400 },
			wanted{pki.ShorterCertificates, 140_646, true, []string{"in place of 218646", "no lifetime alone keeps it below 60 %"}}},
		{"lifetimes are short already", func(o *pki.Observation, _ *pki.Policy) { o.CRLs[0].Growth.Revocations.PerDay = 10 },
			wanted{pki.ShorterCertificates, 3_756, true, []string{"60 % of the limit is kept as it is"}}},
		{"rate of revocations missing", func(o *pki.Observation, _ *pki.Policy) {
			o.CRLs[0].Growth = crl.SteadyInputs{Revocations: crl.Rate{Why: "no history"}}
		}, wanted{pki.ShorterCertificates, 0, false, []string{"effect unknown: revocations a day, remaining life of what is revoked"}}},
		{"buffer and interval are those of the policy", func(o *pki.Observation, p *pki.Policy) {
			o.CRLs[0].Growth.SafetyBuffer, o.CRLs[0].Growth.TidyInterval = 0, 0
			p.Trigger.AtLeastEvery = 24 * hour
		}, wanted{pki.ShorterCertificates, 35_346, true, []string{"in place of 54846"}}},

		// Of 520 h ago, all has been expired for 24 h; of 30 h ago, some may have.
		{"shorter buffer", nil, wanted{pki.ShorterBuffer, 54_846, true, []string{
			"tidy.safetyBuffer: 24h in place of 72h", "takes 100 to 500 of 1500 entries off, which leaves at most 54846 bytes (83.9 % of the limit)",
			"growth stops at 47046 bytes (71.9 % of the limit) in place of 54846"}}},
		{"shorter buffer, longest TTL unknown", func(o *pki.Observation, _ *pki.Policy) { o.LongestTTL = pki.LongestTTL{} },
			wanted{pki.ShorterBuffer, 58_746, false, []string{"at most 500 of 1500 entries", "the longest TTL is missing"}}},
		{"buffer at its floor", func(_ *pki.Observation, p *pki.Policy) { p.SafetyBuffer = 24 * hour },
			wanted{pki.ShorterBuffer, 0, false, []string{"none", "24h is at its floor already"}}},

		{"new issuer key", nil, wanted{pki.NewIssuerKey, 246, true, []string{
			"begins at about 246 bytes and grows by 3900 a day, to the limit in 16 days", "a run after 2026-03-24T12:00:00Z leaves nothing in it"}}},
		{"new issuer key, growth unknown", func(o *pki.Observation, _ *pki.Policy) {
			o.CRLs[0].Projection, o.LongestTTL = crl.Projection{}, pki.LongestTTL{}
		}, wanted{pki.NewIssuerKey, 246, true, []string{"246 bytes; the present list gets shorter", "the longest TTL is missing"}}},

		{"no list", nil, wanted{pki.NoList, 246, true, []string{"vault write pki/config/crl disable=true", "no_store=true", "about 246 bytes"}}},

		// 58,746 is 60 % of 97,910, which with 98 + 33 around it is an entry of 98,041.
		{"higher limit", nil, wanted{pki.RaiseLimit, 97_910, true, []string{"set max_entry_size to 98041", "a list of 97910 bytes then fits, of which what it takes now, 58746, is 60 %"}}},
		{"higher limit for what it grows to", func(o *pki.Observation, _ *pki.Policy) { o.CRLs[0].Growth.Revocations.PerDay = 400 },
			wanted{pki.RaiseLimit, 364_410, true, []string{"set max_entry_size to 364541", "what it grows to, 218646"}}},
		{"limit unknown", func(o *pki.Observation, _ *pki.Policy) { o.CRLs[0].Limit = crl.Limit{Rule: "not told"} },
			wanted{pki.RaiseLimit, 0, false, []string{"the limit itself is missing (not told)"}}},
		{"limit configured", func(o *pki.Observation, _ *pki.Policy) {
			o.CRLs[0].Limit = crl.Limit{MaxBytes: 65_000, Known: true}
		}, wanted{pki.RaiseLimit, 0, false, []string{"name crl.limit.backend"}}},
		{"no limit", func(o *pki.Observation, _ *pki.Policy) { o.CRLs[0].Limit = crl.Storage{Backend: "file"}.Limit() },
			wanted{pki.RaiseLimit, 0, false, []string{"none", "sets no limit"}}},
		{"limit high enough", func(o *pki.Observation, _ *pki.Policy) {
			o.CRLs[0].Limit = crl.Storage{Backend: "raft"}.Limit()
		}, wanted{pki.RaiseLimit, 58_746, true, []string{"none", "is below 60 % of it"}}},
		{"a limit that no setting raises", func(o *pki.Observation, _ *pki.Policy) {
			o.CRLs[0].Limit = crl.Storage{Backend: "dynamodb"}.Limit()
			o.CRLs[0].Growth.Revocations.PerDay = 800
		}, wanted{pki.RaiseLimit, 0, false, []string{"no setting helps", "what it grows to, 437046 bytes, does not stay below 60 %"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o, p := pressed(t), policy()
			if tt.change != nil {
				tt.change(&o, &p)
			}
			got := levers(o, p)[tt.want.name]
			if got.Known != tt.want.known || got.Bytes != tt.want.bytes {
				t.Errorf("%d bytes, known %t; want %d, %t", got.Bytes, got.Known, tt.want.bytes, tt.want.known)
			}
			for _, says := range tt.want.says {
				if !strings.Contains(got.String(), says) {
					t.Errorf("%s\nlacks %q", got, says)
				}
			}
		})
	}
}

func TestNoLeverWithoutAList(t *testing.T) {
	o := observation()
	if got := pki.Levers(o, policy(), pki.Plan(o, policy(), now).Estimate, now); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

// The finding names until when, and the levers that help.
func TestCannotHelpNamesLevers(t *testing.T) {
	o, p := pressed(t), policy()
	list := newAuthority(t, "root").list(t, 0, 0, batch{1500, hour})
	list.Summary.Bytes, list.Limit, list.Growth = 58_746, o.CRLs[0].Limit, o.CRLs[0].Growth
	o.CRLs = []pki.CRL{list}
	d := pki.Plan(o, p, now)
	found := pki.Findings(o, p, d, now)
	if len(found) != 1 || found[0].Rule != "tidy-cannot-help" {
		t.Fatalf("%+v", found)
	}
	f := found[0]
	if f.Summary != "Tidy cannot help before 2026-03-04T11:00:00Z." || !strings.Contains(f.Evidence, "is at 89.8 % of the storage's limit") {
		t.Errorf("%s\n%s", f.Summary, f.Evidence)
	}
	for _, says := range []string{"(1) shorter certificates: ", "(2) shorter safety buffer: ", "a run takes nothing off now, and could from 2026-03-02T11:00:00Z on", "(3) new issuer key: ", "(4) no list: ", "(5) higher limit: set max_entry_size to 98041"} {
		if !strings.Contains(f.Remedy, says) {
			t.Errorf("%s\nlacks %q", f.Remedy, says)
		}
	}
}
