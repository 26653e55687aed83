package pki_test

import (
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

// expired is n entries of 39 bytes whose certificates expired so long ago.
func expired(n int, ago time.Duration) []pki.RescueEntry {
	return slices.Repeat([]pki.RescueEntry{{NotAfter: now.Add(-ago).Unix(), Bytes: 39}}, n)
}

// unstored is n entries whose certificates Vault no longer has.
func unstored(n int) []pki.RescueEntry {
	return slices.Repeat([]pki.RescueEntry{{Bytes: 39}}, n)
}

// rescue is a mount with one list of 1600 entries, 62646 bytes long, and these
// entries for the next one.
func rescue(limit crl.Limit, entries ...[]pki.RescueEntry) pki.Rescue {
	all := slices.Concat(entries...)
	return pki.Rescue{
		Mount: mount,
		Lists: []pki.RescueList{{
			Served: pki.CRL{
				Mount: mount, Issuer: pki.Issuer{ID: "id", Name: "root"}, Limit: limit,
				Summary: crl.Summary{Bytes: 62646, Entries: 1600, NextUpdate: now.Add(days)},
			},
			ServedEntryBytes: 1600 * 39,
			Groups:           []pki.RescueGroup{{Entries: int64(len(all)), Bytes: 39 * int64(len(all)), Sample: all}},
			Missing:          max(0, int64(len(all))-1600),
		}},
		Config: &pki.CRLConfig{},
	}
}

func raft64K() crl.Limit {
	return crl.Storage{Backend: "raft", VaultVersion: "1.21.1", Raft: crl.RaftLimits{MaxEntrySize: 65536}}.Limit()
}

func consul64K() crl.Limit {
	return crl.Storage{Backend: "consul", VaultVersion: "1.21.1", Consul: crl.ConsulLimits{KVMaxValueSize: 65536, TxnMaxReqLen: 65536}}.Limit()
}

// needs is the plan's steps in short: each with ! where it is needed and ? where
// it is one of several that would do.
func needs(p pki.RescuePlan) string {
	var b strings.Builder
	for _, s := range p.Steps {
		mark := map[pki.RescueNeed]string{pki.Needed: "!", pki.Instead: "?"}[s.Need]
		if mark != "" {
			b.WriteString(string(rune('0'+s.Step)) + mark)
		}
	}
	return b.String()
}

func TestRescueVerdicts(t *testing.T) {
	short := policy()
	short.AllowShortSafetyBuffer = true
	etcd := crl.Storage{Backend: "etcd"}.Limit()
	big := crl.Storage{Backend: "raft"}.Limit()
	tests := []struct {
		name    string
		rescue  pki.Rescue
		policy  pki.Policy
		status  pki.RescueStatus
		enough  string // yes, no, unknown
		needs   string
		verdict string
	}{
		{"fits", rescue(raft64K(), expired(1600, -hour)), policy(), "fits", "yes", "", "the next lists fit: there is nothing to rescue"},
		{"tidy is enough", rescue(raft64K(), expired(500, 100*hour), expired(1300, -hour)), policy(), "over", "yes", "1!6!7!",
			"over the limit: steps 1, 6 and 7 are enough"},
		{"a shorter buffer would do", rescue(raft64K(), expired(500, 30*hour), expired(1300, -hour)), policy(), "over", "no", "2?3?4?5?6!7!",
			"over the limit: not enough without one of the steps 2, 3, 4 and 5"},
		{"only one below the floor would do", rescue(raft64K(), expired(500, 3*hour), expired(1300, -hour)), policy(), "over", "no", "3?4?5?6!7!",
			"over the limit: not enough without one of the steps 3, 4 and 5"},
		{"which is allowed", rescue(raft64K(), expired(500, 3*hour), expired(1300, -hour)), short, "over", "no", "2?3?4?5?6!7!",
			"over the limit: not enough without one of the steps 2, 3, 4 and 5"},
		{"nothing has expired", rescue(consul64K(), expired(1300, -hour)), policy(), "over", "no", "3?4?5?6!7!",
			"over the limit: not enough without one of the steps 3, 4 and 5"},
		{"no setting helps", rescue(crl.Storage{Backend: "dynamodb"}.Limit(), expired(20, 100*hour), expired(11000, -hour)), policy(), "over", "no", "1!4?5?6!7!",
			"over the limit: not enough without one of the steps 4 and 5"},
		{"max_crl_entries binds", rescue(big.WithMaxEntries(1700), expired(1800, -hour)), policy(), "over", "no", "3?4?5?6!7!",
			"over the limit: not enough without one of the steps 3, 4 and 5"},
		{"no limit", rescue(crl.Storage{Backend: "file"}.Limit(), expired(9000, -hour)), policy(), "stale", "yes", "6!7!",
			"the next lists fit, and what is served is behind them (7400 revocations are missing): steps 6 and 7 are enough"},
		{"the limit was raised", rescue(big, expired(1800, -hour)), policy(), "stale", "yes", "6!7!",
			"the next lists fit, and what is served is behind them (200 revocations are missing): steps 6 and 7 are enough"},
		{"by time", func() pki.Rescue {
			r := rescue(big, expired(1800, -hour))
			r.Config.AutoRebuild = true
			return r
		}(), policy(), "fits", "yes", "", "the next lists fit: there is nothing to rescue; 200 revocations come onto a list when Vault next rebuilds it by itself (auto_rebuild), or by steps 6 and 7"},
		{"past nextUpdate", func() pki.Rescue {
			r := rescue(big, expired(1600, -hour))
			r.Config.AutoRebuild = true
			r.Lists[0].Served.Summary.NextUpdate = now.Add(-hour)
			return r
		}(), policy(), "stale", "yes", "6!7!", "the next lists fit, and what is served is behind them (the list of issuer root expired at 2026-03-01T11:00:00Z): steps 6 and 7 are enough"},
		{"switched off", func() pki.Rescue {
			r := rescue(raft64K(), expired(1800, 100*hour))
			r.Config.Disabled = true
			return r
		}(), policy(), "disabled", "unknown", "", "lists are switched off in this mount (config/crl disable): none is written, so none can be too large"},
		{"limit unknown, all is served", rescue(etcd, expired(1600, -hour)), policy(), "fits", "yes", "", "what is served holds every revocation, so there is nothing to rescue; how much room is left is not known"},
		{"limit unknown", rescue(etcd, expired(1800, 100*hour)), policy(), "unknown", "unknown", "1!6!7!", "how large a list the storage accepts is not known (unknown: set by the server (--max-request-bytes, default 1572864, of the whole marshalled request)), and what is served is behind (200 revocations are missing): set crl.limit, or let --apply tidy and see what crl/rotate says"},
		{"limit unknown, refused", func() pki.Rescue {
			r := rescue(etcd, expired(1800, -hour))
			r.TooLarge = &pki.TooLargeError{Message: "request is too large"}
			return r
		}(), policy(), "over", "no", "4?5?3?6!7!", "over the limit: not enough without one of the steps 3, 4 and 5"},
		{"certificates are gone", rescue(raft64K(), unstored(500), expired(1300, -hour)), policy(), "over", "unknown", "1!6!7!",
			"over the limit: steps 1, 6 and 7 may be enough, which is known once every certificate has been read (--apply does so)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := pki.PlanRescue(tt.rescue, tt.policy, now)
			enough := "unknown"
			if p.Enough != nil {
				enough = map[bool]string{true: "yes", false: "no"}[*p.Enough]
			}
			if p.Status != tt.status || enough != tt.enough || p.Verdict != tt.verdict {
				t.Errorf("%s, enough: %s, %q, want %s, %s, %q", p.Status, enough, p.Verdict, tt.status, tt.enough, tt.verdict)
			}
			want := strings.Split(tt.needs, "")
			got := strings.Split(needs(p), "")
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("steps %s, want %s", needs(p), tt.needs)
			}
			if p.Refused != "" {
				t.Errorf("refused: %s", p.Refused)
			}
		})
	}
}

