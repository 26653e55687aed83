package k8scsr

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"
)

// ask makes the world one in which a person asked for a renewal at now.
func (w *world) ask() {
	w.want.Replace = Replacement{LeafID: LeafID(w.Live.Leaf), AskedAt: w.now}
}

// TestReplace is a renewal that somebody asked for, held against each thing that
// puts off one that nobody asked for.
func TestReplace(t *testing.T) {
	failure := func(w *world, at time.Time, times int) {
		w.Pending.LastFailure = &Failure{Rule: RuleDenied, Summary: "request x was denied", At: at, Wanted: w.want.Fingerprint()}
		w.Pending.Failures, w.Pending.RetryAt = times, at.Add(20*time.Minute)
		for n := range times {
			w.Pending.Attempts = append(w.Pending.Attempts, Attempt{At: at.Add(-time.Duration(n) * time.Minute), Failed: true})
		}
	}
	for _, c := range []struct {
		name   string
		given  func(*world)
		kind   Kind
		reason string
	}{
		{"fresh", func(w *world) { w.live(time.Hour); w.ask() }, StoreNextKey, "its renewal was asked for"},
		{"due by age too", func(w *world) { w.live(17 * time.Hour); w.ask() }, StoreNextKey, "its renewal was due"},
		{"none there", func(w *world) { w.ask() }, StoreNextKey, "there is no certificate yet"},
		{"window closed", func(w *world) { w.live(17 * time.Hour); w.want.Windows = nightly{time.Tuesday}; w.ask() }, StoreNextKey, "its renewal was due"},
		{"another is in its place by now", func(w *world) { w.live(time.Hour); w.ask(); w.live(time.Minute) }, Nothing, "good until"},
		{"paused", func(w *world) { w.live(time.Hour); w.ask(); w.want.Paused = true }, Nothing, "paused by configuration"},
		{"failed before it was asked for", func(w *world) { w.live(time.Hour); failure(w, w.now.Add(-time.Minute), 1); w.ask() }, StoreNextKey, "its renewal was asked for"},
		{"failed since it was asked for", func(w *world) { w.live(time.Hour); w.ask(); failure(w, w.now, 1) }, Nothing, "the last attempt failed: request x was denied"},
		{"failed six times within the hour", func(w *world) { w.live(time.Hour); failure(w, w.now.Add(-time.Minute), 6); w.ask() }, Nothing, "six requests failed within an hour"},
		{"the signer's budget is used up", func(w *world) {
			w.live(time.Hour)
			w.ask()
			w.Spending.Budget = Budget{Hour: 1, Day: 1}
			w.Spending.Account = AccountOf([]time.Time{w.now.Add(-time.Minute)}, w.now)
		}, Nothing, "the budget of signer ca.example/serving is used up"},
		{"key stored, asked by another instance", func(w *world) {
			w.live(time.Hour)
			w.pending(0)
			w.Pending.Replace = LeafID(w.Live.Leaf)
		}, CreateRequest, "the next key is stored"},
		{"key stored, and the one to replace is gone", func(w *world) {
			w.live(time.Hour)
			w.pending(0)
			w.Pending.Replace = "00"
		}, DropPending, "a new certificate is no longer needed"},
		{"answered with an earlier end", func(w *world) {
			w.live(time.Hour)
			w.ask()
			w.request(0)
			w.answer(func(c *x509.Certificate) { c.NotAfter = w.now.Add(6 * time.Hour) })
		}, Publish, "is answered"},
		{"answered with an earlier end, asked by another instance", func(w *world) {
			w.live(time.Hour)
			w.request(0)
			w.Pending.Replace = LeafID(w.Live.Leaf)
			w.answer(func(c *x509.Certificate) { c.NotAfter = w.now.Add(6 * time.Hour) })
		}, Publish, "is answered"},
		{"answered for another key", func(w *world) {
			w.live(time.Hour)
			w.ask()
			w.request(0)
			w.answer()
			w.Request.Certificate = w.ca.issue(w.t, leafTemplate(w.t, w.want, w.now), ecKey(w.t).Public())
		}, DropPending, "another key"},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			w := newWorld(t)
			c.given(w)
			if step := Next(w.State, w.want, w.now); step.Kind != c.kind || !strings.Contains(step.Reason, c.reason) {
				t.Errorf("%s (%s), want %s (…%s…)", step.Kind, step.Reason, c.kind, c.reason)
			}
		})
	}
}

// TestReplaceIsRecorded: what was asked for is stored with the key, and is gone
// from the record once the attempt has ended, however it ended.
func TestReplaceIsRecorded(t *testing.T) {
	w := newWorld(t)
	w.live(time.Hour)
	w.ask()
	old := LeafID(w.Live.Leaf)
	record := Next(w.State, w.want, w.now).Record
	if len(old) != 64 || record.Replace != old {
		t.Fatalf("recorded %q for %q", record.Replace, old)
	}
	for name, ended := range map[string]Record{
		"succeeded": record.succeed(w.now), "abandoned": record.abandon(w.now), "failed": record.fail(Failure{}, w.now),
	} {
		if ended.Replace != "" {
			t.Errorf("%s: still %q", name, ended.Replace)
		}
	}
}

