package k8scsr

import (
	"crypto/x509"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSpecDefaults(t *testing.T) {
	got := Spec{Name: "vault", DNSNames: []string{"B.example", "a.example", "b.example"},
		IPAddresses: []netip.Addr{netip.MustParseAddr("::ffff:127.0.0.1"), netip.MustParseAddr("127.0.0.1")}}.WithDefaults()
	want := Spec{
		Name: "vault", CommonName: "system:node:vault", Organizations: []string{"system:nodes"},
		DNSNames: []string{"a.example", "b.example"}, IPAddresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
		Usages: []string{"digital signature", "key encipherment", "server auth"},
		Key:    Key{"ECDSA", 256}, Signer: "kubernetes.io/kubelet-serving", Lifetime: 8760 * time.Hour,
		RenewAt: 0.66, AlertAt: 0.75, CriticalAt: 0.9, Patience: 15 * time.Minute,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("defaults:\n%+v\nwant:\n%+v", got, want)
	}
	if err := got.Validate(); err != nil {
		t.Error(err)
	}
	if other := (Spec{Name: "x", Signer: "ca.example/x", Key: Key{Algorithm: RSA}}).WithDefaults(); other.CommonName != "" || other.Key.Size != 2048 {
		t.Errorf("another signer: CN %q, key %v", other.CommonName, other.Key)
	}
}

func TestSpecValidate(t *testing.T) {
	cases := map[string]struct {
		edit func(*Spec)
		want string
	}{
		"no names":        {func(s *Spec) { s.DNSNames, s.IPAddresses, s.URIs = nil, nil, nil }, `names nothing: give dnsNames, ipAddresses or uris`},
		"wildcard inside": {func(s *Spec) { s.DNSNames = []string{"a.*.example"} }, `dnsNames: "a.*.example" is not a host name: "*"`},
		"trailing dot":    {func(s *Spec) { s.DNSNames = []string{"a.example."} }, `"a.example." has a label that is empty`},
		"zone":            {func(s *Spec) { s.IPAddresses = []netip.Addr{netip.MustParseAddr("fe80::1%eth0")} }, `"fe80::1%eth0" is not an address a certificate can carry`},
		"relative URI":    {func(s *Spec) { s.URIs = []string{"/x"} }, `uris: "/x" is not an absolute URI`},
		"key size":        {func(s *Spec) { s.Key = Key{RSA, 1024} }, `key: size 1024 is not one of [2048 3072 4096] for RSA`},
		"key algorithm":   {func(s *Spec) { s.Key = Key{"DSA", 1024} }, `key: algorithm "DSA" is not one of ECDSA, RSA, Ed25519`},
		"usage":           {func(s *Spec) { s.Usages = []string{"cert sign"} }, `usages: "cert sign" is not one that a serving certificate may carry`},
		"short lifetime":  {func(s *Spec) { s.Lifetime = 599 * time.Second }, `lifetime: 9m59s is not between 10m0s and`},
		"split second":    {func(s *Spec) { s.Lifetime = time.Hour + time.Millisecond }, `in whole seconds`},
		"shares":          {func(s *Spec) { s.RenewAt = 0.8 }, `renewAt 0.8, alertAt 0.75 and criticalAt 0.9 must rise`},
		"no domain":       {func(s *Spec) { s.Signer = "kubelet-serving" }, `signer kubelet-serving is not of the form domain.example/name`},
		"misspelt signer": {func(s *Spec) { s.Signer = "kubernetes.io/kubelet-servin" }, `does not exist or does not sign serving certificates: of the built-in signers only kubernetes.io/kubelet-serving does`},
		"kubelet-serving, subject": {func(s *Spec) { s.Signer, s.CommonName, s.URIs = KubeletServing, "vault", nil },
			`signs only common names that begin with "system:node:" in the organization "system:nodes", not "vault"`},
		"kubelet-serving, client": {func(s *Spec) { s.Signer = KubeletServing }, `use another signer for these usages`},
		"kubelet-serving, URI":    {func(s *Spec) { s.Signer = KubeletServing }, `signs no URIs`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := wanted(t)
			c.edit(&s)
			err := s.WithDefaults().Validate()
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), `certificate "vault-server": `) {
				t.Errorf("%v\nlacks %s", err, c.want)
			}
		})
	}
}

