package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// inPod is the environment of a pod, so that what depends on a cluster has the
// contract's default.
var inPod = envOf("KUBERNETES_SERVICE_HOST=10.0.0.1")

// contract is what testdata/contract.yaml, the documented reference, decodes to.
func contract() *Config {
	return &Config{
		File:       "contract.yaml",
		APIVersion: "pkiwarden/v1",
		Vault: Vault{
			Address: "https://vault-active.vault.svc:8200", CAFile: "/vault/tls/ca.crt",
			Auth: VaultAuth{
				Method: "kubernetes", Mount: "kubernetes", Role: "pkiwarden",
				TokenFile: "/var/run/secrets/kubernetes.io/serviceaccount/token",
			},
		},
		Consul:     Consul{StoragePath: "vault/"},
		Kubernetes: Kubernetes{QPS: 20, Burst: 40, Present: true},
		LeaderElection: LeaderElection{
			Role: "candidate", Backend: "kubernetes", BackendExplicit: true, Name: "pkiwarden",
			LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 2 * time.Second,
		},
		State: State{Backend: "kubernetes", BackendExplicit: true},
		Certificates: NewCertificates([]Certificate{{
			Name:        "vault-server",
			Secret:      ObjectName{"vault", "vault-server-tls"},
			SecretKeys:  SecretKeys{"tls.crt", "tls.key", "ca.crt"},
			Subject:     Subject{CommonName: "system:node:vault-server", Organizations: []string{"system:nodes"}},
			IPAddresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
			Usages:      []string{"digital signature", "key encipherment", "server auth"},
			Key:         Key{"ECDSA", 256},
			Signer:      "kubernetes.io/kubelet-serving",
			Lifetime:    8760 * time.Hour,
			Trust:       Trust{ConfigMap: &KeyRef{"vault", "ca-bundle", "ca.crt"}, Settle: 5 * time.Minute},
			RenewAt:     0.66, AlertAt: 0.75, CriticalAt: 0.9,
		}, {
			Name:       "consul-server",
			Secret:     ObjectName{"consul", "consul-server-tls"},
			SecretKeys: SecretKeys{"tls.crt", "tls.key", "ca.crt"},
			Profile: &Profile{Kind: "consul-helm", Release: "consul", Namespace: "consul", FullName: "consul",
				ClusterDomain: "cluster.local", Datacenter: "dc1", Domain: "consul"},
			IPAddresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
			NamesFrom:   []ObjectRef{{"Service", "consul", "consul-ui"}},
			Usages:      []string{"digital signature", "key encipherment", "server auth", "client auth"},
			Key:         Key{"ECDSA", 256},
			Signer:      "example.com/consul",
			Lifetime:    8760 * time.Hour,
			Trust:       Trust{Settle: 5 * time.Minute},
			RenewAt:     0.66, AlertAt: 0.75, CriticalAt: 0.9,
		}}),
		Signers: []Signer{{
			Name:        "pkiwarden.io/consul",
			CASecret:    CASecret{"consul", "consul-ca", "tls.crt", "tls.key"},
			MaxLifetime: 8760 * time.Hour,
			Usages:      []string{"digital signature", "key encipherment", "server auth"},
			Allow:       Allow{[]string{"server.dc1.consul", "*.server.dc1.consul"}, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}},
		}},
		Deliver: []Deliver{{
			Certificate: "vault-server",
			From:        From{API: true},
			Files:       Files{Directory: "/vault/tls", Mode: 0o600},
			Reload:      Reload{Signal: "HUP", Process: "vault"},
			Verify:      []Listener{{"127.0.0.1:8200", "vault-active.vault.svc", "tls"}},
			Timeout:     30 * time.Second,
		}},
		CRL: CRL{
			Interval: time.Minute, Mounts: []string{"*"}, Fetch: "json", MaxBytes: 268435456,
			Warn:     Threshold{0.6, 336 * time.Hour, 2},
			Critical: Threshold{0.8, 72 * time.Hour, 1},
		},
		Tidy: Tidy{
			Mounts: []string{"*"}, SafetyBuffer: 72 * time.Hour,
			Trigger:     Trigger{0.2, 1000, 0.5, 336 * time.Hour, 168 * time.Hour},
			MinInterval: time.Hour, CertStore: true,
		},
		Listen: Listen{Address: ":9402"},
		Log:    Log{Level: "info"},
	}
}

// minimal is the contract's example with nothing but what has no default.
const minimal = `
vault: {address: "https://vault-active.vault.svc:8200", caFile: /vault/tls/ca.crt}
leaderElection: {backend: kubernetes}
state: {backend: kubernetes}
certificates:
  - name: vault-server
    secret: {namespace: vault, name: vault-server-tls}
    trust: {configMap: {namespace: vault, name: ca-bundle}}
  - name: consul-server
    secret: {namespace: consul, name: consul-server-tls}
    profile: {kind: consul-helm, fullName: consul}
    namesFrom: [{kind: Service, name: consul-ui}]
    signer: example.com/consul
signers:
  - name: pkiwarden.io/consul
    caSecret: {namespace: consul, name: consul-ca}
    allow: {dnsNames: [server.dc1.consul, "*.server.dc1.consul"], ipAddresses: [10.0.0.0/8]}
deliver:
  - certificate: vault-server
    files: {directory: /vault/tls}
    reload: {signal: HUP}
    verify: [{address: "127.0.0.1:8200", serverName: vault-active.vault.svc}]
`

