package k8scsr

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestSigningLifetime: what is asked, the policy and the CA each may be the
// shortest.
func TestSigningLifetime(t *testing.T) {
	const skew = 5 * time.Minute
	seconds := func(d time.Duration) *int32 { return new(int32(d / time.Second)) }
	for _, c := range []struct {
		name     string
		asked    *int32
		edit     func(*signing)
		from, to time.Duration // after now
	}{
		{"asked", seconds(24 * time.Hour), nil, -skew, 24*time.Hour - skew},
		{"not asked", nil, nil, -skew, 240*time.Hour - skew},
		{"more than the policy", seconds(1000 * time.Hour), nil, -skew, 240*time.Hour - skew},
		{"eight hours", seconds(8 * time.Hour), nil, -skew, 8*time.Hour - skew},
		{"a second less", seconds(8*time.Hour - time.Second), nil, -skew, 8*time.Hour - time.Second},
		{"the least", seconds(10 * time.Minute), nil, -skew, 10 * time.Minute},
		{"now within a second", seconds(10 * time.Minute), func(s *signing) { s.now = s.now.Add(700 * time.Millisecond) }, -skew, 10 * time.Minute},
		{"the CA ends sooner", seconds(24 * time.Hour), func(s *signing) {
			s.ca = newAuthority(t, "ca", nil, func(c *x509.Certificate) { c.NotAfter = epoch.Add(time.Hour) })
		}, -skew, time.Hour},
		{"the CA is young", seconds(24 * time.Hour), func(s *signing) {
			s.ca = newAuthority(t, "ca", nil, func(c *x509.Certificate) { c.NotBefore = epoch.Add(-time.Minute) })
		}, -time.Minute, 24*time.Hour - skew},
		{"the root ends sooner", seconds(24 * time.Hour), func(s *signing) {
			root := newAuthority(t, "root", nil, func(c *x509.Certificate) { c.NotAfter = epoch.Add(time.Hour) })
			s.ca = newAuthority(t, "ca", root)
			s.ca.chain = append(s.ca.chain, root.cert)
		}, -skew, time.Hour},
	} {
		s := goodSigning(t)
		s.request.ExpirationSeconds = c.asked
		if c.edit != nil {
			c.edit(s)
		}
		answer, err := s.sign(t)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		leaf := chainOf(t, answer)[0]
		if !leaf.NotBefore.Equal(epoch.Add(c.from)) || !leaf.NotAfter.Equal(epoch.Add(c.to)) {
			t.Errorf("%s: from %v to %v", c.name, leaf.NotBefore.Sub(epoch), leaf.NotAfter.Sub(epoch))
		}
	}
}