// Of 1800 revocations 500 expired 30 hours ago, and raft's 65536 take 1670: so
// 130 have to go, and all of the 500 do.
func TestRescueStepsOnRaft(t *testing.T) {
	p := pki.PlanRescue(rescue(raft64K(), expired(500, 30*hour+30*time.Minute), expired(1300, -hour)), policy(), now)
	tidy, buffer, raise, key, disable, rotate, prove := p.Steps[0], p.Steps[1], p.Steps[2], p.Steps[3], p.Steps[4], p.Steps[5], p.Steps[6]

	if tidy.Need != pki.Useless || tidy.Why != "none of the 1800 revocations has been expired for longer than that" || tidy.By != "pkiwarden" {
		t.Errorf("tidy %+v", tidy)
	}
	if buffer.What != "shorten tidy.safetyBuffer to 30h, and rescue again" || buffer.Commands[0] != "tidy: {safetyBuffer: 30h}" || buffer.By != "you" {
		t.Errorf("buffer %+v", buffer)
	}
	// 1300 entries of 39 bytes, the frame of 246, and 8 for what differs.
	if s := buffer.After[0]; s.Entries != 1300 || s.Bytes != 50954 || s.Fits == nil || !*s.Fits {
		t.Errorf("after the buffer %+v", s)
	}
	// 1800 entries: 70200 + 246 + 8, and three lengths of one more octet beyond
	// 65535. That is 70457, with 131 around it for raft; as 60 %, 117428.
	want := pki.RescueSetting{Name: "max_entry_size", Value: 117428 + 131, Least: 70457 + 131}
	if len(raise.Ways) != 1 || len(raise.Ways[0]) != 1 || raise.Ways[0][0] != want || !strings.Contains(raise.What, "set max_entry_size to 117559 ") ||
		!strings.Contains(raise.What, "restart them: a reload does not apply it") || !strings.Contains(raise.Why, "set max_entry_size to 70588 ") {
		t.Errorf("raise %+v", raise)
	}
	// What expired at 05:30 the day before is past the buffer of 72 h by then, to
	// the second.
	if !strings.Contains(key.Why, "fits by itself at 2026-03-03T05:30:01Z,") {
		t.Errorf("new key %+v", key)
	}
	if s := disable.After[0]; s.Entries != 0 || s.Bytes > 254 || disable.Capability.Path != "pki/config/crl" {
		t.Errorf("disable %+v", disable)
	}
	if rotate.Capability.Path != "pki/crl/rotate" || rotate.Capability.Capability != "read" || *rotate.Capability.Granted != true || rotate.Commands[0] != "vault read pki/crl/rotate" {
		t.Errorf("rotate %+v", rotate)
	}
	if prove.Need != pki.Needed || prove.After[0].Entries != 1800 {
		t.Errorf("prove %+v", prove)
	}
}

