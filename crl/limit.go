package crl

import (
	"fmt"
	"strconv"
	"strings"
)

// Storage describes what keeps Vault's data, as far as it decides how large a
// revocation list can be. Zero values stand for the defaults of each backend.
type Storage struct {
	Backend      string // as sys/seal-status names it in storage_type: consul, raft, dynamodb, …
	VaultVersion string // "" stands for a current one
	Consul       ConsulLimits
	Raft         RaftLimits

	// KeyBytes is the length of the physical key, without Consul's path. 0 means
	// 86, the length of logical/<mount UUID>/crls/<CRL UUID>.
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
}

// Limit is the size of the largest list that a storage accepts.
type Limit struct {
	Backend  string
	MaxBytes int64  // of the DER list; 0: none or unknown, and Rule says why
	Rule     string // the rule in words, with the numbers that went into it
	Known    bool   // false: nothing is known, which is not the same as no limit
}

// barrierBytes is what Vault's barrier adds to a value: term 4, version 1,
// nonce 12, tag 16 (vault/barrier_aes_gcm.go).
const barrierBytes = 33

const (
	defaultKeyBytes     = 86
	defaultConsulPath   = "vault/"
	defaultConsulLimit  = 512 << 10
	defaultMaxEntrySize = 1 << 20
)

// Validate says which of the values no storage can have.
func (s Storage) Validate() error {
	for name, n := range map[string]int64{
		"kv_max_value_size": s.Consul.KVMaxValueSize, "txn_max_req_len": s.Consul.TxnMaxReqLen,
		"max_entry_size": s.Raft.MaxEntrySize, "key length": int64(s.KeyBytes),
	} {
		if n < 0 {
			return fmt.Errorf("%s is %d, want a number of bytes", name, n)
		}
	}
	_, err := writesTransactions(s.VaultVersion)
	return err
}

// Limit is the size of the largest DER list that this storage accepts: exact
// for consul, raft, dynamodb and azure.
func (s Storage) Limit() Limit {
	if s.KeyBytes <= 0 {
		s.KeyBytes = defaultKeyBytes
	}
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
		return s.unknown("nothing fits: " + rule)
	}
	return Limit{Backend: s.Backend, MaxBytes: maxBytes, Rule: rule, Known: true}
}

func (s Storage) unknown(reason string) Limit { return Limit{Backend: s.Backend, Rule: reason} }

// consul is the limit of Vault's Consul storage (physical/consul/consul.go).
//
// Since 1.14.5 and 1.15.1 every write is a transaction, whose JSON body, value
// in base64, Consul compares with the larger of its two limits
// (agent/txn_endpoint.go); the decoded value is compared with
// kv_max_value_size. Before, the value was the body of a KV PUT.
func (s Storage) consul() Limit {
	kv, txn := s.Consul.KVMaxValueSize, s.Consul.TxnMaxReqLen
	if kv <= 0 {
		kv = defaultConsulLimit
	}
	if txn <= 0 {
		txn = defaultConsulLimit
	}
	transactions, err := writesTransactions(s.VaultVersion)
	if err != nil {
		return s.unknown(err.Error())
	}
	if !transactions {
		return s.known(kv-barrierBytes, fmt.Sprintf(
			"list + %d (barrier) is at most %d (kv_max_value_size)", barrierBytes, kv))
	}

	// 387 bytes of JSON hold the two operations, check-session and set, at path
	// vault/ and with a key of 86 bytes. The path is in both, the key in one.
	path := consulPath(s.Consul.Path)
	frame := 387 + 2*int64(len(path)-len(defaultConsulPath)) + int64(s.KeyBytes-defaultKeyBytes)
	request, setting := max(kv, txn), "txn_max_req_len"
	if kv > txn {
		setting = "kv_max_value_size"
	}
	maxBytes := min((request-frame)/4*3, kv) - barrierBytes
	return s.known(maxBytes, fmt.Sprintf(
		"%d (request at path %s) + 4*ceil((list + %d)/3) is at most %d (%s), and list + %d at most %d (kv_max_value_size)",
		frame, path, barrierBytes, request, setting, barrierBytes, kv))
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
	size := s.Raft.MaxEntrySize
	if size <= 0 {
		size = defaultMaxEntrySize
	}
	key := int64(s.KeyBytes)
	value := size - raftEntryBytes(key, 0) // with lengths of one byte: at most a few too many
	for value > 0 && raftEntryBytes(key, value) > size {
		value--
	}
	return s.known(value-barrierBytes, fmt.Sprintf(
		"list + %d (barrier) + %d (raft entry) is at most %d (max_entry_size)",
		barrierBytes, raftEntryBytes(key, value)-value, size))
}

// raftEntryBytes is the length of the protobuf message LogData with one
// LogOperation: op_type (field 1), key (field 3), value (field 4).
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

// Entries is how many entries a list may have within the limit when an EC P-256
// issuer signs it: 246 bytes around 39 for each. 0 without a limit.
func (l Limit) Entries() int64 {
	return max(0, (l.MaxBytes-246)/39)
}

// writesTransactions tells whether this version of Vault writes to Consul
// through transactions: since 1.14.5 and 1.15.1.
func writesTransactions(version string) (bool, error) {
	if version == "" {
		return true, nil
	}
	v, err := parseVersion(version)
	if err != nil {
		return false, err
	}
	since := [3]int{1, 14, 5}
	if v.numbers[0] == 1 && v.numbers[1] == 15 {
		since = [3]int{1, 15, 1}
	}
	for i, n := range v.numbers {
		if n != since[i] {
			return n > since[i], nil
		}
	}
	return !v.preRelease, nil // a pre-release comes before its release
}

type vaultVersion struct {
	numbers    [3]int
	preRelease bool
}

// parseVersion reads versions as Vault reports them: 1.21.4, v1.15.0-rc1,
// 1.14.5+ent.hsm. What follows + does not take part in the order.
func parseVersion(version string) (vaultVersion, error) {
	numbers, _, _ := strings.Cut(strings.TrimPrefix(version, "v"), "+")
	numbers, _, preRelease := strings.Cut(numbers, "-")
	v := vaultVersion{preRelease: preRelease}
	parts := strings.Split(numbers, ".")
	if len(parts) != len(v.numbers) {
		return v, fmt.Errorf("version %q of Vault is not of the form 1.21.4", version)
	}
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 10, 31)
		if err != nil {
			return v, fmt.Errorf("version %q of Vault is not of the form 1.21.4", version)
		}
		v.numbers[i] = int(n)
	}
	return v, nil
}
