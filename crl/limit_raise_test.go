package crl

import (
	"testing"
)

// with is the limit after a setting was made.
func with(l Limit, made ...Setting) Limit {
	s, entries := l.Storage, l.MaxEntries
	for _, setting := range made {
		switch setting.Name {
		case "limits.kv_max_value_size":
			s.Consul.KVMaxValueSize = setting.Value
		case "limits.txn_max_req_len":
			s.Consul.TxnMaxReqLen = setting.Value
		case "max_entry_size":
			s.Raft.MaxEntrySize = setting.Value
		case "max_crl_entries":
			entries = setting.Value
		default:
			panic("no such setting: " + setting.Name)
		}
	}
	return s.Limit().WithMaxEntries(entries)
}

// What is named makes room, and nothing of it could be less by one.
func TestRaiseIsMinimal(t *testing.T) {
	limits := map[string]Limit{
		"consul":                  Storage{Backend: "consul"}.Limit(),
		"consul, larger txn":      Storage{Backend: "consul", Consul: ConsulLimits{TxnMaxReqLen: 4 << 20}}.Limit(),
		"consul, larger kv":       Storage{Backend: "consul", Consul: ConsulLimits{KVMaxValueSize: 1 << 20}}.Limit(),
		"consul, smaller kv":      Storage{Backend: "consul", Consul: ConsulLimits{KVMaxValueSize: 1 << 16}}.Limit(),
		"consul, path":            Storage{Backend: "consul", Consul: ConsulLimits{Path: "a/long&winding/path/"}}.Limit(),
		"consul, old":             Storage{Backend: "consul", VaultVersion: "1.13.0"}.Limit(),
		"consul, entries":         Storage{Backend: "consul"}.Limit().WithMaxEntries(2000),
		"consul, larger, entries": Storage{Backend: "consul", Consul: ConsulLimits{KVMaxValueSize: 1 << 30}}.Limit().WithMaxEntries(2000),
		"raft":                    Storage{Backend: "raft"}.Limit(),
		"raft, small":             Storage{Backend: "raft", Raft: RaftLimits{MaxEntrySize: 8192}}.Limit(),
		"raft, entries":           Storage{Backend: "raft"}.Limit().WithMaxEntries(100000),
		"file, entries":           Storage{Backend: "file"}.Limit().WithMaxEntries(300),
		"etcd, entries":           Storage{Backend: "etcd"}.Limit().WithMaxEntries(300),
		"set, entries":            Limit{MaxBytes: 1 << 40, Known: true}.WithMaxEntries(300),
	}
	sizes := []int64{1, 16217, 16218, 16350, 16351, 65503, 65504, 392892, 392893, 392894, 392895, 392896, 524255, 524256, 1048445, 1048446, 2097024, 2097025, 2097118, 2097119, 5000000}
	raised := 0
	for name, l := range limits {
		for _, size := range sizes {
			fits := func(l Limit) bool {
				entries := (size - 246 + 38) / 39
				used, known := l.Used(size, entries)
				return !known || used <= 1
			}
			r := l.Raise(size)
			if fits(l) != (len(r.Ways) == 0) || (r.Words == "") != (len(r.Ways) == 0) {
				t.Errorf("%s: %d bytes fit %t: %+v", name, size, fits(l), r)
			}
			for _, way := range r.Ways {
				raised++
				if !fits(with(l, way...)) {
					t.Errorf("%s: %d bytes do not fit with %v", name, size, way)
				}
				for i := range way {
					less := append([]Setting(nil), way...)
					less[i].Value--
					if fits(with(l, less...)) {
						t.Errorf("%s: %d bytes fit with less than %v: %v", name, size, way, less)
					}
				}
			}
		}
	}
	if raised < 100 {
		t.Errorf("only %d ways were tried", raised)
	}
}

func TestRaiseWords(t *testing.T) {
	for _, c := range []struct {
		name  string
		limit Limit
		bytes int64
		want  string
	}{
		{"fits", Storage{Backend: "consul"}.Limit(), 392892, ""},
		{
			"consul, the request", Storage{Backend: "consul"}.Limit(), 400000,
			"set limits.txn_max_req_len to 533767 on the Consul agent that Vault talks to (or limits.kv_max_value_size to the same), and restart it",
		},
		{
			"consul, both", Storage{Backend: "consul"}.Limit(), 600000,
			"set limits.kv_max_value_size to 600033 and limits.txn_max_req_len to 800431 on the Consul agent that Vault talks to (or limits.kv_max_value_size alone to 800431), and restart it",
		},
		{
			"consul, the value", Storage{Backend: "consul", Consul: ConsulLimits{TxnMaxReqLen: 1 << 20}}.Limit(), 600000,
			"set limits.kv_max_value_size to 600033 on the Consul agent that Vault talks to, and restart it",
		},
		{
			"consul, old", Storage{Backend: "consul", VaultVersion: "1.13.0"}.Limit(), 600000,
			"set limits.kv_max_value_size to 600033 on the Consul agent that Vault talks to, and restart it",
		},
		{
			"raft", Storage{Backend: "raft"}.Limit(), 2000000,
			`set max_entry_size to 2000131 in the storage "raft" stanza of every Vault server and restart them: a reload does not apply it`,
		},
		{
			"raft, entries too", Storage{Backend: "raft"}.Limit().WithMaxEntries(10000), 2000000,
			`set max_entry_size to 2000131 in the storage "raft" stanza of every Vault server and restart them: a reload does not apply it; and set max_crl_entries to 51276 on the mount (config/crl)`,
		},
		{
			"entries alone", Storage{Backend: "raft"}.Limit().WithMaxEntries(10000), 400000,
			"set max_crl_entries to 10251 on the mount (config/crl)",
		},
		{"dynamodb", Storage{Backend: "dynamodb"}.Limit(), 600000, "no setting helps: an item of DynamoDB is at most 400 KiB"},
		{"dynamodb, entries do not help", Storage{Backend: "dynamodb"}.Limit().WithMaxEntries(10), 600000, "no setting helps: an item of DynamoDB is at most 400 KiB"},
		{"azure", Storage{Backend: "azure"}.Limit(), 5000000, "no setting helps: Vault refuses values of 4 MiB for this storage"},
		{"no limit", Storage{Backend: "file"}.Limit(), 1 << 40, ""},
		{"unknown", Storage{Backend: "etcd"}.Limit(), 1 << 40, ""},
		{"a limit that was set", Limit{MaxBytes: 5000, Known: true}, 6000, ""},
	} {
		if got := c.limit.Raise(c.bytes).Words; got != c.want {
			t.Errorf("%s: %q\nwant %q", c.name, got, c.want)
		}
	}
}
