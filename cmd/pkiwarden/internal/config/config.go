// Package config reads pkiwarden's configuration: strictly, with every problem
// at once, each at its line and column with what was probably meant.
//
// The types mirror the file key by key; defaults are written on the fields and
// set by Default and by the defaults methods of list entries. What is not in
// the file comes from the environment that Vault, Consul and Kubernetes clients
// share, then from the default.
//
// Struct tags say what a key takes: enum one of some words, is:"share" a number
// above 0 and up to 1, unit:"bytes" a size such as 256MiB, auto:"true" also the
// word auto, which is the zero value. Numbers and durations are above 0, with
// zero:"ok" not below.
package config

import "time"

// Where the configuration is when the command line does not name it.
const (
	EnvFile     = "PKIWARDEN_CONFIG"
	DefaultFile = "/etc/pkiwarden/config.yaml"
)

// APIVersion is the only version of the file so far.
const APIVersion = "pkiwarden/v1"

// Config is the whole configuration. The zero value is not usable: Default and
// Load set the defaults.
type Config struct {
	File string // where it was read, "" with zero configuration

	APIVersion     string         `yaml:"apiVersion"` // default APIVersion
	Vault          Vault          `yaml:"vault"`
	Consul         Consul         `yaml:"consul"`
	Kubernetes     Kubernetes     `yaml:"kubernetes"`
	LeaderElection LeaderElection `yaml:"leaderElection"`
	State          State          `yaml:"state"`
	Certificates   Certificates   `yaml:"certificates"` // the cluster's work: CSR to Secret
	Signers        []Signer       `yaml:"signers"`
	Deliver        []Deliver      `yaml:"deliver"` // this pod's own work
	CRL            CRL            `yaml:"crl"`
	Tidy           Tidy           `yaml:"tidy"`
	Canary         []Canary       `yaml:"canary"`
	Workloads      []Workload     `yaml:"workloads"`
	Listen         Listen         `yaml:"listen"`
	Log            Log            `yaml:"log"`
}

// Vault is where the cluster's work is done.
type Vault struct {
	Address    string    `yaml:"address"`    // URL of the active Service; default VAULT_ADDR
	CAFile     string    `yaml:"caFile"`     // PEM; default VAULT_CACERT, else the system's roots
	ServerName string    `yaml:"serverName"` // expected in Vault's certificate; default VAULT_TLS_SERVER_NAME, else the address's host
	Namespace  string    `yaml:"namespace"`  // Vault Enterprise; default VAULT_NAMESPACE; AllNamespaces walks all
	Auth       VaultAuth `yaml:"auth"`
}

// The methods of VaultAuth.
const (
	AuthKubernetes = "kubernetes"
	AuthTokenFile  = "tokenFile"
	AuthToken      = "token"
	AuthAppRole    = "approle"
)

// VaultAuth is how pkiwarden logs in to Vault.
type VaultAuth struct {
	// Method is kubernetes by default; where the file does not say and
	// VAULT_TOKEN is set, token.
	Method string `yaml:"method" enum:"kubernetes|tokenFile|token|approle"`
	Mount  string `yaml:"mount"` // path of the auth method; default "kubernetes"
	Role   string `yaml:"role"`  // default "pkiwarden"
	// TokenFile is, with method tokenFile, a file with a Vault token, re-read
	// when it changes. With method kubernetes it is the service account token
	// that is shown to Vault, re-read before each login; default
	// ServiceAccountTokenFile.
	TokenFile string `yaml:"tokenFile"`
	Token     Secret // VAULT_TOKEN; never in the file
}

// ServiceAccountTokenFile is where Kubernetes puts a pod's token.
const ServiceAccountTokenFile = "/var/run/secrets/kubernetes.io/serviceaccount/token"

// Consul is the agent that Vault, or this pod's server, talks to. It matters
// only where Vault's storage or this pod's server is Consul.
type Consul struct {
	Address     string `yaml:"address"`     // http(s)://host:port or host:port; default CONSUL_HTTP_ADDR
	CAFile      string `yaml:"caFile"`      // PEM; default CONSUL_CACERT
	TokenFile   string `yaml:"tokenFile"`   // default CONSUL_HTTP_TOKEN_FILE
	StoragePath string `yaml:"storagePath"` // Vault's path in Consul's KV, which counts into the limit; default "vault/"
	Token       Secret // CONSUL_HTTP_TOKEN; never in the file; TokenFile wins
}

