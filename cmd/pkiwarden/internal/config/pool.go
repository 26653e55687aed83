package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// pool makes equal values of many certificates one: most differ in their names
// only.
type pool struct {
	texts     map[string]string
	lists     map[string][]string
	addresses map[string][]netip.Addr
	refs      map[KeyRef]*KeyRef
	profiles  map[Profile]*Profile
	windows   map[string][]Window
	uris      map[string][]*url.URL
	common    map[string]*Certificate
}

func newPool() pool {
	return pool{
		texts: map[string]string{}, lists: map[string][]string{}, addresses: map[string][]netip.Addr{},
		refs: map[KeyRef]*KeyRef{}, profiles: map[Profile]*Profile{}, windows: map[string][]Window{}, uris: map[string][]*url.URL{}, common: map[string]*Certificate{},
	}
}

// share lets go of what the certificate has in common with those before it, and
// of the text that its names were part of.
func (d *decoder) share(c *Certificate) {
	p := &d.pool
	c.Name = strings.Clone(c.Name)
	c.Subject.CommonName = strings.Clone(c.Subject.CommonName)
	c.Secret.Name = strings.Clone(c.Secret.Name)
	for _, text := range []*string{
		&c.Secret.Namespace, &c.SecretKeys.Certificate, &c.SecretKeys.Key, &c.SecretKeys.CA,
		&c.Key.Algorithm, &c.Signer, &c.Trust.File,
	} {
		*text = p.text(*text)
	}
	c.DNSNames = compact(c.DNSNames)
	for i, name := range c.DNSNames {
		c.DNSNames[i] = strings.Clone(name)
	}
	for i := range c.NamesFrom {
		o := &c.NamesFrom[i]
		o.Kind, o.Namespace, o.Name = p.text(o.Kind), p.text(o.Namespace), p.text(o.Name)
	}
	c.URIs, c.NamesFrom = pooled(p.uris, fmt.Sprintf("%q", c.URIs), compact(c.URIs)), compact(c.NamesFrom)
	c.Usages = pooled(p.lists, fmt.Sprintf("%q", c.Usages), compact(c.Usages))
	c.Subject.Organizations = pooled(p.lists, fmt.Sprintf("%q", c.Subject.Organizations), compact(c.Subject.Organizations))
	c.IPAddresses = pooled(p.addresses, fmt.Sprint(c.IPAddresses), compact(c.IPAddresses))
	c.Trust.Peers = pooled(p.lists, fmt.Sprintf("%q", c.Trust.Peers), compact(c.Trust.Peers))
	c.Windows = pooled(p.windows, fmt.Sprintf("%q", c.Windows), compact(c.Windows))
	if c.Profile != nil {
		c.Profile = pooled(p.profiles, *c.Profile, c.Profile)
	}
	for _, ref := range []**KeyRef{&c.Trust.ConfigMap, &c.Trust.Secret} {
		if *ref != nil {
			*ref = pooled(p.refs, **ref, *ref)
		}
	}
}

func (p *pool) text(s string) string {
	if first, ok := p.texts[s]; ok {
		return first
	}
	s = strings.Clone(s)
	p.texts[s] = s
	return s
}

// pooled is the value that first had the key.
func pooled[K comparable, V any](known map[K]V, key K, value V) V {
	if first, ok := known[key]; ok {
		return first
	}
	known[key] = value
	return value
}

// compact is the list without room to grow, so that nobody's append is seen by
// others; nil when it is empty.
func compact[T any](list []T) []T {
	if len(list) == 0 {
		return nil
	}
	return slices.Clip(list)
}