// TestContract holds that the reference decodes, and that its values are the
// defaults.
func TestContract(t *testing.T) {
	data, err := os.ReadFile("testdata/contract.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name, doc := range map[string][]byte{"reference": data, "defaults": []byte(minimal)} {
		got, err := Parse("contract.yaml", doc, inPod)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		equal(t, name, got, contract())
	}
}

func TestZeroConfiguration(t *testing.T) {
	want := contract()
	want.File, want.Vault.Address, want.Vault.CAFile, want.Certificates, want.Signers, want.Deliver = "", "", "", nil, nil, nil
	want.LeaderElection.BackendExplicit, want.State.BackendExplicit = false, false
	for _, doc := range []string{"", "\n", "# nothing\n", "---\n", "null\n", "{}\n"} {
		got, err := Parse("", []byte(doc), inPod)
		if err != nil {
			t.Fatalf("%q: %v", doc, err)
		}
		equal(t, fmt.Sprintf("%q", doc), got, want)
	}
}

// equal compares without telling an empty list from none.
func equal(t *testing.T, name string, got, want *Config) {
	t.Helper()
	withoutEmpty(reflect.ValueOf(got).Elem())
	if reflect.DeepEqual(got, want) {
		return
	}
	g, w := reflect.ValueOf(*got), reflect.ValueOf(*want)
	for i := range g.NumField() {
		if !reflect.DeepEqual(g.Field(i).Interface(), w.Field(i).Interface()) {
			t.Errorf("%s: %s is\n%+v, want\n%+v", name, g.Type().Field(i).Name, g.Field(i), w.Field(i))
		}
	}
}

func withoutEmpty(v reflect.Value) {
	switch v.Kind() {
	case reflect.Slice:
		if v.Len() == 0 {
			v.SetZero()
		}
		for i := range v.Len() {
			withoutEmpty(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				withoutEmpty(v.Field(i))
			}
		}
	}
}

// TestEveryKeyIsInTheContract holds that the two reference files name every key
// that is understood, and that what is not supported yet is refused for that
// reason and no other.
func TestEveryKeyIsInTheContract(t *testing.T) {
	named := map[string]bool{}
	for _, file := range []string{"contract.yaml", "contract-later.yaml"} {
		data, err := os.ReadFile("testdata/" + file)
		if err != nil {
			t.Fatal(err)
		}
		document, problem := parseYAML(file, string(data), inPlace)
		if problem != nil {
			t.Fatal(problem)
		}
		nameKeys(document, "", named)
		d, _ := decode(file, data)
		for _, p := range d.problems {
			if !strings.HasPrefix(p.Message, "not supported yet: ") || file == "contract.yaml" {
				t.Errorf("%s", p)
			}
		}
	}
	exempt := []string{ // alternatives of what the reference shows
		"certificates[].trust.file", "certificates[].trust.secret", "crl.limit.bytes", "crl.limit.backend", "crl.limit.kvMaxValueSize",
		"crl.limit.txnMaxReqLen", "crl.limit.maxEntrySize", "deliver[].from.mounted", "deliver[].reload.consul", "deliver[].reload.none",
		"certificates[].trust.secret.namespace", "certificates[].trust.secret.name", "certificates[].trust.secret.key", "log.format",
		"certificates[].windows[].days", "certificates[].windows[].from", "certificates[].windows[].to", "certificates[].windows[].timezone",
		"tidy.windows[].days", "tidy.windows[].from", "tidy.windows[].to", "tidy.windows[].timezone",
	}
	for key, parents := range contractKeys() {
		for _, parent := range parents {
			if path := join(parent, key); !named[path] && !slices.Contains(exempt, path) {
				t.Errorf("%s is in neither reference file", path)
			}
		}
	}
}

// nameKeys notes the pattern of the path of every value in the document.
func nameKeys(n ast.Node, path string, named map[string]bool) {
	named[path] = true
	switch n := n.(type) {
	case ast.MapNode:
		for it := n.MapRange(); it.Next(); {
			nameKeys(it.Value(), join(path, scalarOf(it.Key()).value), named)
		}
	case *ast.SequenceNode:
		for _, entry := range n.Values {
			nameKeys(entry, path+"[]", named)
		}
	}
}

// TestUnsupported holds that the table has no entry without an effect.
func TestUnsupported(t *testing.T) {
	data, err := os.ReadFile("testdata/contract-later.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, err = Parse("contract-later.yaml", data, inPod)
	var problems Problems
	if !errors.As(err, &problems) {
		t.Fatalf("got %v, want problems", err)
	}
	refused := map[string]bool{}
	for _, p := range problems {
		refused[pattern(p.Path)+": "+p.Message] = true
	}
	for key, feature := range unsupported {
		path, _, _ := strings.Cut(key, "=")
		if !refused[path+": not supported yet: "+feature] {
			t.Errorf("%s is not refused in contract-later.yaml", key)
		}
	}
}
