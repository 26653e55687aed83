package k8scsr

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// The names below are written by hand from the charts' templates:
// hashicorp/vault-helm 0.34.1, templates/{server,server-ha-active,server-ha-standby,
// server-headless,ui}-service.yaml and server-statefulset.yaml; consul-k8s
// a507b1d1, charts/consul/templates/tls-init-job.yaml and server-service.yaml.
func TestProfileNames(t *testing.T) {
	cases := []struct {
		name      string
		profile   Profile
		dns       string
		addresses string
	}{
		{"vault, as the guide installs it", Profile{Kind: VaultHelm, Namespace: "vault"}, `
			vault vault.vault vault.vault.svc vault.vault.svc.cluster.local
			vault-active vault-active.vault vault-active.vault.svc vault-active.vault.svc.cluster.local
			vault-standby vault-standby.vault vault-standby.vault.svc vault-standby.vault.svc.cluster.local
			vault-ui vault-ui.vault vault-ui.vault.svc vault-ui.vault.svc.cluster.local
			vault-internal vault-internal.vault vault-internal.vault.svc vault-internal.vault.svc.cluster.local
			*.vault-internal *.vault-internal.vault *.vault-internal.vault.svc *.vault-internal.vault.svc.cluster.local
			localhost`, "127.0.0.1"},
		{"vault, another release, two replicas by name", Profile{Kind: VaultHelm, Release: "prod", Namespace: "security", ClusterDomain: "k8s.example.com", Replicas: 2}, `
			prod-vault prod-vault.security prod-vault.security.svc prod-vault.security.svc.k8s.example.com
			prod-vault-active prod-vault-active.security prod-vault-active.security.svc prod-vault-active.security.svc.k8s.example.com
			prod-vault-standby prod-vault-standby.security prod-vault-standby.security.svc prod-vault-standby.security.svc.k8s.example.com
			prod-vault-ui prod-vault-ui.security prod-vault-ui.security.svc prod-vault-ui.security.svc.k8s.example.com
			prod-vault-internal prod-vault-internal.security prod-vault-internal.security.svc prod-vault-internal.security.svc.k8s.example.com
			prod-vault-0.prod-vault-internal prod-vault-0.prod-vault-internal.security prod-vault-0.prod-vault-internal.security.svc prod-vault-0.prod-vault-internal.security.svc.k8s.example.com
			prod-vault-1.prod-vault-internal prod-vault-1.prod-vault-internal.security prod-vault-1.prod-vault-internal.security.svc prod-vault-1.prod-vault-internal.security.svc.k8s.example.com
			localhost`, "127.0.0.1"},
		{"consul, with global.name", Profile{Kind: ConsulHelm, Namespace: "consul", FullName: "consul"}, `
			server.dc1.consul *.server.dc1.consul localhost
			consul-server consul-server.consul consul-server.consul.svc consul-server.consul.svc.cluster.local
			*.consul-server *.consul-server.consul *.consul-server.consul.svc *.consul-server.consul.svc.cluster.local`, "127.0.0.1 ::1"},
		{"consul, one replica by name", Profile{Kind: ConsulHelm, Release: "mesh", Namespace: "infra", Datacenter: "eu_1", Domain: "example.net", Replicas: 1}, `
			server.eu_1.example.net mesh-consul-server-0.server.eu_1.example.net localhost
			mesh-consul-server mesh-consul-server.infra mesh-consul-server.infra.svc mesh-consul-server.infra.svc.cluster.local
			mesh-consul-server-0.mesh-consul-server mesh-consul-server-0.mesh-consul-server.infra
			mesh-consul-server-0.mesh-consul-server.infra.svc mesh-consul-server-0.mesh-consul-server.infra.svc.cluster.local`, "127.0.0.1 ::1"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dns, addresses, err := c.profile.Names()
			if err != nil {
				t.Fatal(err)
			}
			sameNames(t, dns, strings.Fields(c.dns))
			if got := strings.Trim(fmt.Sprint(addresses), "[]"); got != c.addresses {
				t.Errorf("addresses %s, want %s", got, c.addresses)
			}
			s := Spec{Name: "a", Signer: "ca.example/a", DNSNames: dns, IPAddresses: addresses}.WithDefaults()
			if err := s.Validate(); err != nil {
				t.Errorf("they do not make a certificate: %v", err)
			}
		})
	}
}

