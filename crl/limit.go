package crl

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Storage describes what keeps Vault's data, as far as it decides how large a
// revocation list can be. Zero values stand for the defaults of each backend.
type Storage struct {
	Backend      string // as sys/seal-status names it in storage_type: consul, raft, dynamodb, …
	VaultVersion string // as sys/seal-status has it; "" stands for a current one
	Consul       ConsulLimits
	Raft         RaftLimits

	// KeyBytes is the length of the physical key, without Consul's path. 0 means
	// 86, the length of logical/<mount UUID>/crls/<CRL UUID>. A delta list's is
	// 6 longer, a unified one's 8.
	KeyBytes int
}

// ConsulLimits are the settings of the Consul agent that Vault talks to.
type ConsulLimits struct {
	KVMaxValueSize int64  // limits.kv_max_value_size, default 524288
	TxnMaxReqLen   int64  // limits.txn_max_req_len, default 524288
	Path           string // path of Vault's storage "consul" stanza, default vault/
}

// RaftLimits are the settings of Vault's storage "raft" stanza.
type RaftLimits struct {
	MaxEntrySize int64 // max_entry_size, default 1048576

	// Read says that MaxEntrySize is what a running Vault shows in
	// sys/config/state/sanitized, 0 when it shows none. The rule then says how
	// far that can be trusted: Vault shows a value that was changed by a reload
	// and applies it only after a restart (vault/raft.go, ReloadRaftConfig), and
	// old versions show none (GH-20044).
	Read bool
}

// Limit is the size of the largest list that a storage accepts.
//
// Where max_crl_entries is the nearer ceiling, MaxBytes is the size of a list
// with so many of Vault's entries by an EC P-256 issuer. Lists of other issuers
// differ by some hundred bytes, so ask [Limit.Used] about a list at hand.
type Limit struct {
	Backend    string
	MaxBytes   int64   // of the DER list; 0: none or unknown, and Rule says why
	MaxEntries int64   // max_crl_entries where it is in force; 0: none, or nobody has read it
	Rule       string  // the rule in words, with the numbers that went into it
	Known      bool    // false: nothing is known, which is not the same as no limit
	Storage    Storage // what the limit was computed for; zero when it was set

	tooSmall     bool  // not even an empty list fits
	storageBytes int64 // what the storage alone accepts; of use where MaxEntries is set
}

// barrierBytes is what Vault's barrier adds to a value: term 4, version 1,
// nonce 12, tag 16 (vault/barrier_aes_gcm.go).
const barrierBytes = 33

// How large a list of Vault's is: an entry with a serial number of 20 octets
// and a UTCTime, and what an EC P-256 issuer puts around all of them.
const (
	entryBytes = 39
	listBytes  = 246
)

const (
	defaultKeyBytes     = 86
	defaultConsulPath   = "vault/"
	defaultConsulLimit  = 512 << 10
	defaultMaxEntrySize = 1 << 20

	// maxSetting bounds each setting and size, so that no sum overflows. It is
	// far beyond what any storage is set to.
	maxSetting = 1 << 50
)

// Validate says which of the values no storage can have, or that with them not
// even an empty list fits.
func (s Storage) Validate() error {
	for _, setting := range []struct {
		name  string
		value int64
	}{
		{"kv_max_value_size", s.Consul.KVMaxValueSize},
		{"txn_max_req_len", s.Consul.TxnMaxReqLen},
		{"max_entry_size", s.Raft.MaxEntrySize},
		{"key length", int64(s.KeyBytes)},
	} {
		if setting.value < 0 || setting.value > maxSetting {
			return fmt.Errorf("%s is %d, want a number of bytes", setting.name, setting.value)
		}
	}
	if s.VaultVersion != "" {
		if _, err := parseVersion(s.VaultVersion); err != nil {
			return err
		}
	}
	if l := s.Limit(); l.tooSmall {
		return fmt.Errorf("with these settings %s", l.Rule)
	}
	return nil
}

// Limit is the size of the largest DER list that this storage accepts: exact
// for consul, raft, dynamodb and azure. It never panics, whatever the values.
//
// OpenBao reports itself as Vault does, with a version of its own numbering,
// and cannot be told from it. Its raft entries may be up to 11 bytes longer
// (lowest_active_index), so that its limit is lower by as much.
//
// Vault with an ha_storage of its own writes to Consul without the session
// check: its limit is higher than the one given here.
func (s Storage) Limit() Limit {
	s = s.sane()
	l := s.limit()
	l.Storage = s
	return l
}

// sane is s without what no storage can have, which Validate refuses.
func (s Storage) sane() Storage {
	for _, n := range []*int64{&s.Consul.KVMaxValueSize, &s.Consul.TxnMaxReqLen, &s.Raft.MaxEntrySize} {
		*n = min(max(*n, 0), maxSetting)
	}
	if s.KeyBytes <= 0 {
		s.KeyBytes = defaultKeyBytes
	}
	return s
}

