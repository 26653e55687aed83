package k8scsr

import (
	"crypto/x509"
	"net"
	"strings"
	"testing"
	"time"
)

// TestUnrelated: what may be the only copy of somebody else's key is not written
// over, and what a server was given by hand may be renewed.
func TestUnrelated(t *testing.T) {
	w := newWorld(t)
	stored := func(edit func(*x509.Certificate)) Live {
		k, template := ecKey(t), leafTemplate(t, w.want, w.now)
		edit(template)
		return ReadLive(w.ca.issue(t, template, k.Public()), keyPEM(t, k))
	}
	nothing := func(c *x509.Certificate) {
		c.Subject.CommonName, c.DNSNames, c.IPAddresses, c.URIs = "", nil, nil, nil
	}
	ca := Live{Exists: true, Leaf: w.ca.cert}
	managed := ca
	managed.Managed = true
	for name, c := range map[string]struct {
		live Live
		want string
	}{
		"no Secret":       {Live{}, ""},
		"nothing in it":   {ReadLive(nil, nil), ""},
		"the same names":  {stored(func(*x509.Certificate) {}), ""},
		"one name common": {stored(func(c *x509.Certificate) { nothing(c); c.DNSNames = []string{"x.example", "VAULT.example"} }), ""},
		"common name":     {stored(func(c *x509.Certificate) { nothing(c); c.Subject.CommonName = "vault" }), ""},
		"expired":         {stored(func(c *x509.Certificate) { c.NotAfter = w.now.Add(-time.Hour) }), ""},
		"a CA":            {ca, `it holds the certificate of a CA, "CN=ca"`},
		"a CA, ours":      {managed, ""},
		"other names": {stored(func(c *x509.Certificate) {
			nothing(c)
			c.DNSNames = []string{"a.example", "b.example", "c.example", "d.example"}
		}),
			"its certificate has no name in common with the one wanted, but DNS name a.example, DNS name b.example, DNS name c.example, …"},
		"only this host": {stored(func(c *x509.Certificate) { nothing(c); c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} }),
			"its certificate has no name in common with the one wanted, but IP address 127.0.0.1"},
		"no names":   {stored(nothing), "its certificate has no name in common with the one wanted, but no name at all"},
		"no pair":    {ReadLive([]byte("junk"), []byte("junk")), "what it holds is not known: its certificate does not parse"},
		"a key only": {ReadLive(nil, keyPEM(t, ecKey(t))), "what it holds is not known: its certificate does not parse"},
	} {
		if got := w.want.Unrelated(c.live); !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	local := wanted(t, func(s *Spec) { *s = Spec{Name: "x", DNSNames: []string{"localhost"}, Signer: s.Signer} })
	if got := local.Unrelated(stored(func(c *x509.Certificate) { nothing(c); c.DNSNames = []string{"localhost"} })); got != "" {
		t.Errorf("where nothing else is wanted: %q", got)
	}
}