func TestFingerprintFollowsTheRequest(t *testing.T) {
	base := wanted(t)
	same := map[string]func(*Spec){
		"name": func(s *Spec) { s.Name = "x" }, "shares": func(s *Spec) { s.RenewAt = 0.5 },
		"approve": func(s *Spec) { s.Approve = false }, "order": func(s *Spec) { s.DNSNames = []string{"VAULT.example", "*.vault-internal"} },
	}
	for name, edit := range same {
		s := base
		edit(&s)
		if s.WithDefaults().Fingerprint() != base.Fingerprint() {
			t.Errorf("%s: the fingerprint changed", name)
		}
	}
	seen := map[string]string{base.Fingerprint(): "base"}
	for name, edit := range map[string]func(*Spec){
		"CN": func(s *Spec) { s.CommonName = "x" }, "O": func(s *Spec) { s.Organizations = []string{"ops security"} },
		"DNS": func(s *Spec) { s.DNSNames = s.DNSNames[:1] }, "IP": func(s *Spec) { s.IPAddresses = s.IPAddresses[:1] },
		"URI": func(s *Spec) { s.URIs = nil }, "usages": func(s *Spec) { s.Usages = s.Usages[:1] },
		"key": func(s *Spec) { s.Key.Size = 384 }, "signer": func(s *Spec) { s.Signer = "ca.example/b" },
		"lifetime": func(s *Spec) { s.Lifetime += time.Second },
	} {
		s := base
		edit(&s)
		print := s.Fingerprint()
		if other, taken := seen[print]; taken {
			t.Errorf("%s and %s have the same fingerprint", name, other)
		}
		seen[print] = name
	}
}