func (s Storage) limit() Limit {
	switch s.Backend {
	case "consul":
		return s.consul()
	case "raft":
		return s.raft()
	case "dynamodb":
		// physical/dynamodb: an item is at most 400 KiB with its attributes'
		// names (12 bytes), Path and Key; the slash between the two is not kept.
		const item, names = 400 << 10, 12
		keys := int64(s.KeyBytes) - 1
		return s.known(item-names-keys-barrierBytes, fmt.Sprintf(
			"an item of %d bytes holds the list + %d (barrier), attribute names (%d) and keys (%d)", item, barrierBytes, names, keys))
	case "azure":
		const refused = 4 << 20 // physical/azure: values of this size and above
		return s.known(refused-1-barrierBytes, fmt.Sprintf(
			"list + %d (barrier) is less than %d bytes", barrierBytes, refused))
	}
	if reason, ok := noLimit[s.Backend]; ok {
		return Limit{Backend: s.Backend, Rule: reason, Known: true}
	}
	if reason, ok := unknownLimit[s.Backend]; ok {
		return s.unknown(reason)
	}
	if s.Backend == "" {
		return s.unknown("the storage backend is not known")
	}
	return s.unknown(fmt.Sprintf("storage backend %q is not one whose limit is known", s.Backend))
}

// WithMaxEntries is the limit of a mount whose config/crl has this
// max_crl_entries, by which Vault 1.19 and later refuse a list themselves
// (builtin/logical/pki/crl_util.go). -1 is no such ceiling, as in Vault; 0 is
// one that nobody has read: it is not counted, although Vault's default is
// 100000. The rule says which ceiling is met first.
func (l Limit) WithMaxEntries(n int64) Limit {
	if n <= 0 || !countsEntries(l.Storage.VaultVersion) {
		return l
	}
	l.MaxEntries, l.storageBytes = n, l.MaxBytes
	byEntries := listBytes + entryBytes*min(n, maxSetting)
	switch {
	case !l.Known:
		l.Rule = fmt.Sprintf("%s; whatever it is, max_crl_entries of the mount allows at most %d entries", l.Rule, n)
	case l.MaxBytes == 0 || byEntries < l.MaxBytes:
		l.MaxBytes = byEntries
		l.Rule = fmt.Sprintf("max_crl_entries of the mount binds: at most %d entries; the storage takes more: %s", n, l.Rule)
	default:
		l.Rule = fmt.Sprintf("%s; this binds before max_crl_entries of the mount (%d)", l.Rule, n)
	}
	return l
}

// Used is which share of the limit a list of this size takes, by bytes or by
// entries, whichever is more: above 1 it is refused. It is false where there is
// no limit, or none is known.
func (l Limit) Used(bytes, entries int64) (float64, bool) {
	if l.MaxEntries == 0 {
		return float64(bytes) / float64(max(1, l.MaxBytes)), l.MaxBytes > 0
	}
	used := float64(entries) / float64(l.MaxEntries)
	if l.storageBytes > 0 {
		used = max(used, float64(bytes)/float64(l.storageBytes))
	}
	return used, true
}

// Entries is how many entries a list may have within the limit when an EC P-256
// issuer signs it: 246 bytes around 39 for each, and not more than
// max_crl_entries. 0 without a limit.
func (l Limit) Entries() int64 {
	return max(0, (l.MaxBytes-listBytes)/entryBytes)
}

// noLimit holds the backends for which Vault checks no size and the storage
// takes more than any list reaches.
var noLimit = map[string]string{
	"file":                   "no limit: files are as large as the file system allows",
	"gcs":                    "no limit: objects are as large as Cloud Storage allows (5 TiB)",
	"inmem":                  "no limit: held in memory",
	"inmem_ha":               "no limit: held in memory",
	"inmem_transactional":    "no limit: held in memory",
	"inmem_transactional_ha": "no limit: held in memory",
	"mssql":                  "no limit: varbinary(max) takes 2 GiB",
	"postgresql":             "no limit: bytea takes 1 GiB",
	"s3":                     "no limit: objects are as large as S3 allows (5 GiB in one request)",
}

// unknownLimit holds the backends whose limit is set outside Vault, where it
// cannot be read or computed exactly.
var unknownLimit = map[string]string{
	"aerospike":    "unknown: set by the server (write-block-size)",
	"cassandra":    "unknown: set by the server",
	"cockroachdb":  "unknown: set by the server",
	"couchdb":      "unknown: set by the server (max_document_size)",
	"etcd":         "unknown: set by the server (--max-request-bytes, default 1572864, of the whole marshalled request)",
	"foundationdb": "unknown: set by the server (about 100 KB a value)",
	"manta":        "unknown: set by the server",
	"mysql":        "unknown: the smaller of mediumblob (16777215 bytes) and the server's max_allowed_packet",
	"oci":          "unknown: set by the server",
	"spanner":      "unknown: set by the server (about 10 MB a value)",
	"swift":        "unknown: set by the server",
	"zookeeper":    "unknown: set by the server (jute.maxbuffer, about 1 MB)",
}