// Kubernetes is the API server.
type Kubernetes struct {
	Kubeconfig string  `yaml:"kubeconfig"` // default: in-cluster, else KUBECONFIG
	QPS        float64 `yaml:"qps"`        // requests a second; default 20
	Burst      int     `yaml:"burst"`      // default 40

	// Present tells whether there is a cluster to talk to: a kubeconfig, or the
	// environment of a pod.
	Present bool
}

// AllNamespaces is the vault.namespace that stands for every one of them.
const AllNamespaces = "*"

// The roles and backends of LeaderElection.
const (
	RoleCandidate     = "candidate"
	RoleLocal         = "local"
	BackendKubernetes = "kubernetes"
	BackendConsul     = "consul"
	BackendNone       = "none"
	BackendFile       = "file"
)

// LeaderElection decides who does the cluster's work.
type LeaderElection struct {
	Role string `yaml:"role" enum:"candidate|local"` // default candidate; local: this pod's delivery only, never leads
	// Backend is kubernetes by default; where the file does not say and no
	// cluster is present, none: one instance, which leads.
	Backend         string        `yaml:"backend" enum:"kubernetes|consul|none"`
	BackendExplicit bool          // the file says so
	Name            string        `yaml:"name"`          // of the Lease; default "pkiwarden"
	Namespace       string        `yaml:"namespace"`     // default: the pod's own
	LeaseDuration   time.Duration `yaml:"leaseDuration"` // default 15s
	RenewDeadline   time.Duration `yaml:"renewDeadline"` // default 10s
	RetryPeriod     time.Duration `yaml:"retryPeriod"`   // default 2s
}

// State keeps history, issuance budgets and tidy records: small, bounded,
// compare-and-swap.
type State struct {
	Backend string `yaml:"backend" enum:"kubernetes|consul|file"` // default kubernetes: ConfigMaps in leaderElection.namespace
	Path    string `yaml:"path"`                                  // backend file: a folder; backend consul: the prefix of keys, default DefaultConsulState

	BackendExplicit bool // the file says so
}

// DefaultConsulState is where state is in Consul's KV.
const DefaultConsulState = "pkiwarden/"

// CRL is the watch over every revocation list.
type CRL struct {
	Interval  time.Duration `yaml:"interval"`              // default 1m
	Mounts    []string      `yaml:"mounts"`                // names or patterns, "!name" leaves out; default all
	Fetch     string        `yaml:"fetch" enum:"json|der"` // default json
	MaxBytes  int64         `yaml:"maxBytes" unit:"bytes"` // an error when met, never a cut; default 256 MiB
	Limit     Limit         `yaml:"limit" auto:"true"`     // default auto: read from the running system
	Warn      Threshold     `yaml:"warn"`                  // default {share: 0.6, horizon: 336h, headroom: 2}
	Critical  Threshold     `yaml:"critical"`              // default {share: 0.8, horizon: 72h, headroom: 1}
	FleetSize int64         `yaml:"fleetSize" auto:"true"` // live certificates; default auto, which is 0: counted where that is cheap and trustworthy
}

// Threshold is where a CRL becomes a finding.
type Threshold struct {
	Share    float64       `yaml:"share" is:"share"`   // of the storage's limit, 0 to 1
	Horizon  time.Duration `yaml:"horizon"`            // time left to the limit
	Headroom float64       `yaml:"headroom" zero:"ok"` // redeployments of the whole fleet that still fit
}

// Tidy is when and how Vault's tidy runs.
type Tidy struct {
	Enabled                bool          `yaml:"enabled"`                // default false: say what it would do
	Mounts                 []string      `yaml:"mounts"`                 // as in CRL; default all
	SafetyBuffer           time.Duration `yaml:"safetyBuffer" zero:"ok"` // default 72h
	AllowShortSafetyBuffer bool          `yaml:"allowShortSafetyBuffer"` // a safety buffer below 24h only with true
	Trigger                Trigger       `yaml:"trigger"`
	MinInterval            time.Duration `yaml:"minInterval" zero:"ok"` // between two runs on a mount; default 1h
	Windows                []Window      `yaml:"windows"`               // in which runs may begin; default: always
	// IgnoreWindowsWhenCritical lets runs begin outside Windows while a list is
	// at crl.critical share or horizon and a run may shrink it; default false.
	IgnoreWindowsWhenCritical bool           `yaml:"ignoreWindowsWhenCritical"`
	Pause                     *time.Duration `yaml:"pause" auto:"true" zero:"ok"` // pause_duration of the run; default auto, which is nil
	CertStore                 bool           `yaml:"certStore"`                   // default true
	Rotate                    *bool          `yaml:"rotate" auto:"true"`          // crl/rotate after tidy; default auto, which is nil: where Vault does not rebuild by itself
	OwnAutoTidy               bool           `yaml:"ownAutoTidy"`                 // default false; true, only with Enabled: switch the mount's own auto-tidy off
}