func sameNames(t *testing.T, got, want []string) {
	t.Helper()
	for _, name := range want {
		if !slices.Contains(got, name) {
			t.Errorf("%s is missing", name)
		}
	}
	for n, name := range got {
		if !slices.Contains(want, name) {
			t.Errorf("%s is not wanted", name)
		}
		if slices.Index(got, name) < n {
			t.Errorf("%s is there twice", name)
		}
	}
}

// TestProfileFullName: what the charts' template "fullname" makes of a release.
func TestProfileFullName(t *testing.T) {
	fifty := strings.Repeat("a", 50)
	cases := []struct {
		kind, release, override, want string // want: the first label that all begin with
	}{
		{VaultHelm, "vault", "", "vault"},
		{VaultHelm, "my-vault-eu", "", "my-vault-eu"}, // "vault" is in it
		{VaultHelm, "secrets", "", "secrets-vault"},
		{VaultHelm, "secrets", "hush", "hush"},
		{VaultHelm, "", "", "vault"},
		{ConsulHelm, "consul", "", "consul-consul-server"}, // never taken for the whole
		{ConsulHelm, "mesh", "", "mesh-consul-server"},
		{ConsulHelm, "mesh", "consul", "consul-server"},
		{ConsulHelm, "", "", "consul-consul-server"},
		{ConsulHelm, fifty, "", fifty + "-consul-server"}, // 64 octets, one too many
		{VaultHelm, fifty, "", fifty + "-vault"},          // 56, and 65 with -internal
	}
	for _, c := range cases {
		dns, _, err := Profile{Kind: c.kind, Release: c.release, FullName: c.override, Namespace: "ns"}.Names()
		switch {
		case c.release == fifty:
			if err == nil || !strings.Contains(err.Error(), `release "`+fifty+`" gives a Service of the name "`+c.want) {
				t.Errorf("%s: %v", c.release, err)
			}
		case err != nil:
			t.Error(err)
		case !slices.Contains(dns, c.want+".ns.svc"):
			t.Errorf("%s %q %q: %q lacks %s", c.kind, c.release, c.override, dns, c.want+".ns.svc")
		}
	}
}

func TestProfileRefused(t *testing.T) {
	vault := func(edit func(*Profile)) Profile {
		p := Profile{Kind: VaultHelm, Release: "vault", Namespace: "vault"}
		edit(&p)
		return p
	}
	long := strings.Repeat("long.", 44) + "example" // 227 octets: with what precedes it 254
	cases := map[string]struct {
		profile Profile
		want    string
	}{
		"kind":         {vault(func(p *Profile) { p.Kind = "nomad-helm" }), `kind "nomad-helm" is none of vault-helm, consul-helm`},
		"namespace":    {vault(func(p *Profile) { p.Namespace = "" }), `namespace is missing`},
		"release":      {vault(func(p *Profile) { p.Release = "Vault" }), `release "Vault" is not a host name: "V" does not belong there`},
		"release, dot": {vault(func(p *Profile) { p.Release = "vault.eu" }), `release "vault.eu" has a dot`},
		"full name":    {vault(func(p *Profile) { p.FullName = "-" + strings.Repeat("x", 63) }), `has a label that is empty or longer than 63 octets`},
		"name of a Service": {vault(func(p *Profile) { p.FullName = strings.Repeat("x", 55) }),
			`fullName "` + strings.Repeat("x", 55) + `" gives a Service of the name "` + strings.Repeat("x", 55) + `-internal", which has 64 octets, and the DNS takes 63`},
		"domain":          {vault(func(p *Profile) { p.ClusterDomain = "cluster..local" }), `clusterDomain "cluster..local" is not a domain: has a label that is empty`},
		"wildcard":        {vault(func(p *Profile) { p.ClusterDomain = "*.local" }), `clusterDomain "*.local" is not a domain: it begins with a wildcard`},
		"long":            {vault(func(p *Profile) { p.ClusterDomain = long }), `.vault.svc.` + long + `", which is longer than 253 octets`},
		"replicas":        {vault(func(p *Profile) { p.Replicas = 101 }), `replicas 101 is not between 0 and 100`},
		"of Consul":       {vault(func(p *Profile) { p.Datacenter = "dc1" }), `datacenter "dc1" and domain "" are of Consul: leave them out, or set kind: consul-helm`},
		"Consul's domain": {Profile{Kind: ConsulHelm, Namespace: "c", Domain: "con sul"}, `domain "con sul" is not a domain: is not a host name: " "`},
		"datacenter":      {Profile{Kind: ConsulHelm, Namespace: "c", Datacenter: "eu.west"}, `datacenter "eu.west" has a dot`},
	}
	for name, c := range cases {
		if dns, _, err := c.profile.Names(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v and %d names; want an error with: %s", name, err, len(dns), c.want)
		}
	}
}