func (s Storage) known(maxBytes int64, rule string) Limit {
	if maxBytes <= 0 {
		l := s.unknown("nothing fits: " + rule)
		l.tooSmall = true
		return l
	}
	return Limit{Backend: s.Backend, MaxBytes: maxBytes, Rule: rule, Known: true}
}

func (s Storage) unknown(reason string) Limit { return Limit{Backend: s.Backend, Rule: reason} }

// consul is the limit of Vault's Consul storage (physical/consul/consul.go).
//
// Since 1.14.5 and 1.15.1 every write is a transaction, whose JSON body, value
// in base64, Consul compares with the larger of its two limits
// (agent/txn_endpoint.go); the decoded value is compared with
// kv_max_value_size. Before, the value was the body of a KV PUT
// (agent/kvs_endpoint.go).
func (s Storage) consul() Limit {
	transactions, err := writesTransactions(s.VaultVersion)
	if err != nil {
		return s.unknown(err.Error())
	}
	kv, request := s.consulSettings()
	if !transactions {
		return s.known(kv-barrierBytes, fmt.Sprintf(
			"list + %d (barrier) is at most %d (kv_max_value_size)", barrierBytes, kv))
	}
	setting := "txn_max_req_len"
	if request == kv && s.txn() < kv {
		setting = "kv_max_value_size"
	}
	frame := s.consulFrame()
	maxBytes := min((request-frame)/4*3, kv) - barrierBytes
	return s.known(maxBytes, fmt.Sprintf(
		"%d (request at path %s) + 4*ceil((list + %d)/3) is at most %d (%s), and list + %d at most %d (kv_max_value_size)",
		frame, consulPath(s.Consul.Path), barrierBytes, request, setting, barrierBytes, kv))
}

// consulSettings are the limits of a value and of a request.
func (s Storage) consulSettings() (kv, request int64) {
	kv = s.Consul.KVMaxValueSize
	if kv == 0 {
		kv = defaultConsulLimit
	}
	return kv, max(kv, s.txn())
}

func (s Storage) txn() int64 {
	if s.Consul.TxnMaxReqLen == 0 {
		return defaultConsulLimit
	}
	return s.Consul.TxnMaxReqLen
}

// consulFrame is the length of a transaction's body without the value in it:
// two operations as consul/api writes them, and a line feed. The path stands in
// both keys; a character that JSON escapes counts as its escape.
func (s Storage) consulFrame() int64 {
	const (
		check = `{"KV":{"Verb":"check-session","Key":,"Value":null,"Flags":0,"Index":0,"Session":"12345678-1234-1234-1234-123456789012"},"Node":null,"Service":null,"Check":null}`
		set   = `{"KV":{"Verb":"set","Key":,"Value":"","Flags":0,"Index":0,"Session":""},"Node":null,"Service":null,"Check":null}`
	)
	path, err := json.Marshal(consulPath(s.Consul.Path)) // never fails for a string
	if err != nil {
		return 0
	}
	keys := 2*len(path) + len("core/lock") + s.KeyBytes
	return int64(len("["+check+","+set+"]\n") + keys)
}

// consulPath is the path as Vault uses it: no slash before, one after.
func consulPath(path string) string {
	if path == "" {
		return defaultConsulPath
	}
	return strings.TrimPrefix(strings.TrimSuffix(path, "/")+"/", "/")
}

// raft is the limit of Vault's integrated storage (physical/raft/raft.go): the
// value alone and then the marshalled LogData with one put must not be longer
// than max_entry_size.
func (s Storage) raft() Limit {
	size, doubt := s.Raft.MaxEntrySize, ""
	if s.Raft.Read {
		shown, err := showsMaxEntrySize(s.VaultVersion)
		switch {
		case err != nil && size == 0:
			return s.unknown(err.Error() + ", so that it is not known whether max_entry_size is at its default or not shown")
		case !shown && size == 0:
			return s.unknown(fmt.Sprintf("Vault %s does not show max_entry_size (1.11.10, 1.12.6, 1.13.2 and later do)", s.VaultVersion))
		}
		doubt = "; max_entry_size is what Vault shows, and a value that was changed by a reload is shown before a restart puts it in force"
	}
	if size == 0 {
		size = defaultMaxEntrySize
	}
	key := int64(s.KeyBytes)
	value := size - raftEntryBytes(key, 0) // with lengths of one byte: at most a few too many
	for value > 0 && raftEntryBytes(key, value) > size {
		value--
	}
	return s.known(value-barrierBytes, fmt.Sprintf(
		"list + %d (barrier) + %d (raft entry) is at most %d (max_entry_size)%s",
		barrierBytes, raftEntryBytes(key, value)-value, size, doubt))
}

// raftEntryBytes is the length of the protobuf message LogData with one
// LogOperation (physical/raft/types.proto): op_type (field 1), key (field 3),
// value (field 4).
func raftEntryBytes(key, value int64) int64 {
	operation := 2 + 1 + varintBytes(key) + key + 1 + varintBytes(value) + value
	return 1 + varintBytes(operation) + operation
}

func varintBytes(n int64) int64 {
	length := int64(1)
	for ; n >= 0x80; n >>= 7 {
		length++
	}
	return length
}
