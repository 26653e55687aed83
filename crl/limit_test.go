package crl

import (
	"math"
	"strings"
	"testing"
)

// The numbers are literals. Those of the end-to-end tests' settings were met to
// the byte on real servers, which accepted such a list and refused one more.
func TestLimit(t *testing.T) {
	consul := func(kv, txn int64, path string) Storage {
		return Storage{Backend: "consul", Consul: ConsulLimits{KVMaxValueSize: kv, TxnMaxReqLen: txn, Path: path}}
	}
	raft := func(size int64) Storage { return Storage{Backend: "raft", Raft: RaftLimits{MaxEntrySize: size}} }
	version := func(s Storage, v string) Storage { s.VaultVersion = v; return s }
	key := func(s Storage, n int) Storage { s.KeyBytes = n; return s }

	for _, c := range []struct {
		name    string
		storage Storage
		want    int64
	}{
		{"consul defaults", Storage{Backend: "consul"}, 392892},
		{"consul defaults spelt out", consul(524288, 524288, "vault/"), 392892},
		{"path without its slash", consul(0, 0, "vault"), 392892},
		{"path with a slash before", consul(0, 0, "/vault/"), 392892},
		{"consul path, one character more", consul(0, 0, "vault1/"), 392889},
		{"consul path, seven characters more", consul(0, 0, "vault-abcdef/"), 392880},
		{"consul path, two characters more", consul(0, 0, "vault12/"), 392889},
		{"larger kv alone raises the request too", consul(1048576, 524288, ""), 786108},
		{"larger txn alone", consul(524288, 1048576, ""), 524255},
		{"both larger", consul(1048576, 2097152, ""), 1048543},
		{"smaller kv", consul(65536, 524288, ""), 65503},
		{"smaller txn does not count below kv", consul(524288, 65536, ""), 392892},
		{"longer key", key(consul(0, 0, ""), 90), 392889},
		{"a path that JSON escapes: & takes six characters", consul(0, 0, "a&b/"), 392886},
		{"a path of two-byte characters", consul(0, 0, "gewölbe/"), 392886},
		{"kv above txn, and a longer path", consul(98765, 65536, "secrets/vault/"), 73737},

		{"consul, 1.13.0", version(consul(0, 0, ""), "1.13.0"), 524255},
		{"consul, 1.14.4", version(consul(0, 0, ""), "1.14.4"), 524255},
		{"consul, 1.14.4-rc1", version(consul(0, 0, ""), "1.14.4-rc1"), 524255},
		{"consul, 1.14.6-rc1", version(consul(0, 0, ""), "1.14.6-rc1"), 392892},
		{"consul, 1.14.5", version(consul(0, 0, ""), "1.14.5"), 392892},
		{"consul, 1.14.10+ent", version(consul(0, 0, ""), "1.14.10+ent"), 392892},
		{"consul, 1.15.0", version(consul(0, 0, ""), "1.15.0"), 524255},
		{"consul, 1.15.0+ent.hsm", version(consul(0, 0, ""), "1.15.0+ent.hsm"), 524255},
		{"consul, 1.15.0-rc1", version(consul(0, 0, ""), "1.15.0-rc1"), 524255},
		{"consul, 1.15.1", version(consul(0, 0, ""), "1.15.1"), 392892},
		{"consul, v1.16.0-rc1", version(consul(0, 0, ""), "v1.16.0-rc1"), 392892},
		{"consul, 1.21.4", version(consul(0, 0, ""), "1.21.4"), 392892},
		{"consul, 2.0.0", version(consul(0, 0, ""), "2.0.0"), 392892},
		{"consul, 0.9.6", version(consul(0, 0, ""), "0.9.6"), 524255},
		{"old path does not count", version(consul(0, 0, "somewhere/else/"), "1.13.0"), 524255},

		{"raft defaults", Storage{Backend: "raft"}, 1048445},
		{"raft, 64 KiB", raft(65536), 65405},
		{"raft, 4 MiB: four-byte lengths", raft(4 << 20), 4194171},
		// The edges at which a length takes one byte more: the operation's at
		// 2^21, then the value's.
		{"raft, 2 MiB", raft(2097152), 2097021},
		{"raft, operation of 2^21-1", raft(2097155), 2097024},
		{"raft, no operation of 2^21 fits yet", raft(2097156), 2097024},
		{"raft, operation of 2^21", raft(2097157), 2097025},
		{"raft, value of 2^21-1", raft(2097250), 2097118},
		{"raft, no value of 2^21 fits yet", raft(2097251), 2097118},
		{"raft, value of 2^21", raft(2097252), 2097119},
		{"raft, 16 KiB: an operation of two-byte length", raft(16384), 16255},
		{"raft, 3 MiB and a bit", raft(3145731), 3145598},
		{"raft, 12 KiB", raft(12288), 12159},
		// The edges at 2^14 and 2^7 of the same two lengths.
		{"raft, operation of 2^14-1", raft(16386), 16257},
		{"raft, no operation of 2^14 fits yet", raft(16387), 16257},
		{"raft, operation of 2^14", raft(16388), 16258},
		{"raft, value of 2^14-1", raft(16480), 16350},
		{"raft, no value of 2^14 fits yet", raft(16481), 16350},
		{"raft, value of 2^14", raft(16482), 16351},
		{"raft, smallest list", raft(128), 1},
		{"raft, read from Vault 1.21.1", Storage{Backend: "raft", VaultVersion: "1.21.1", Raft: RaftLimits{Read: true}}, 1048445},
		{"raft, read from Vault 1.13.2", Storage{Backend: "raft", VaultVersion: "1.13.2", Raft: RaftLimits{Read: true}}, 1048445},
		{"raft, read from Vault 1.12.6", Storage{Backend: "raft", VaultVersion: "1.12.6", Raft: RaftLimits{Read: true}}, 1048445},
		{"raft, read from Vault 1.11.10", Storage{Backend: "raft", VaultVersion: "1.11.10", Raft: RaftLimits{Read: true}}, 1048445},
		{"raft, shown by a Vault of a strange version", Storage{Backend: "raft", VaultVersion: "main", Raft: RaftLimits{MaxEntrySize: 65536, Read: true}}, 65405},
		{"raft, longer key", key(raft(0), 100), 1048431},
		{"raft, key of two-byte length", key(raft(0), 128), 1048402},

		{"dynamodb", Storage{Backend: "dynamodb"}, 409470},
		{"dynamodb, longer key", key(Storage{Backend: "dynamodb"}, 92), 409464},
		{"azure", Storage{Backend: "azure"}, 4194270},
	} {
		l := c.storage.Limit()
		if l.MaxBytes != c.want || !l.Known || l.Backend != c.storage.Backend || l.Rule == "" {
			t.Errorf("%s: %+v, want %d bytes", c.name, l, c.want)
		}
	}
}