func TestDifferences(t *testing.T) {
	of := func(w *world) string {
		var out []string
		for _, d := range w.Differences(w.want, w.now) {
			out = append(out, map[string]string{Kept: "=", Added: "+", Removed: "-"}[d.Change]+" "+d.What+" "+d.Value)
		}
		return strings.Join(out, "\n")
	}
	unchanged := func(text string) string { return strings.ReplaceAll("\n"+text, "\n+", "\n=")[1:] }
	all := `+ common name vault
+ organization ops
+ organization security
+ DNS name *.vault-internal
+ DNS name vault.example
+ IP address 127.0.0.1
+ IP address fd00::1
+ URI spiffe://example/vault
+ usage client auth
+ usage digital signature
+ usage server auth
+ key ECDSA 256
+ signer ca.example/serving
+ lifetime 24h0m0s
+ trusted CA CN=ca`
	none := newWorld(t)
	if got, _, _ := strings.Cut(of(none), " (SHA-256 "); got != all {
		t.Errorf("nothing there:\n%s\nwant:\n%s", got, all)
	}

	w := newWorld(t)
	w.live(time.Hour)
	if got, _, _ := strings.Cut(of(w), " (SHA-256 "); got != unchanged(all) {
		t.Errorf("nothing changed:\n%s\nwant:\n%s", got, unchanged(all))
	}

	w.want.CommonName, w.want.Key, w.want.Lifetime, w.want.Signer = "", Key{RSA, 2048}, 48*time.Hour, "ca.example/b"
	w.want.DNSNames = []string{"added.example", "vault.example"}
	w.want.Usages = []string{"digital signature", "key encipherment", "server auth"}
	w.Trust = newAuthority(t, "new", nil).trust(t)
	want := `- common name vault
= organization ops
= organization security
+ DNS name added.example
= DNS name vault.example
- DNS name *.vault-internal
= IP address 127.0.0.1
= IP address fd00::1
= URI spiffe://example/vault
= usage digital signature
+ usage key encipherment
= usage server auth
- usage client auth
+ key RSA 2048
- key ECDSA 256
+ signer ca.example/b
- signer ca.example/serving
+ lifetime 48h0m0s
- lifetime 24h0m0s
+ trusted CA CN=new
= trusted CA CN=ca`
	var got []string
	for line := range strings.Lines(of(w)) {
		line, _, _ = strings.Cut(strings.TrimSuffix(line, "\n"), " (SHA-256 ")
		got = append(got, line)
	}
	if strings.Join(got, "\n") != want {
		t.Errorf("changed:\n%s\nwant:\n%s", strings.Join(got, "\n"), want)
	}
}

// TestDifferencesOfTrust: what is said of CAs is what happens to them. The
// certificate in use is from CA a, and b is wanted in its place.
func TestDifferencesOfTrust(t *testing.T) {
	a := newAuthority(t, "a", nil, func(c *x509.Certificate) { c.NotAfter = time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC) })
	b := newAuthority(t, "b", nil)
	const first = "added b: is published first, before the certificate changes"
	for _, c := range []struct {
		name  string
		given func(*world)
		want  string
	}{
		{"without peers", func(*world) {}, first + "; kept a: stays until it has expired, 2027-01-02T03:04:05Z, since no trust.peers are there to be asked"},
		{"with peers", func(w *world) { w.want.Peers = []string{"vault:8200"} },
			first + "; kept a: stays until all peers present certificates from what is in the trust source, or until it has expired, 2027-01-02T03:04:05Z"},
		{"published already", func(w *world) { w.published([]*authority{a, b}, day, time.Hour) },
			"kept b; kept a: stays until it has expired, 2027-01-02T03:04:05Z, since no trust.peers are there to be asked"},
		{"of no use", func(w *world) {
			w.Trust = a.trust(t)
			w.Live.CA = toPEM(a.cert, b.cert)
		}, "kept a; removed b: it vouches for no certificate of ours, and was not published by us"},
		{"nothing there", func(w *world) { w.Live = Live{} }, "added b"},
		{"damaged", func(w *world) { w.Live.CA = []byte("x") }, first + "; removed a bundle that does not parse"},
		{"no trust", func(w *world) { w.Trust = Trust{} }, ""},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			w := newWorld(t)
			w.ca, w.Trust = a, a.trust(t)
			w.live(2 * time.Hour)
			w.published([]*authority{a}, day)
			w.Trust = b.trust(t)
			c.given(w)
			var got []string
			for _, d := range w.Differences(w.want, w.now) {
				if d.What != "trusted CA" {
					continue
				}
				name, _, _ := strings.Cut(strings.TrimPrefix(d.Value, "CN="), " (SHA-256 ")
				line := d.Change + " " + name
				if d.Note != "" {
					line += ": " + d.Note
				}
				got = append(got, line)
			}
			if got := strings.Join(got, "; "); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}