// TestSigningChain: what a client needs that trusts the root alone.
func TestSigningChain(t *testing.T) {
	root := newAuthority(t, "root", nil)
	middle := newAuthority(t, "middle", root)
	low := newAuthority(t, "low", middle)
	for _, c := range []struct {
		name string
		ca   *authority
		file []*x509.Certificate
		want []string
	}{
		{"root", root, []*x509.Certificate{root.cert}, []string{"server.dc1.consul"}},
		{"intermediate alone", middle, []*x509.Certificate{middle.cert}, []string{"server.dc1.consul", "middle"}},
		{"intermediate and root", middle, []*x509.Certificate{middle.cert, root.cert}, []string{"server.dc1.consul", "middle"}},
		{"two intermediates and root", low, []*x509.Certificate{low.cert, middle.cert, root.cert}, []string{"server.dc1.consul", "low", "middle"}},
	} {
		ca, err := ParseSigningCA(toPEM(c.file...))
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		s := goodSigning(t)
		s.ca = &authority{cert: ca.Certificate, key: c.ca.key, chain: append([]*x509.Certificate{ca.Certificate}, ca.Parents...)}
		answer, err := s.sign(t)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var names []string
		pool := x509.NewCertPool()
		certs := chainOf(t, answer)
		for _, cert := range certs {
			names = append(names, cert.Subject.CommonName)
			pool.AddCert(cert)
		}
		if !slices.Equal(names, c.want) {
			t.Errorf("%s: %q, want %q", c.name, names, c.want)
		}
		roots := x509.NewCertPool()
		roots.AddCert(root.cert)
		if _, err := certs[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: pool, CurrentTime: epoch, DNSName: "node-7.server.dc1.consul"}); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestParseAuthorityRefuses(t *testing.T) {
	root := newAuthority(t, "root", nil)
	middle := newAuthority(t, "middle", root)
	low := newAuthority(t, "low", middle)
	other := newAuthority(t, "other", nil)
	for name, data := range map[string][]byte{
		"nothing":             nil,
		"no certificate":      keyPEM(t, root.key),
		"a key beside it":     append(toPEM(root.cert), keyPEM(t, root.key)...),
		"somebody else's":     toPEM(middle.cert, other.cert),
		"the wrong way round": toPEM(root.cert, middle.cert),
		"not in order":        toPEM(low.cert, root.cert, middle.cert),
		"too large":           bytes.Repeat([]byte("x"), 100_000),
		"too many":            toPEM(slices.Repeat([]*x509.Certificate{root.cert}, 10)...),
	} {
		if _, err := ParseSigningCA(data); err == nil || !strings.HasPrefix(err.Error(), "parsing the CA's certificate: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAuthorityUsable(t *testing.T) {
	root := newAuthority(t, "root", nil, func(c *x509.Certificate) { c.MaxPathLenZero = true })
	under := newAuthority(t, "under", root)
	ended := newAuthority(t, "ended", nil, func(c *x509.Certificate) { c.NotAfter = epoch.Add(-time.Hour) })
	underEnded := newAuthority(t, "under", ended)
	zero := newAuthority(t, "zero", newAuthority(t, "free", nil), func(c *x509.Certificate) { c.MaxPathLenZero = true })
	for _, c := range []struct {
		name string
		ca   SigningCA
		want string
	}{
		{"path length 0 of its own", SigningCA{zero.cert, nil}, ""},
		{"root of path length 0", SigningCA{root.cert, nil}, ""},
		{"under a path length of 0", SigningCA{under.cert, []*x509.Certificate{root.cert}}, "allows 0 CAs below it, and there are 1"},
		{"under one that ended", SigningCA{underEnded.cert, []*x509.Certificate{ended.cert}}, "sooner than the shortest"},
	} {
		err := c.ca.Usable(epoch)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if !(SigningCA{Certificate: root.cert}).Matches(root.key.Public()) || (SigningCA{Certificate: root.cert}).Matches(under.key.Public()) {
		t.Error("a key is matched wrongly")
	}
}

func TestAuthorityEndsWithItsParents(t *testing.T) {
	root := newAuthority(t, "root", nil, func(c *x509.Certificate) { c.NotAfter = epoch.AddDate(0, 0, 10) })
	low := newAuthority(t, "low", root, func(c *x509.Certificate) { c.NotBefore = epoch.AddDate(0, 0, -1) })
	ca := SigningCA{low.cert, []*x509.Certificate{root.cert}}
	if s, why := ca.Ends(24*time.Hour, epoch); s != Critical || !strings.HasPrefix(why, `stands under "CN=root", which ends `) {
		t.Errorf("%q %q", s, why)
	}
	if s, why := (SigningCA{low.cert, nil}).Ends(24*time.Hour, epoch); s != "" || why != "" {
		t.Errorf("%q %q", s, why)
	}
}

// TestAnswerChecks: a certificate that is not the template's is never given out.
func TestAnswerChecks(t *testing.T) {
	for name, edit := range map[string]func(*x509.Certificate){
		"serial":           func(c *x509.Certificate) { c.SerialNumber = new(big.Int).Add(aSerial, big.NewInt(1)) },
		"name":             func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, "evil.example") },
		"common name":      func(c *x509.Certificate) { c.Subject.CommonName = "evil" },
		"end":              func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(time.Second) },
		"begin":            func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(-time.Second) },
		"CA":               func(c *x509.Certificate) { c.IsCA = true },
		"key usage":        func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign },
		"extended usage":   func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] },
		"key identifier":   func(c *x509.Certificate) { c.SubjectKeyId = []byte("x") },
		"one address less": func(c *x509.Certificate) { c.IPAddresses = c.IPAddresses[:1] },
	} {
		s := goodSigning(t)
		s.request.PEM = requestPEM(t, s.template, s.key)
		template, err := s.policy.Template(s.request, s.authority(), s.serial, s.now)
		if err != nil {
			t.Fatal(err)
		}
		changed := *template
		edit(&changed)
		der, err := x509.CreateCertificate(rand.Reader, &changed, s.ca.cert, template.PublicKey, s.ca.key)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := s.authority().Answer(der, template, s.now)
		if answer != nil || err == nil || errors.As(err, new(*SigningRefusal)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s, other := goodSigning(t), newAuthority(t, "consul ca", nil)
	s.request.PEM = requestPEM(t, s.template, s.key)
	template, err := s.policy.Template(s.request, s.authority(), s.serial, s.now)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, s.ca.cert, template.PublicKey, s.ca.key)
	if err != nil {
		t.Fatal(err)
	}
	der[len(der)-1] ^= 1
	if answer, err := s.authority().Answer(der, template, s.now); answer != nil || err == nil {
		t.Errorf("broken signature: %v", err)
	}
	if answer, err := (SigningCA{Certificate: other.cert}).Answer(der, template, s.now); answer != nil || err == nil {
		t.Errorf("another CA of the same name: %v", err)
	}
}

// TestAuthorityWithoutKeyIdentifier: the leaf names its issuer's key all the same.
func TestAuthorityWithoutKeyIdentifier(t *testing.T) {
	ca := *newAuthority(t, "ca", nil).cert
	want := keyID(ca.PublicKey)
	ca.SubjectKeyId = nil
	if got := (SigningCA{Certificate: &ca}).keyID(); len(got) != 20 || !bytes.Equal(got, want) {
		t.Errorf("%x", got)
	}
}