func TestLimitNoneOrUnknown(t *testing.T) {
	for _, c := range []struct {
		storage Storage
		known   bool
		rule    string
	}{
		{Storage{Backend: "file"}, true, "no limit"},
		{Storage{Backend: "inmem"}, true, "no limit"},
		{Storage{Backend: "postgresql"}, true, "no limit"},
		{Storage{Backend: "s3"}, true, "no limit"},
		{Storage{Backend: "etcd"}, false, "--max-request-bytes"},
		{Storage{Backend: "mysql"}, false, "max_allowed_packet"},
		{Storage{Backend: "spanner"}, false, "unknown"},
		{Storage{}, false, "the storage backend is not known"},
		{Storage{Backend: "floppy"}, false, `"floppy"`},
		{Storage{Backend: "consul", VaultVersion: "newest"}, false, `version "newest" of Vault`},
		{Storage{Backend: "consul", VaultVersion: "1.14"}, false, `version "1.14" of Vault`},
		{Storage{Backend: "consul", VaultVersion: "1.14.5-rc1"}, false, "is a pre-release of the one that began to write through transactions"},
		{Storage{Backend: "consul", VaultVersion: "1.15.1-beta1+ent"}, false, "is a pre-release of the one that began to write through transactions"},
		{Storage{Backend: "consul", Consul: ConsulLimits{KVMaxValueSize: 20}}, false, "nothing fits"},
		{Storage{Backend: "consul", Consul: ConsulLimits{KVMaxValueSize: 20, TxnMaxReqLen: 100}}, false, "nothing fits"},
		{Storage{Backend: "raft", VaultVersion: "1.13.1", Raft: RaftLimits{Read: true}}, false, "Vault 1.13.1 does not show max_entry_size"},
		{Storage{Backend: "raft", VaultVersion: "1.12.5+ent", Raft: RaftLimits{Read: true}}, false, "does not show max_entry_size"},
		{Storage{Backend: "raft", VaultVersion: "1.11.9", Raft: RaftLimits{Read: true}}, false, "does not show max_entry_size"},
		{Storage{Backend: "raft", VaultVersion: "1.9.10", Raft: RaftLimits{Read: true}}, false, "does not show max_entry_size"},
		{Storage{Backend: "raft", VaultVersion: "main", Raft: RaftLimits{Read: true}}, false, `version "main" of Vault`},
		{Storage{Backend: "raft", Raft: RaftLimits{MaxEntrySize: 127}}, false, "nothing fits"},
		{Storage{Backend: "raft", Raft: RaftLimits{MaxEntrySize: 100}}, false, "nothing fits"},
	} {
		l := c.storage.Limit()
		if l.MaxBytes != 0 || l.Known != c.known || !strings.Contains(l.Rule, c.rule) || l.Entries() != 0 {
			t.Errorf("%+v: %+v, want known %t and a rule with %q", c.storage, l, c.known, c.rule)
		}
	}
}