func TestChanged(t *testing.T) {
	ca := newAuthority(t, "ca", nil)
	want := wanted(t)
	leaf := func(s Spec, k Key) *x509.Certificate {
		return sign(t, leafTemplate(t, s, epoch), ca.cert, newKey(t, k).Public(), ca.key)
	}
	good := leaf(want, want.Key)
	if got := want.Changed(good, ""); got != nil {
		t.Errorf("unchanged: %q", got)
	}
	if got := want.Changed(good, "ca.example/serving"); got != nil {
		t.Errorf("unchanged, signer recorded: %q", got)
	}
	cases := []struct {
		name   string
		edit   func(*Spec)
		signer string
		want   []string
	}{
		{"name added", func(s *Spec) { s.DNSNames = append(s.DNSNames, "new.example") }, "", []string{"DNS name new.example is missing"}},
		{"name removed", func(s *Spec) { s.IPAddresses = s.IPAddresses[:1] }, "", []string{"IP address fd00::1 is not wanted"}},
		{"subject", func(s *Spec) { s.CommonName = "x" }, "", []string{`common name is "vault", not "x"`}},
		{"key", func(s *Spec) { s.Key = Key{RSA, 2048} }, "", []string{"key is ECDSA 256, not RSA 2048"}},
		{"signer", func(*Spec) {}, "ca.example/old", []string{"signer was ca.example/old, not ca.example/serving"}},
		{"lifetime only", func(s *Spec) { s.Lifetime *= 2 }, "", nil},
	}
	for _, c := range cases {
		s := want
		s.DNSNames = append([]string(nil), s.DNSNames...)
		c.edit(&s)
		if got := s.WithDefaults().Changed(good, c.signer); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestSchedule(t *testing.T) {
	cases := []struct {
		name                string
		backdated, lifetime time.Duration
		adopted             bool
		renew, alert        time.Duration // after the time of issue
	}{
		// Ten minutes, backdated five: renewed after 6 min 36 s, not at once.
		{"shortest", 5 * time.Minute, 600 * time.Second, false, 396 * time.Second, 450 * time.Second},
		{"backdated beyond the share", time.Hour, 600 * time.Second, false, 396 * time.Second, 450 * time.Second},
		{"not backdated", 0, 600 * time.Second, false, 396 * time.Second, 450 * time.Second},
		// Signed by a clock ahead of ours: counted from NotBefore.
		{"clock ahead", -100 * time.Second, 1100 * time.Second, false, 760 * time.Second, 850 * time.Second},
		// Adopted: the share counts from NotBefore, 0.66 × 900 s − 300 s.
		{"adopted", 5 * time.Minute, 600 * time.Second, true, 294 * time.Second, 375 * time.Second},
	}
	for _, c := range cases {
		s := wanted(t)
		issued := epoch
		leaf := &x509.Certificate{NotBefore: epoch.Add(-c.backdated), NotAfter: epoch.Add(c.lifetime)}
		if c.adopted {
			issued = time.Time{}
		}
		got := s.Schedule(leaf, issued)
		if renew, alert := got.RenewAt.Sub(epoch), got.AlertAt.Sub(epoch); renew != c.renew || alert != c.alert {
			t.Errorf("%s: renewed after %v and alarmed after %v, want %v and %v", c.name, renew, alert, c.renew, c.alert)
		}
	}
}

// TestScheduleSpread: certificates of one day and more are renewed apart, each
// always at the same share, never before RenewAt nor past half the way to the
// alarm; shorter ones are not spread.
func TestScheduleSpread(t *testing.T) {
	year := &x509.Certificate{NotBefore: epoch, NotAfter: epoch.Add(8760 * time.Hour)}
	seen := map[time.Time]bool{}
	for _, name := range []string{"vault-0", "vault-1", "vault-2", "vault-3", "vault-4", "vault-5"} {
		s := wanted(t, func(s *Spec) { s.Name = name })
		at := s.Schedule(year, time.Time{}).RenewAt
		share := float64(at.Sub(epoch)) / float64(8760*time.Hour)
		if share < 0.66 || share > 0.705 {
			t.Errorf("%s is renewed at %.4f of its lifetime", name, share)
		}
		if again := s.Schedule(year, time.Time{}).RenewAt; !again.Equal(at) {
			t.Errorf("%s is renewed at %v, then at %v", name, at, again)
		}
		seen[at.Truncate(time.Hour)] = true
	}
	if len(seen) != 6 {
		t.Errorf("six certificates are renewed in %d different hours", len(seen))
	}
	short := &x509.Certificate{NotBefore: epoch, NotAfter: epoch.Add(10 * time.Hour)}
	for _, name := range []string{"vault-0", "vault-1"} {
		s := wanted(t, func(s *Spec) { s.Name = name })
		if at := s.Schedule(short, time.Time{}).RenewAt; at.Sub(epoch) != 6*time.Hour+36*time.Minute {
			t.Errorf("%s, ten hours: renewed after %v", name, at.Sub(epoch))
		}
	}
}

// TestListsAreInOrder: however a list is given, it is sorted and has each value
// once, and what was given stays as it was.
func TestListsAreInOrder(t *testing.T) {
	for _, given := range [][]string{{"a", "b"}, {"b", "a"}, {"a", "a", "b"}, {"b", "a", "b"}, {"B", "a", "A"}} {
		was := slices.Clone(given)
		got := Spec{Name: "x", DNSNames: given}.WithDefaults().DNSNames
		if !slices.Equal(got, []string{"a", "b"}) || !slices.Equal(given, was) {
			t.Errorf("%q became %q, and what was given %q", was, got, given)
		}
	}
}

// TestOrganizationsAreNames: what is empty, or no text, is none.
func TestOrganizationsAreNames(t *testing.T) {
	for _, organization := range []string{"", "a\x00b", "line\nfeed"} {
		s := Spec{Name: "a", Signer: "example.com/a", CommonName: "a.example", DNSNames: []string{"a.example"}, Organizations: []string{organization}}.WithDefaults()
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), "subject: organization") {
			t.Errorf("%q: %v", organization, err)
		}
	}
}