func TestRescueSettings(t *testing.T) {
	const kv, txn = "limits.kv_max_value_size", "limits.txn_max_req_len"
	// 2000 entries: 78000 + 246 + 8 + 3 = 78257, as 60 % 130428.
	entries := expired(2000, -hour)
	for name, tt := range map[string]struct {
		limit crl.Limit
		want  [][]pki.RescueSetting
	}{
		"consul, both": {consul64K(), [][]pki.RescueSetting{
			// The value has 33 more; the request 387 and 4 for every 3 of it.
			{{Name: kv, Value: 130461, Least: 78290}, {Name: txn, Value: 174335, Least: 104775}},
			{{Name: kv, Value: 174335, Least: 104775}},
		}},
		"consul, a larger request": {
			crl.Storage{Backend: "consul", VaultVersion: "1.21.1", Consul: crl.ConsulLimits{KVMaxValueSize: 65536, TxnMaxReqLen: 1 << 20}}.Limit(),
			[][]pki.RescueSetting{{{Name: kv, Value: 130461, Least: 78290}}},
		},
		"consul, under Vault 1.13": {
			crl.Storage{Backend: "consul", VaultVersion: "1.13.0", Consul: crl.ConsulLimits{KVMaxValueSize: 65536}}.Limit(),
			[][]pki.RescueSetting{{{Name: kv, Value: 130461, Least: 78290}}},
		},
		// 3338 entries of 39 are 130428 less a frame of 246.
		"entries": {crl.Storage{Backend: "raft"}.Limit().WithMaxEntries(1700), [][]pki.RescueSetting{
			{{Name: "max_crl_entries", Value: 3338, Least: 2001}},
		}},
	} {
		raise := pki.PlanRescue(rescue(tt.limit, entries), policy(), now).Steps[2]
		if !slices.EqualFunc(raise.Ways, tt.want, slices.Equal) {
			t.Errorf("%s: %+v, want %+v", name, raise.Ways, tt.want)
		}
		for _, s := range raise.After {
			if s.Fits == nil || !*s.Fits {
				t.Errorf("%s: after it %+v", name, s)
			}
		}
	}
}