func TestLimitEntries(t *testing.T) {
	for bytes, want := range map[int64]int64{0: 0, 246: 0, 284: 0, 285: 1, 392892: 10067, 524255: 13436, 1048445: 26876} {
		if got := (Limit{MaxBytes: bytes}).Entries(); got != want {
			t.Errorf("%d bytes: %d entries, want %d", bytes, got, want)
		}
	}
}

func TestStorageValidate(t *testing.T) {
	for _, c := range []struct {
		storage Storage
		want    string
	}{
		{Storage{}, ""},
		{Storage{Backend: "consul", VaultVersion: "v1.15.0+ent"}, ""},
		{Storage{VaultVersion: "1.15"}, `version "1.15" of Vault is not of the form 1.21.4`},
		{Storage{VaultVersion: "1.x.0"}, `version "1.x.0" of Vault is not of the form 1.21.4`},
		{Storage{Backend: "consul", VaultVersion: "1.14.5-rc1"}, ""},
		{Storage{KeyBytes: -1}, "key length is -1, want a number of bytes"},
		{Storage{Consul: ConsulLimits{KVMaxValueSize: 1 << 60}}, "kv_max_value_size is 1152921504606846976, want a number of bytes"},
		{Storage{Raft: RaftLimits{MaxEntrySize: -1}}, "max_entry_size is -1, want a number of bytes"},
		{Storage{Consul: ConsulLimits{TxnMaxReqLen: -1}}, "txn_max_req_len is -1, want a number of bytes"},
	} {
		err := c.storage.Validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || err.Error() != c.want) {
			t.Errorf("%+v: %v, want %q", c.storage, err, c.want)
		}
	}
}

// Whatever the values, Limit gives an answer.
func TestLimitOfNonsense(t *testing.T) {
	for _, n := range []int64{math.MinInt64, -1, 1, math.MaxInt64} {
		for _, backend := range []string{"consul", "raft", "dynamodb"} {
			s := Storage{
				Backend: backend, KeyBytes: int(n), Raft: RaftLimits{MaxEntrySize: n},
				Consul: ConsulLimits{KVMaxValueSize: n, TxnMaxReqLen: n, Path: "\xff\x00"},
			}
			if l := s.Limit(); l.Rule == "" || l.MaxBytes < 0 {
				t.Errorf("%+v: %+v", s, l)
			}
		}
	}
}

func TestLimitRules(t *testing.T) {
	for _, c := range []struct {
		limit Limit
		want  string
	}{
		{
			Storage{Backend: "consul"}.Limit(),
			"387 (request at path vault/) + 4*ceil((list + 33)/3) is at most 524288 (txn_max_req_len), and list + 33 at most 524288 (kv_max_value_size)",
		},
		{
			Storage{Backend: "consul", Consul: ConsulLimits{KVMaxValueSize: 600000, Path: "v"}}.Limit(),
			"379 (request at path v/) + 4*ceil((list + 33)/3) is at most 600000 (kv_max_value_size), and list + 33 at most 600000 (kv_max_value_size)",
		},
		{
			Storage{Backend: "consul", VaultVersion: "1.13.0"}.Limit(),
			"list + 33 (barrier) is at most 524288 (kv_max_value_size)",
		},
		{
			Storage{Backend: "raft"}.Limit(),
			"list + 33 (barrier) + 98 (raft entry) is at most 1048576 (max_entry_size)",
		},
		{
			Storage{Backend: "raft", Raft: RaftLimits{MaxEntrySize: 12288, Read: true}}.Limit(),
			"list + 33 (barrier) + 96 (raft entry) is at most 12288 (max_entry_size); max_entry_size is what Vault shows, and a value that was changed by a reload is shown before a restart puts it in force",
		},
		{
			Storage{Backend: "raft"}.Limit().WithMaxEntries(100000),
			"list + 33 (barrier) + 98 (raft entry) is at most 1048576 (max_entry_size); this binds before max_crl_entries of the mount (100000)",
		},
		{
			Storage{Backend: "raft"}.Limit().WithMaxEntries(1000),
			"max_crl_entries of the mount binds: at most 1000 entries; the storage takes more: list + 33 (barrier) + 98 (raft entry) is at most 1048576 (max_entry_size)",
		},
		{
			Storage{Backend: "etcd"}.Limit().WithMaxEntries(1000),
			"unknown: set by the server (--max-request-bytes, default 1572864, of the whole marshalled request); whatever it is, max_crl_entries of the mount allows at most 1000 entries",
		},
	} {
		if c.limit.Rule != c.want {
			t.Errorf("rule %q\nwant %q", c.limit.Rule, c.want)
		}
	}
}

