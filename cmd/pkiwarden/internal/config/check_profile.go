package config

import (
	"cmp"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation"
)

// The kinds of Profile.
const (
	ProfileVaultHelm  = "vault-helm"
	ProfileConsulHelm = "consul-helm"
)

// checkProfile fills in what the profile leaves out, and gives a Consul server
// the usages that it needs. What the names come to is the domain's to check.
func (d *decoder) checkProfile(at string, c *Certificate) {
	p, here := c.Profile, at+".profile"
	if p == nil || !d.sound(here+".kind") || !d.require(here+".kind", p.Kind, ProfileVaultHelm) {
		return
	}
	chart := "vault"
	if p.Kind == ProfileConsulHelm {
		chart = "consul"
		p.Datacenter, p.Domain = cmp.Or(p.Datacenter, "dc1"), cmp.Or(p.Domain, "consul")
	}
	p.Release, p.Namespace = cmp.Or(p.Release, chart), cmp.Or(p.Namespace, c.Secret.Namespace)
	d.name(here+".release", p.Release, chart, validation.IsDNS1123Label)
	if c.Secret.Namespace != "" || d.set(here+".namespace") {
		d.name(here+".namespace", p.Namespace, chart, validation.IsDNS1123Label)
	}
	if p.FullName != "" {
		d.name(here+".fullName", p.FullName, chart, validation.IsDNS1123Label)
	}
	d.name(here+".clusterDomain", p.ClusterDomain, "cluster.local", validation.IsDNS1123Subdomain)
	if p.Kind == ProfileVaultHelm {
		for _, key := range []string{"datacenter", "domain"} {
			if d.set(here + "." + key) {
				d.bad(here+"."+key, "this key is of kind %s; a Vault has none", ProfileConsulHelm)
			}
		}
		return
	}
	d.checkConsulUsages(at, c)
}

// checkConsulUsages holds a Consul server's certificate to both usages: the
// servers are each other's clients (Consul, "Secure agent communication with
// TLS": the server certificate is for TLS Web Server and Client
// Authentication).
func (d *decoder) checkConsulUsages(at string, c *Certificate) {
	if !d.set(at + ".usages") {
		c.Usages = append(c.Usages, "client auth")
	}
	if !d.sound(at+".usages", at+".signer") {
		return
	}
	for _, usage := range []string{"server auth", "client auth"} {
		if !slices.Contains(c.Usages, usage) {
			d.bad(at+".usages", "expected %q among them, since Consul's servers are each other's clients; leave usages out for all that they need", usage)
			return
		}
	}
	if rule, known := signerUsages[c.Signer]; known && !slices.Contains(rule.required, "client auth") {
		d.bad(at+".signer", `%s does not give "client auth", which Consul's servers need beside "server auth" in one certificate, since they are each other's clients; use a signer that gives both, for example one of your own (DOMAIN/NAME)`, c.Signer)
	}
}

// maxNameSources bounds what is read at each look at a certificate.
const maxNameSources = 32

func (d *decoder) checkNamesFrom(at string, c *Certificate) {
	at += ".namesFrom"
	if len(c.NamesFrom) > maxNameSources {
		d.bad(at, "expected at most %d objects, found %d; each is read once a minute", maxNameSources, len(c.NamesFrom))
	}
	seen := map[ObjectRef]bool{}
	for i := range c.NamesFrom {
		o, here := &c.NamesFrom[i], fmt.Sprintf("%s[%d]", at, i)
		d.require(here+".kind", o.Kind, "Service")
		o.Namespace = cmp.Or(o.Namespace, c.Secret.Namespace)
		if c.Secret.Namespace != "" || d.set(here+".namespace") {
			d.name(here+".namespace", o.Namespace, "vault", validation.IsDNS1123Label)
		}
		d.name(here+".name", o.Name, "vault-active", validation.IsDNS1123Subdomain)
		if seen[*o] && d.sound(here) && o.Kind != "" && o.Name != "" {
			d.bad(here, "%s %s/%s is listed twice", o.Kind, o.Namespace, o.Name)
		}
		seen[*o] = true
	}
}
