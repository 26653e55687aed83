package crl

import (
	"strings"
	"testing"
)

// The numbers are literals: those of the defaults were seen on real servers,
// to within the 312 and 156 bytes of the lists that were tried.
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

		{"consul, 1.13.0", version(consul(0, 0, ""), "1.13.0"), 524255},
		{"consul, 1.14.4", version(consul(0, 0, ""), "1.14.4"), 524255},
		{"consul, 1.14.5-rc1", version(consul(0, 0, ""), "1.14.5-rc1"), 524255},
		{"consul, 1.14.5", version(consul(0, 0, ""), "1.14.5"), 392892},
		{"consul, 1.14.10+ent", version(consul(0, 0, ""), "1.14.10+ent"), 392892},
		{"consul, 1.15.0", version(consul(0, 0, ""), "1.15.0"), 524255},
		{"consul, 1.15.0+ent.hsm", version(consul(0, 0, ""), "1.15.0+ent.hsm"), 524255},
		{"consul, 1.15.1-beta1", version(consul(0, 0, ""), "1.15.1-beta1"), 524255},
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
		{"raft, longer key", key(raft(0), 100), 1048431},
		{"raft, key of two-byte length", key(raft(0), 128), 1048402},

		{"dynamodb", Storage{Backend: "dynamodb"}, 409470},
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
		{Storage{Backend: "consul", Consul: ConsulLimits{KVMaxValueSize: 20}}, false, "nothing fits"},
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
		{Storage{Raft: RaftLimits{MaxEntrySize: -1}}, "max_entry_size is -1, want a number of bytes"},
		{Storage{Consul: ConsulLimits{TxnMaxReqLen: -1}}, "txn_max_req_len is -1, want a number of bytes"},
	} {
		err := c.storage.Validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || err.Error() != c.want) {
			t.Errorf("%+v: %v, want %q", c.storage, err, c.want)
		}
	}
}
