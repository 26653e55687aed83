package config

import (
	"io/fs"
	"net/netip"
	"net/url"
	"time"
)

// Certificate is one certificate that the cluster's work keeps in a Secret.
type Certificate struct {
	Name       string     `yaml:"name"` // unique
	Secret     ObjectName `yaml:"secret"`
	SecretKeys SecretKeys `yaml:"secretKeys"`
	Profile    *Profile   `yaml:"profile"` // names that a chart needs; default none
	// Subject's defaults are the signer's: kubernetes.io/kubelet-serving and
	// beta.eks.amazonaws.com/app-serving get system:node:NAME and system:nodes.
	Subject     Subject       `yaml:"subject"`
	DNSNames    []string      `yaml:"dnsNames"`
	IPAddresses []netip.Addr  `yaml:"ipAddresses"` // default 127.0.0.1; [] for none
	URIs        []*url.URL    `yaml:"uris"`
	NamesFrom   []ObjectRef   `yaml:"namesFrom"` // their names are added, and followed; default none
	Usages      []string      `yaml:"usages"`    // Kubernetes' names; default digital signature, key encipherment, server auth; with profile consul-helm client auth as well
	Key         Key           `yaml:"key"`
	Signer      string        `yaml:"signer"`   // default kubernetes.io/kubelet-serving
	Lifetime    time.Duration `yaml:"lifetime"` // asked for: what is granted may be shorter; default 8760h
	Approve     bool          `yaml:"approve"`  // default false; true: pkiwarden approves its own requests on an exact match
	Trust       Trust         `yaml:"trust"`
	RenewAt     float64       `yaml:"renewAt" is:"share"`    // share of the lifetime granted; default 0.66
	AlertAt     float64       `yaml:"alertAt" is:"share"`    // default 0.75
	CriticalAt  float64       `yaml:"criticalAt" is:"share"` // default 0.9
	Windows     []Window      `yaml:"windows"`               // default: always; ignored once critical
	Paused      bool          `yaml:"paused"`                // default false
}

// ObjectName is a namespaced object of a known kind.
type ObjectName struct {
	Namespace string `yaml:"namespace"`
	Name      string `yaml:"name"`
}

// SecretKeys are the keys of the live Secret.
type SecretKeys struct {
	Certificate string `yaml:"certificate"` // default tls.crt
	Key         string `yaml:"key"`         // default tls.key
	CA          string `yaml:"ca"`          // default ca.crt
}

// Profile computes the names that a Helm chart's servers need.
type Profile struct {
	Kind          string `yaml:"kind" enum:"vault-helm|consul-helm"`
	Release       string `yaml:"release"`            // default vault or consul, by kind
	Namespace     string `yaml:"namespace"`          // default: the Secret's
	FullName      string `yaml:"fullName"`           // the chart's fullnameOverride, or Consul's global.name; default: as the chart makes it of the release
	ClusterDomain string `yaml:"clusterDomain"`      // default cluster.local
	Replicas      int    `yaml:"replicas" zero:"ok"` // default 0: the pods by wildcards; else that many by name
	Datacenter    string `yaml:"datacenter"`         // consul-helm; default dc1
	Domain        string `yaml:"domain"`             // consul-helm; default consul
}

// Subject is the requested subject.
type Subject struct {
	CommonName    string   `yaml:"commonName"`
	Organizations []string `yaml:"organizations"`
}

// ObjectRef is an object that names are taken from.
type ObjectRef struct {
	Kind      string `yaml:"kind" enum:"Service|StatefulSet|Ingress"`
	Namespace string `yaml:"namespace"` // default: the Secret's
	Name      string `yaml:"name"`
}

// The algorithms of Key.
const (
	ECDSA   = "ECDSA"
	RSA     = "RSA"
	Ed25519 = "Ed25519"
)

// Key is the kind of private key.
type Key struct {
	Algorithm string `yaml:"algorithm" enum:"ECDSA|RSA|Ed25519"` // default ECDSA
	// Size in bits: ECDSA 256, 384 or 521, default 256; RSA 2048, 3072 or 4096,
	// default 2048; 0 for Ed25519, which has one size.
	Size int `yaml:"size"`
}

// Trust is the bundle that the certificate's chain ends in, of one kind, or
// none; and what is known of those who follow it.
type Trust struct {
	ConfigMap *KeyRef       `yaml:"configMap"`
	File      string        `yaml:"file"`
	Secret    *KeyRef       `yaml:"secret"`
	Settle    time.Duration `yaml:"settle" zero:"ok"` // within which clients take up a new CA, before any certificate from it; default 5m
	Peers     []string      `yaml:"peers"`            // host:port of those who present the certificate; default none: an old CA stays until it expires
}

// KeyRef is one key of a ConfigMap or Secret.
type KeyRef struct {
	Namespace string `yaml:"namespace"`
	Name      string `yaml:"name"`
	Key       string `yaml:"key"` // default ca.crt
}