// What is refused names the capability; a right that is not known is not said
// to be granted.
func TestRescueRefused(t *testing.T) {
	r := rescue(raft64K(), expired(1800, 100*hour))
	r.Denied = []pki.PermissionError{{Path: "pki/tidy", Capability: "update"}}
	p := pki.PlanRescue(r, policy(), now)
	if p.Refused != `permission denied: needs capability "update" on path "pki/tidy"` || *p.Steps[0].Capability.Granted || !*p.Steps[5].Capability.Granted {
		t.Errorf("refused %q, steps %+v", p.Refused, p.Steps)
	}
	r.Denied, r.DeniedUnknown = nil, "may not ask"
	if p := pki.PlanRescue(r, policy(), now); p.Refused != "" || p.Steps[0].Capability.Granted != nil {
		t.Errorf("refused %q, %+v", p.Refused, p.Steps[0].Capability)
	}
	r.Lists[0].Doomed = []string{"0a", "0b", "0c", "0d"}
	if p := pki.PlanRescue(r, policy(), now); !strings.Contains(p.Refused, "has 4 certificates that have not expired and whose revocation Vault no longer keeps (0a, 0b, 0c)") {
		t.Errorf("refused %q", p.Refused)
	}
}

// What the storage says when it refuses a list counts more than what is
// configured or shown: raft shows a max_entry_size that a restart has yet to put
// in force.
func TestRescueAfterARefusal(t *testing.T) {
	said := func(limit int64, message string) *pki.TooLargeError {
		return &pki.TooLargeError{Limit: limit, Message: message}
	}
	big := crl.Storage{Backend: "raft"}.Limit().WithMaxEntries(100000)
	unread := crl.Limit{Backend: "consul", Rule: "set consul.address"}
	for name, tt := range map[string]struct {
		limit   crl.Limit
		refused *pki.TooLargeError
		max     int64
		known   bool
		raise   string
	}{
		"raft":    {big, said(65536, "put failed due to value being too large; got 70449 bytes, max: 65536 bytes"), 65405, true, "set max_entry_size to "},
		"consul":  {unread, said(65536, "Request body(94316 bytes) too large, max size: 65536 bytes"), 48828, true, "set limits.kv_max_value_size to "},
		"entries": {big, said(1700, "revocation list size (1800) exceeds configured maximum (1700)"), 66546, true, "set max_crl_entries to "},
		"unnamed": {crl.Storage{Backend: "etcd"}.Limit(), said(0, "value exceeds the limit"), 0, false, "raise the limit"},
		"set":     {crl.Limit{Known: true, MaxBytes: 1 << 20}, said(65536, "max size: 65536"), 1 << 20, true, "raise the limit"},
	} {
		limit := pki.RefusedLimit(tt.limit, tt.refused, "1.21.1")
		if limit.MaxBytes != tt.max || limit.Known != tt.known {
			t.Errorf("%s: limit %+v", name, limit)
		}
		r := rescue(limit, expired(1800, -hour))
		r.TooLarge = tt.refused
		p := pki.PlanRescue(r, policy(), now)
		if p.Status != pki.RescueOver || p.Enough == nil || *p.Enough || !strings.HasPrefix(p.Steps[2].What, tt.raise) || !strings.Contains(p.Verdict, "not enough without ") {
			t.Errorf("%s: %s, %s, raise: %+v", name, p.Status, p.Verdict, p.Steps[2])
		}
	}
}

