package main

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier"
)

// The worst of the mounts decides, and what is not known is not well.
func TestRescueExitCodes(t *testing.T) {
	done := tidier.RescueReport{Complete: true}
	open := tidier.RescueReport{RescuePlan: pki.RescuePlan{Status: pki.RescueOver}}
	unknown := tidier.RescueReport{RescuePlan: pki.RescuePlan{Status: pki.RescueUnknown}}
	for _, tt := range []struct {
		reports []tidier.RescueReport
		code    int
	}{
		{[]tidier.RescueReport{done}, 0},
		{[]tidier.RescueReport{done, open, done}, 2},
		{[]tidier.RescueReport{unknown, done}, 3},
		{[]tidier.RescueReport{open, unknown}, 2},
		{[]tidier.RescueReport{unknown, open}, 2},
	} {
		code := 0
		if exit := new(exitError); errors.As(rescueExit(tt.reports), &exit) {
			code = exit.code
		}
		if code != tt.code {
			t.Errorf("%+v: exit code %d, want %d", tt.reports, code, tt.code)
		}
	}
}

// The keys that --help promises, no others, none missing.
func TestRescueForAProgram(t *testing.T) {
	list := pki.RescueList{
		Served: pki.CRL{Issuer: pki.Issuer{Name: "root"}, Summary: crl.Summary{Bytes: 285, Entries: 1}, Limit: crl.Storage{Backend: "raft", Raft: crl.RaftLimits{MaxEntrySize: 400}}.Limit()},
		Groups: []pki.RescueGroup{{Entries: 9, Bytes: 351}}, Missing: 8,
	}
	plan := pki.PlanRescue(pki.Rescue{Mount: pki.Mount{Path: "pki"}, Lists: []pki.RescueList{list}}, pki.Policy{SafetyBuffer: 72 * time.Hour}, time.Unix(1e9, 0))
	report := tidier.RescueReport{Mount: "pki", RescuePlan: plan, Proof: &tidier.RescueProof{Lists: []tidier.ProvedList{{Issuer: "root"}}}}
	var b strings.Builder
	if err := writeRescues(&b, outputJSON, []tidier.RescueReport{report}); err != nil {
		t.Fatal(err)
	}
	var reports []map[string]any
	if err := json.Unmarshal([]byte(b.String()), &reports); err != nil {
		t.Fatal(err)
	}
	at := func(node any, path ...any) any {
		for _, step := range path {
			switch step := step.(type) {
			case int:
				node = node.([]any)[step]
			case string:
				node = node.(map[string]any)[step]
			}
		}
		return node
	}
	size := "bytes bytesLeast entries entriesLeast fits issuer"
	for _, tt := range []struct {
		path []any
		keys string
	}{
		{nil, "complete enough limit lists mount proof remains status steps verdict"},
		{[]any{"limit"}, "backend known maxBytes maxEntries rule"},
		{[]any{"lists", 0}, "issuer missing next read served stale"},
		{[]any{"lists", 0, "served"}, "bytes entries"},
		{[]any{"lists", 0, "next"}, size},
		{[]any{"steps", 0}, "after by capability commands done needed step ways what why"},
		{[]any{"steps", 0, "capability"}, "capability granted path"},
		{[]any{"steps", 0, "after", 0}, size},
		{[]any{"steps", 2, "ways", 0, 0}, "least name value"},
		{[]any{"proof"}, "expired found kept lists lost lostSerials unexpired unstored"},
		{[]any{"proof", "lists", 0}, "bytes entries issuer number room thisUpdate"},
	} {
		keys := slices.Sorted(maps.Keys(at(any(reports[0]), tt.path...).(map[string]any)))
		if got := strings.Join(keys, " "); got != tt.keys {
			t.Errorf("%v: keys %s, want %s", tt.path, got, tt.keys)
		}
	}
	if commands := at(any(reports[0]), "steps", 1, "commands"); commands == nil {
		t.Error("a step without commands has null for them")
	}
}