// Limit is the storage's limit where it is not read from the running system.
// The zero value is auto; otherwise either Bytes or Backend is set.
type Limit struct {
	Bytes          int64  `yaml:"bytes" unit:"bytes"`          // the largest DER CRL that can be stored
	Backend        string `yaml:"backend"`                     // Vault's storage type
	KVMaxValueSize int64  `yaml:"kvMaxValueSize" unit:"bytes"` // consul: limits.kv_max_value_size; 0: its default
	TxnMaxReqLen   int64  `yaml:"txnMaxReqLen" unit:"bytes"`   // consul: limits.txn_max_req_len; 0: its default
	MaxEntrySize   int64  `yaml:"maxEntrySize" unit:"bytes"`   // raft: max_entry_size; 0: its default
}

// IsAuto tells whether the limit is read from the running system.
func (l Limit) IsAuto() bool { return l == Limit{} }

// Trigger is what makes a tidy run worth it: any one of them.
type Trigger struct {
	ReclaimableShare   float64       `yaml:"reclaimableShare" is:"share"` // of the CRL's entries, 0 to 1; default 0.2
	ReclaimableEntries int64         `yaml:"reclaimableEntries"`          // default 1000
	LimitShare         float64       `yaml:"limitShare" is:"share"`       // CRL size against the storage's limit, 0 to 1; default 0.5
	Horizon            time.Duration `yaml:"horizon"`                     // time left to the limit; default 336h
	AtLeastEvery       time.Duration `yaml:"atLeastEvery"`                // default 168h
}

// Window is a time of the week in which changes may be made.
type Window struct {
	Days     []string `yaml:"days" enum:"Mon|Tue|Wed|Thu|Fri|Sat|Sun"` // on which it opens; default: every day
	From     string   `yaml:"from"`                                    // "02:00"; default "00:00"
	To       string   `yaml:"to"`                                      // "05:00", at the latest "24:00", which is the default; before From: on the next day
	Timezone string   `yaml:"timezone"`                                // IANA name; default UTC
}

// Canary is a certificate that is issued again and again, to know that issuing
// works.
type Canary struct {
	Mount    string        `yaml:"mount"`
	Role     string        `yaml:"role"`
	TTL      time.Duration `yaml:"ttl"`      // default 5m
	Interval time.Duration `yaml:"interval"` // default 15m
}

// Workload is an object that rehearse audits.
type Workload struct {
	Kind      string `yaml:"kind"`
	Namespace string `yaml:"namespace"`
	Name      string `yaml:"name"`
}

// Listen is where metrics and health are served.
type Listen struct {
	Address       string `yaml:"address"`       // host:port; default ":9402"
	WebConfigFile string `yaml:"webConfigFile"` // exporter-toolkit: TLS and authentication
}

// Log is what goes to stderr.
type Log struct {
	Level  string `yaml:"level" enum:"debug|info|warn|error"` // default info
	Format string `yaml:"format" enum:"text|json"`            // default "": text on a terminal, else json
}

// Default is zero configuration: it discovers, measures and reports, and
// changes nothing.
func Default() *Config {
	return &Config{
		APIVersion: APIVersion,
		Vault:      Vault{Auth: VaultAuth{Method: AuthKubernetes, Mount: "kubernetes", Role: "pkiwarden"}},
		Consul:     Consul{StoragePath: "vault/"},
		Kubernetes: Kubernetes{QPS: 20, Burst: 40},
		LeaderElection: LeaderElection{
			Role: RoleCandidate, Backend: BackendKubernetes, Name: "pkiwarden",
			LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 2 * time.Second,
		},
		State: State{Backend: BackendKubernetes},
		CRL: CRL{
			Interval: time.Minute, Mounts: []string{"*"}, Fetch: "json", MaxBytes: 256 << 20,
			Warn:     Threshold{Share: 0.6, Horizon: 336 * time.Hour, Headroom: 2},
			Critical: Threshold{Share: 0.8, Horizon: 72 * time.Hour, Headroom: 1},
		},
		Tidy: Tidy{
			Mounts: []string{"*"}, SafetyBuffer: 72 * time.Hour,
			Trigger: Trigger{
				ReclaimableShare: 0.2, ReclaimableEntries: 1000, LimitShare: 0.5,
				Horizon: 336 * time.Hour, AtLeastEvery: 168 * time.Hour,
			},
			MinInterval: time.Hour, CertStore: true,
		},
		Listen: Listen{Address: ":9402"},
		Log:    Log{Level: "info"},
	}
}