// A part that was read stands for the whole within a margin: what may not fit
// is not said to fit.
func TestRescueOfASample(t *testing.T) {
	sampled := func(ripe, green int) pki.RescuePlan {
		r := rescue(raft64K(), expired(ripe, 100*hour), expired(green, -hour))
		r.Lists[0].Groups[0].Entries, r.Lists[0].Groups[0].Bytes = 10000, 390000
		return pki.PlanRescue(r, policy(), now)
	}
	// 1900 of 2000 are ripe, so 500 of 10000 stay, give or take 85.
	p := sampled(1900, 100)
	if s := p.Steps[0].After[0]; s.Entries < 580 || s.Entries > 590 || s.EntriesLeast < 410 || s.EntriesLeast > 420 || s.Fits == nil || !*s.Fits {
		t.Errorf("after tidy %+v", s)
	}
	// 1670 entries fit, and so many stay, give or take 150.
	p = sampled(1666, 334)
	if s := p.Steps[0].After[0]; s.Fits != nil || s.EntriesLeast > 1670 || s.Entries < 1670 || p.Enough != nil || p.Status != pki.RescueOver {
		t.Errorf("after tidy %+v, %s", s, p.Verdict)
	}
	p = sampled(1600, 400)
	if s := p.Steps[0].After[0]; s.Fits == nil || *s.Fits || *p.Enough {
		t.Errorf("after tidy %+v, %s", s, p.Verdict)
	}
	// None of those read stays; of the others a few may.
	p = sampled(2000, 0)
	if s := p.Steps[0].After[0]; s.EntriesLeast != 0 || s.Entries != 15 {
		t.Errorf("after tidy %+v", s)
	}
}

// The size of the next list is told from the one that is served, whatever their
// lengths: never too low, and too high by a few octets at most.
func TestRescuePredictsSizes(t *testing.T) {
	a := newAuthority(t, "root")
	list := func(n int) pki.CRL {
		return a.list(t, hour, 0, batch{n, hour})
	}
	counts := []int{0, 1, 2, 3, 4, 200, 1600, 1680, 1700, 3000}
	lists := make([]pki.CRL, len(counts))
	for i, n := range counts {
		lists[i] = list(n)
	}
	for i, from := range counts {
		for j, to := range counts {
			r := pki.Rescue{Mount: mount, Lists: []pki.RescueList{{
				Served: lists[i], ServedEntryBytes: int64(from) * 39,
				Groups: []pki.RescueGroup{{Entries: int64(to), Bytes: int64(to) * 39, Sample: expired(to, -hour)}},
			}}}
			got := pki.PlanRescue(r, policy(), now).Lists[0].Next.Bytes
			if off := got - lists[j].Summary.Bytes; off < 0 || off > 16 {
				t.Errorf("from %d entries to %d: %d bytes, it is %d", from, to, got, lists[j].Summary.Bytes)
			}
		}
	}
}

func TestEntrySize(t *testing.T) {
	a := newAuthority(t, "root")
	for _, octets := range []int{1, 20, 105, 106, 107, 111, 112, 200, 300} {
		serial := new(big.Int).Lsh(big.NewInt(1), uint(8*octets-2))
		revoked := []x509.RevocationListEntry{{SerialNumber: serial, RevocationTime: now}}
		template := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now, NextUpdate: now.Add(hour), RevokedCertificateEntries: revoked}
		der, err := x509.CreateRevocationList(rand.Reader, template, a.cert, a.key)
		if err != nil {
			t.Fatal(err)
		}
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := pki.EntrySize(int64(octets)), int64(len(list.RevokedCertificateEntries[0].Raw)); got != want {
			t.Errorf("%d octets: %d, it is %d", octets, got, want)
		}
	}
}

func TestRescueWithoutLists(t *testing.T) {
	p := pki.PlanRescue(pki.Rescue{Mount: mount, Config: &pki.CRLConfig{}}, policy(), now)
	if p.Status != pki.RescueFits || len(p.Steps) != 7 || needs(p) != "" {
		t.Errorf("%+v", p)
	}
}