func TestRescueForAPerson(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	entries := func(n int, notAfter time.Time) (g pki.RescueGroup) {
		for range n {
			g.Sample = append(g.Sample, pki.RescueEntry{NotAfter: notAfter.Unix(), Bytes: 39})
		}
		g.Entries, g.Bytes = int64(n), int64(n)*39
		return g
	}
	plan := pki.PlanRescue(pki.Rescue{
		Mount: pki.Mount{Path: "pki"}, Config: &pki.CRLConfig{}, Denied: []pki.PermissionError{{Path: "pki/tidy", Capability: "update"}},
		Lists: []pki.RescueList{{
			Served: pki.CRL{
				Issuer: pki.Issuer{Name: "root"}, Summary: crl.Summary{Bytes: 62646, Entries: 1600},
				Limit: crl.Storage{Backend: "raft", Raft: crl.RaftLimits{MaxEntrySize: 65536}}.Limit(),
			},
			ServedEntryBytes: 62400, Missing: 200,
			Groups: []pki.RescueGroup{entries(500, now.Add(-100*time.Hour)), entries(1300, now.Add(time.Hour))},
		}},
	}, pki.Policy{SafetyBuffer: 72 * time.Hour}, now)
	var b strings.Builder
	if err := writeRescues(&b, outputTable, []tidier.RescueReport{{Mount: "pki", RescuePlan: plan}}); err != nil {
		t.Fatal(err)
	}
	const want = `mount pki: over the limit: steps 1, 6 and 7 are enough
refused: permission denied: needs capability "update" on path "pki/tidy"
limit (raft): 65405 bytes; list + 33 (barrier) + 98 (raft entry) is at most 65536 (max_entry_size)
ISSUER  SERVED                     NEXT                                     MISSING  READ
root    1600 entries, 62646 bytes  1800 entries, 70457 bytes, does not fit  200      1800
1 needed   pkiwarden tidy, with the configured safety buffer of 72h
                     500 of 1800 revocations are of certificates that expired longer ago
                     after it: issuer root: 1300 entries, 50954 bytes, fits
                     capability "update" on path "pki/tidy", NOT granted
                     $ pkiwarden tidy --rescue --apply --mount pki
2 no       you       shorten tidy.safetyBuffer
                     step 1 is enough, once "update" on path "pki/tidy" is granted
3 no       you       raise the limit
                     step 1 is enough, once "update" on path "pki/tidy" is granted
4 no       you       issue new certificates by a new issuer in a mount of its own
                     step 1 is enough, once "update" on path "pki/tidy" is granted
5 no       you       switch the lists off, where every relying party asks OCSP
                     step 1 is enough, once "update" on path "pki/tidy" is granted
6 needed   pkiwarden rebuild the lists (crl/rotate)
                     publishes what Vault keeps
                     capability "read" on path "pki/crl/rotate", granted
                     $ vault read pki/crl/rotate
7 needed   pkiwarden prove it: fetch the lists, verify them, and find in them every revoked certificate that has not expired
                     of those on the old lists and those that Vault keeps none may be lost
                     capability "list" on path "pki/certs/revoked", granted
`
	if b.String() != want {
		t.Errorf("have\n%s\nwant\n%s", b.String(), want)
	}
}

// A limit that the mount sets in entries is said in entries, and an apply that
// stopped says why.
func TestRescueOverTheLimitOfEntries(t *testing.T) {
	limit := crl.Storage{Backend: "raft", Raft: crl.RaftLimits{MaxEntrySize: 65536}}.Limit().WithMaxEntries(20)
	report := tidier.RescueReport{Mount: "pki", Stopped: "nothing has expired", RescuePlan: pki.RescuePlan{
		Verdict: "over the limit", Limit: pki.RescueLimit{Backend: limit.Backend, Known: true, MaxBytes: limit.MaxBytes, MaxEntries: 20, Rule: limit.Rule},
	}}
	var b strings.Builder
	if err := writeRescues(&b, outputTable, []tidier.RescueReport{report}); err != nil {
		t.Fatal(err)
	}
	const want = `mount pki: over the limit
stopped: nothing has expired
limit: 20 entries (max_crl_entries); the storage takes more: list + 33 (barrier) + 98 (raft entry) is at most 65536 (max_entry_size)
`
	if !strings.HasPrefix(b.String(), want) {
		t.Errorf("have\n%s\nwant\n%s", b.String(), want)
	}
}