func TestNamesOfObjects(t *testing.T) {
	cases := []struct {
		name string
		got  []string
		want string
	}{
		{"Service", ServiceNames("vault", "vault-active", "cluster.local", false),
			"vault-active vault-active.vault vault-active.vault.svc vault-active.vault.svc.cluster.local"},
		{"headless Service", ServiceNames("a", "b", "k8s.example.", true),
			"b b.a b.a.svc b.a.svc.k8s.example *.b *.b.a *.b.a.svc *.b.a.svc.k8s.example"},
		{"StatefulSet", StatefulSetNames("a", "db", "db-pods", "cluster.local", 1, 2),
			`db-1.db-pods db-1.db-pods.a db-1.db-pods.a.svc db-1.db-pods.a.svc.cluster.local
			db-2.db-pods db-2.db-pods.a db-2.db-pods.a.svc db-2.db-pods.a.svc.cluster.local`},
		{"StatefulSet of no pods", StatefulSetNames("a", "db", "db-pods", "cluster.local", 0, 0), ""},
		{"StatefulSet without a Service", StatefulSetNames("a", "db", "", "cluster.local", 0, 3), ""},
		{"Ingress", IngressNames([]string{"vault.example.com", "", "*.apps.example.com", "vault.example.com"}), "*.apps.example.com vault.example.com"},
		{"Ingress for every host", IngressNames([]string{""}), ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { sameNames(t, c.got, strings.Fields(c.want)) })
	}
}

// TestNamesFollow: a certificate whose names come from objects needs none of
// its own, with any signer; what it has is held to the rules all the same.
func TestNamesFollow(t *testing.T) {
	s := Spec{Name: "a", NamesFollow: true}.WithDefaults()
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
	with := s
	with.NamesFollow = false
	with.DNSNames = []string{"a.example"}
	if with.Fingerprint() == s.Fingerprint() {
		t.Error("the names are not in the fingerprint")
	}
	s.DNSNames = []string{"a..example"}
	if err := s.Validate(); err == nil {
		t.Error("a..example is taken")
	}
}

func TestSpecSizes(t *testing.T) {
	many := func(n int) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprintf("%040d.example", i)) // 48 octets, 50 encoded
		}
		return out
	}
	s := Spec{Name: "a", Signer: "ca.example/a", DNSNames: many(599), IPAddresses: []netip.Addr{netip.MustParseAddr("::1")}}.WithDefaults()
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
	s.DNSNames = many(600)
	if err := s.Validate(); err == nil || !strings.Contains(err.Error(), "its 601 names take 30022 octets, and the certificate has room for 30000: wildcards stand for many") {
		t.Error(err)
	}
	s = Spec{Name: strings.Repeat("n", 52), DNSNames: []string{"a"}}.WithDefaults()
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
	s = Spec{Name: strings.Repeat("n", 53), DNSNames: []string{"a"}}.WithDefaults()
	if err := s.Validate(); err == nil || !strings.Contains(err.Error(), `common name "system:node:nnn`) || !strings.Contains(err.Error(), "has 65 characters, and a certificate carries 64 (RFC 5280 appendix A.1): give a shorter one, or the certificate a shorter name") {
		t.Error(err)
	}
	s = Spec{Name: "a", Signer: "ca.example/a", CommonName: strings.Repeat("é", 64), Organizations: []string{strings.Repeat("o", 65)}, DNSNames: []string{"a"}}.WithDefaults()
	if err := s.Validate(); err == nil || strings.Contains(err.Error(), "common name") || !strings.Contains(err.Error(), "has 65 characters") {
		t.Error(err)
	}
}