func TestLimitWithMaxEntries(t *testing.T) {
	version := func(v string) Limit { return Storage{Backend: "azure", VaultVersion: v}.Limit() }
	for _, c := range []struct {
		name    string
		limit   Limit
		n       int64
		bytes   int64
		entries int64
		counted int64
	}{
		{"Vault's default above raft's", Storage{Backend: "raft"}.Limit(), 100000, 1048445, 26876, 100000},
		{"Vault's default below azure's", Storage{Backend: "azure"}.Limit(), 100000, 3900246, 100000, 100000},
		{"where the storage has none", Storage{Backend: "file"}.Limit(), 100000, 3900246, 100000, 100000},
		{"one entry less than fits", Storage{Backend: "raft"}.Limit(), 26875, 1048371, 26875, 26875},
		{"just as many as fit", Storage{Backend: "raft"}.Limit(), 26876, 1048410, 26876, 26876},
		{"one more than fits", Storage{Backend: "raft"}.Limit(), 26877, 1048445, 26876, 26877},
		{"off", Storage{Backend: "raft"}.Limit(), -1, 1048445, 26876, 0},
		{"not read", Storage{Backend: "raft"}.Limit(), 0, 1048445, 26876, 0},
		{"beyond all numbers", Storage{Backend: "raft"}.Limit(), math.MaxInt64, 1048445, 26876, math.MaxInt64},
		{"a limit that was set", Limit{MaxBytes: 5000, Known: true}, 100, 4146, 100, 100},
		{"unknown stays unknown", Storage{Backend: "etcd"}.Limit(), 1000, 0, 0, 1000},
		{"Vault 1.19.0", version("1.19.0"), 10, 636, 10, 10},
		{"Vault 1.19.0-beta1", version("1.19.0-beta1"), 10, 636, 10, 10},
		{"Vault 1.18.9, which does not know it", version("1.18.9"), 10, 4194270, 107539, 0},
		{"a version that cannot be read", version("main"), 10, 636, 10, 10},
	} {
		l := c.limit.WithMaxEntries(c.n)
		if l.MaxBytes != c.bytes || l.Entries() != c.entries || l.MaxEntries != c.counted || l.Known != c.limit.Known {
			t.Errorf("%s: %+v with %d entries, want %d bytes, %d entries, %d counted", c.name, l, l.Entries(), c.bytes, c.entries, c.counted)
		}
	}
}

func TestLimitUsed(t *testing.T) {
	small := Storage{Backend: "raft", Raft: RaftLimits{MaxEntrySize: 10131 - 1}}.Limit() // accepts 10001
	for _, c := range []struct {
		name           string
		limit          Limit
		bytes, entries int64
		want           float64
		known          bool
	}{
		{"by bytes", small, 5000, 100, 5000.0 / 10001, true},
		{"just fits", small, 10001, 250, 1, true},
		{"a limit that was set", Limit{MaxBytes: 4000, Known: true}, 1000, 25, 0.25, true},
		{"bytes are nearer", small.WithMaxEntries(1000), 5000, 100, 5000.0 / 10001, true},
		{"entries are nearer", small.WithMaxEntries(50), 2000, 40, 0.8, true},
		// 50 entries by an RSA issuer take more bytes than by an EC P-256 one.
		{"as many entries as there may be", small.WithMaxEntries(50), 2646, 50, 1, true},
		{"few entries, but long ones", small.WithMaxEntries(50), 20002, 5, 2, true},
		{"no limit of the storage", Storage{Backend: "file"}.Limit().WithMaxEntries(50), 1 << 40, 25, 0.5, true},
		{"unknown, but for the entries", Storage{Backend: "etcd"}.Limit().WithMaxEntries(50), 1 << 40, 100, 2, true},
		{"no limit", Storage{Backend: "file"}.Limit(), 1 << 40, 1 << 30, 0, false},
		{"unknown", Storage{Backend: "etcd"}.Limit(), 1 << 40, 1 << 30, 0, false},
	} {
		got, known := c.limit.Used(c.bytes, c.entries)
		if known != c.known || known && got != c.want {
			t.Errorf("%s: %v %t, want %v %t", c.name, got, known, c.want, c.known)
		}
	}
}