// Signer signs approved requests for a signer name with a CA kept in a Secret.
type Signer struct {
	Name        string        `yaml:"name"` // unique, not under kubernetes.io
	CASecret    CASecret      `yaml:"caSecret"`
	MaxLifetime time.Duration `yaml:"maxLifetime"` // of what it signs; default 8760h
	Usages      []string      `yaml:"usages"`      // that it gives, Kubernetes' names; default digital signature, key encipherment, server auth
	Allow       Allow         `yaml:"allow"`
}

// CASecret holds a CA's certificate and key.
type CASecret struct {
	Namespace   string `yaml:"namespace"` // default: the pod's own
	Name        string `yaml:"name"`
	Certificate string `yaml:"certificate"` // the CA, then those above it; default tls.crt
	Key         string `yaml:"key"`         // default tls.key
}

// Allow is what a signer may put into a certificate; nothing by default.
type Allow struct {
	DNSNames    []string       `yaml:"dnsNames"` // a name, or *.SUFFIX for exactly one label before it
	IPAddresses []netip.Prefix `yaml:"ipAddresses"`
}

// Deliver brings a certificate to the server in this pod.
type Deliver struct {
	Certificate string        `yaml:"certificate"` // name of an entry of certificates, which says where the Secret is
	From        From          `yaml:"from"`
	Files       Files         `yaml:"files"` // with from.api
	Reload      Reload        `yaml:"reload"`
	Verify      []Listener    `yaml:"verify"`  // every listener that must present the new leaf
	Timeout     time.Duration `yaml:"timeout"` // for reload and proof together; default 30s
	Rollout     *Rollout      `yaml:"rollout"` // default: none
}

// From is where the pair comes from: one of the two.
type From struct {
	API     bool   `yaml:"api"`     // the Secret, through the API, into files; default true unless mounted is set
	Mounted string `yaml:"mounted"` // directory of a mounted Secret, used where it is
}

// Files is where the pair goes.
type Files struct {
	Directory string      `yaml:"directory"` // absolute; required with from.api
	Mode      fs.FileMode `yaml:"mode"`      // default 0600
	Owner     string      `yaml:"owner"`     // "UID" or "UID:GID"; default: as they are created
}

// Reload is how the server is told, of one kind; none by default, for a server
// that watches its files.
type Reload struct {
	Signal  string   `yaml:"signal" enum:"HUP|USR1|USR2"`
	Process string   `yaml:"process"` // with signal: the command name; default vault
	Consul  bool     `yaml:"consul"`  // PUT /v1/agent/reload
	Command []string `yaml:"command"`
	None    bool     `yaml:"none"`
}

// Listener is one address that must present the new leaf.
type Listener struct {
	Address    string `yaml:"address"`                        // host:port
	ServerName string `yaml:"serverName"`                     // SNI; default the address's host
	Protocol   string `yaml:"protocol" enum:"tls|consul-rpc"` // default tls
}

// Rollout lets one replica of a group at a time take the new pair.
type Rollout struct {
	Group string `yaml:"group"`
	Order string `yaml:"order" enum:"standbysFirst"` // default standbysFirst
}

// defaulter is a list entry or an optional mapping with defaults of its own.
type defaulter interface{ defaults() }

// All certificates share their defaults: they are read, and replaced whole.
var (
	defaultAddresses = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	defaultUsages    = []string{"digital signature", "key encipherment", "server auth"}
)

func (c *Certificate) defaults() {
	*c = Certificate{
		SecretKeys:  SecretKeys{Certificate: "tls.crt", Key: "tls.key", CA: "ca.crt"},
		IPAddresses: defaultAddresses,
		Usages:      defaultUsages,
		Key:         Key{Algorithm: ECDSA, Size: 256},
		Signer:      SignerKubeletServing,
		Lifetime:    8760 * time.Hour,
		Trust:       Trust{Settle: 5 * time.Minute},
		RenewAt:     0.66,
		AlertAt:     0.75,
		CriticalAt:  0.9,
	}
}

func (p *Profile) defaults() { *p = Profile{ClusterDomain: "cluster.local"} }
func (r *KeyRef) defaults()  { *r = KeyRef{Key: "ca.crt"} }
func (s *Signer) defaults() {
	*s = Signer{
		CASecret:    CASecret{Certificate: "tls.crt", Key: "tls.key"},
		MaxLifetime: 8760 * time.Hour,
		Usages:      []string{"digital signature", "key encipherment", "server auth"},
	}
}
func (l *Listener) defaults() { *l = Listener{Protocol: "tls"} }
func (r *Rollout) defaults()  { *r = Rollout{Order: "standbysFirst"} }
func (w *Window) defaults()   { *w = Window{From: "00:00", To: "24:00", Timezone: "UTC"} }
func (c *Canary) defaults()   { *c = Canary{TTL: 5 * time.Minute, Interval: 15 * time.Minute} }
func (d *Deliver) defaults() {
	*d = Deliver{From: From{API: true}, Files: Files{Mode: 0o600}, Timeout: 30 * time.Second}
}