func TestSigningPolicyValidate(t *testing.T) {
	if err := consulPolicy().Validate(); err != nil {
		t.Errorf("the good one: %v", err)
	}
	for _, c := range []struct {
		want string
		edit func(*SigningPolicy)
	}{
		{"not of the form", func(p *SigningPolicy) { p.Signer = "consul" }},
		{"not of the form", func(p *SigningPolicy) { p.Signer = "consul/x" }},
		{"belong to Kubernetes", func(p *SigningPolicy) { p.Signer = "kubernetes.io/kubelet-serving" }},
		{"belong to Kubernetes", func(p *SigningPolicy) { p.Signer = "sub.kubernetes.io/x" }},
		{"maxLifetime: 9m59s", func(p *SigningPolicy) { p.MaxLifetime = 599 * time.Second }},
		{"maxLifetime: 10m0.5s", func(p *SigningPolicy) { p.MaxLifetime = 600*time.Second + 500*time.Millisecond }},
		{"maxLifetime: 600000h0m0s", func(p *SigningPolicy) { p.MaxLifetime = 600000 * time.Hour }},
		{`usages: "cert sign"`, func(p *SigningPolicy) { p.Usages = append(p.Usages, "cert sign") }},
		{`usages: "any"`, func(p *SigningPolicy) { p.Usages = append(p.Usages, "any") }},
		{`"server auth" or "client auth" is needed`, func(p *SigningPolicy) { p.Usages = []string{"digital signature"} }},
		{`such as "digital signature" is needed`, func(p *SigningPolicy) { p.Usages = []string{"client auth"} }},
		{`allow.dnsNames: "*"`, func(p *SigningPolicy) { p.DNSNames = []string{"*"} }},
		{`allow.dnsNames: "a.*.b"`, func(p *SigningPolicy) { p.DNSNames = []string{"a.*.b"} }},
		{`allow.dnsNames: "**.b"`, func(p *SigningPolicy) { p.DNSNames = []string{"**.b"} }},
		{`allow.dnsNames: ""`, func(p *SigningPolicy) { p.DNSNames = []string{""} }},
		{`allow.dnsNames: "B.example"`, func(p *SigningPolicy) { p.DNSNames = []string{"B.example"} }},
		{"allow.ipAddresses: 10.0.0.1/8", func(p *SigningPolicy) { p.IPAddresses = []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")} }},
		{"allow.ipAddresses: ::ffff:10.0.0.0/104", func(p *SigningPolicy) {
			p.IPAddresses = []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr("::ffff:10.0.0.0"), 104)}
		}},
		{"allow.ipAddresses: invalid Prefix", func(p *SigningPolicy) { p.IPAddresses = []netip.Prefix{{}} }},
		{"allow: it is empty", func(p *SigningPolicy) { p.DNSNames, p.IPAddresses = nil, nil }},
	} {
		p := consulPolicy()
		c.edit(&p)
		if err := p.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.want, err)
		}
	}
}

// TestSigningPolicyRefuses is what is said of a declared certificate before
// anything runs.
func TestSigningPolicyRefuses(t *testing.T) {
	spec := func(edit func(*Spec)) Spec {
		s := Spec{Name: "consul-server", Signer: "pkiwarden.io/consul", DNSNames: []string{"server.dc1.consul", "*.server.dc1.consul"},
			IPAddresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Lifetime: 240 * time.Hour,
			Usages: []string{"digital signature", "server auth", "client auth"}}
		if edit != nil {
			edit(&s)
		}
		return s.WithDefaults()
	}
	for _, c := range []struct {
		edit func(*Spec)
		want []string
	}{
		{nil, nil},
		{func(s *Spec) { s.DNSNames = []string{"consul.example"} }, []string{`the DNS name "consul.example" is not among those that the signer allows`}},
		{func(s *Spec) { s.DNSNames, s.IPAddresses, s.NamesFollow = nil, nil, true }, nil},
		{func(s *Spec) { s.DNSNames = []string{"*.consul"} }, []string{`the DNS name "*.consul" is not among those that the signer allows`}},
		{func(s *Spec) { s.IPAddresses = []netip.Addr{netip.MustParseAddr("192.0.2.1")} }, []string{"the IP address 192.0.2.1 is not among those that the signer allows"}},
		{func(s *Spec) { s.CommonName, s.Organizations = "vault", []string{"ops"} }, []string{
			"its subject has organization ops, and may have a common name alone", `its common name "vault" is not among the DNS names that the signer allows`}},
		{func(s *Spec) { s.URIs = []string{"spiffe://x/y"} }, []string{"it has the URI spiffe://x/y, and the signer allows DNS names and IP addresses only"}},
		{func(s *Spec) { s.Usages = []string{"digital signature", "server auth", "key agreement"} }, []string{
			`the usage "key agreement" is not among those that the signer gives, ["digital signature" "key encipherment" "server auth" "client auth"]`}},
		{func(s *Spec) { s.Lifetime = 241 * time.Hour }, []string{"it asks for a lifetime of 241h0m0s, and the signer grants 240h0m0s at most"}},
	} {
		if got := consulPolicy().Refuses(spec(c.edit)); !slices.Equal(got, c.want) {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}
