package k8scsr

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// The kinds of a Profile.
const (
	VaultHelm  = "vault-helm"
	ConsulHelm = "consul-helm"
)

// Profile computes the names under which the servers of a Helm release are
// reached. Read from hashicorp/vault-helm 0.34.1 (commit aa1c92e4) and the
// chart charts/consul of hashicorp/consul-k8s 2.1.0-dev (commit a507b1d1).
//
// The pods' own names are covered by wildcards, which hold for any number of
// them; with Replicas they are listed instead, for a signer or an approver that
// takes no wildcards.
type Profile struct {
	Kind      string // VaultHelm or ConsulHelm
	Release   string // of Helm; default vault or consul
	Namespace string // of the release

	// FullName is what the release's objects are called, where a value of the
	// chart says so: fullnameOverride or nameOverride, and Consul's global.name.
	// By default it is computed as the chart does.
	FullName string

	ClusterDomain string // default cluster.local
	Replicas      int    // 0: wildcards; else the pods 0 to Replicas-1 by name
	Datacenter    string // Consul's; default dc1
	Domain        string // Consul's; default consul
}

// maxLabel is the longest name of a Service: a label of the DNS (RFC 1035
// section 2.3.4).
const maxLabel = 63

// WithDefaults is the profile with the charts' own defaults where it is empty.
func (p Profile) WithDefaults() Profile {
	chart := "vault"
	if p.Kind == ConsulHelm {
		chart = "consul"
		p.Datacenter = cmp.Or(p.Datacenter, "dc1")
		p.Domain = cmp.Or(p.Domain, "consul")
	}
	p.Release = cmp.Or(p.Release, chart)
	p.ClusterDomain = cmp.Or(p.ClusterDomain, DefaultClusterDomain)
	return p
}

// Names are the DNS names and addresses that the release's servers need. An
// error names the value that makes one of them impossible: it is empty, is no
// name, or makes a label longer than 63 octets or a name longer than 253.
func (p Profile) Names() ([]string, []netip.Addr, error) {
	p = p.WithDefaults()
	if err := p.check(); err != nil {
		return nil, nil, err
	}
	var services, names []string
	addresses := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	switch p.Kind {
	case VaultHelm:
		services, names = p.vault()
	case ConsulHelm:
		services, names = p.consul()
		addresses = append(addresses, netip.IPv6Loopback())
	}
	for _, service := range services {
		if len(service) > maxLabel {
			return nil, nil, fmt.Errorf("%s gives a Service of the name %q, which has %d octets, and the DNS takes %d: use a shorter one",
				p.origin(), service, len(service), maxLabel)
		}
	}
	for _, name := range names {
		if err := checkDNSName(name); err != nil {
			return nil, nil, fmt.Errorf("it gives the name %q, which %w", name, err)
		}
	}
	return sorted(names), addresses, nil
}

// vault are the names of templates/ of vault-helm: the Services of
// server-service.yaml, server-ha-active-service.yaml,
// server-ha-standby-service.yaml, ui-service.yaml and
// server-headless-service.yaml; below the last one the pods of
// server-statefulset.yaml, by which the servers also join each other
// (VAULT_CLUSTER_ADDR there). Commands in the pod reach Vault at 127.0.0.1
// (VAULT_ADDR there).
func (p Profile) vault() (services, names []string) {
	full := p.fullName()
	headless := full + "-internal"
	services = []string{full, full + "-active", full + "-standby", full + "-ui", headless}
	for _, service := range services {
		names = append(names, inCluster(service, p.Namespace, p.ClusterDomain)...)
	}
	for _, pod := range p.pods(full) {
		names = append(names, inCluster(pod+"."+headless, p.Namespace, p.ClusterDomain)...)
	}
	return services, append(names, "localhost")
}

// consul are the names that templates/tls-init-job.yaml has put into the
// servers' certificate (the same as serverTLSAltNames in _helpers.tpl, which is
// for Vault as the source), with those that its command adds
// (control-plane/subcommand/tls-init/command.go: server.DATACENTER.DOMAIN,
// localhost, 127.0.0.1, ::1), and for each name in the cluster also the full
// one, which the job leaves out. Servers know each other by
// server.DATACENTER.DOMAIN alone (verify_server_hostname in
// server-config-configmap.yaml), across data centers by
// NODE.server.DATACENTER.DOMAIN, where NODE is the pod's name. The Services of
// ui-service.yaml and expose-servers-service.yaml are not in the chart's own
// certificate either.
func (p Profile) consul() (services, names []string) {
	server := p.fullName() + "-server" // server-service.yaml and server-statefulset.yaml
	serverName := "server." + p.Datacenter + "." + p.Domain
	names = append(inCluster(server, p.Namespace, p.ClusterDomain), serverName, "localhost")
	for _, pod := range p.pods(server) {
		names = append(names, inCluster(pod+"."+server, p.Namespace, p.ClusterDomain)...)
		names = append(names, pod+"."+serverName)
	}
	return []string{server}, names
}

// pods are the first labels of the pods' names.
func (p Profile) pods(set string) []string {
	if p.Replicas == 0 {
		return []string{"*"}
	}
	var out []string
	for n := range p.Replicas {
		out = append(out, fmt.Sprintf("%s-%d", set, n))
	}
	return out
}

// fullName is the charts' template "fullname" in _helpers.tpl. Vault's takes a
// release that has "vault" in its name for the whole; Consul's never does:
// release "consul" gives consul-consul.
func (p Profile) fullName() string {
	full := p.Release
	switch {
	case p.FullName != "":
		full = p.FullName
	case p.Kind == ConsulHelm:
		full += "-consul"
	case !strings.Contains(full, "vault"):
		full += "-vault"
	}
	return strings.TrimSuffix(full[:min(len(full), maxLabel)], "-")
}

// origin is where the name of the release's objects comes from.
func (p Profile) origin() string {
	if p.FullName != "" {
		return fmt.Sprintf("fullName %q", p.FullName)
	}
	return fmt.Sprintf("release %q", p.Release)
}

// maxReplicas is more servers than Vault and Consul have voters by far.
const maxReplicas = 100

func (p Profile) check() error {
	var problems []error
	add := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if !slices.Contains([]string{VaultHelm, ConsulHelm}, p.Kind) {
		add("kind %q is none of %s, %s", p.Kind, VaultHelm, ConsulHelm)
	}
	label := func(key, value string) {
		if value == "" {
			add("%s is missing", key)
		} else if err := checkDNSName(value); err != nil {
			add("%s %q %w", key, value, err)
		} else if strings.Contains(value, ".") {
			add("%s %q has a dot, and must be a single label", key, value)
		}
	}
	label("release", p.Release)
	label("namespace", p.Namespace)
	if p.FullName != "" {
		label("fullName", p.FullName)
	}
	domain := func(key, value string) {
		if err := checkDNSName(value); err != nil || strings.HasPrefix(value, "*") {
			add("%s %q is not a domain: %w", key, value, cmp.Or(err, errors.New("it begins with a wildcard")))
		}
	}
	domain("clusterDomain", p.ClusterDomain)
	if p.Replicas < 0 || p.Replicas > maxReplicas {
		add("replicas %d is not between 0 and %d", p.Replicas, maxReplicas)
	}
	if p.Kind == ConsulHelm {
		label("datacenter", p.Datacenter)
		domain("domain", p.Domain)
	} else if p.Datacenter != "" || p.Domain != "" {
		add("datacenter %q and domain %q are of Consul: leave them out, or set kind: %s", p.Datacenter, p.Domain, ConsulHelm)
	}
	return errors.Join(problems...)
}
