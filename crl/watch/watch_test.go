package watch_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/crl/watch"
	"github.com/pkiwarden/pkiwarden/crl/watch/watchtest"
	"github.com/pkiwarden/pkiwarden/pki"
)

// bench is a Watch on a fake Vault.
type bench struct {
	*testing.T
	vault    *watchtest.Vault
	watch    *watch.Watch
	registry *prometheus.Registry
	limit    crl.Limit
	findings []crl.Finding // last reported
}

var thresholds = crl.Thresholds{
	Warn:     crl.Threshold{Share: 0.6, Horizon: 336 * time.Hour, Headroom: 2},
	Critical: crl.Threshold{Share: 0.8, Horizon: 72 * time.Hour, Headroom: 1},
}

type fixedLimit struct{ b *bench }

func (f fixedLimit) Limit(context.Context) crl.Limit { return f.b.limit }

func newBench(t *testing.T, edit func(*watch.Options)) *bench {
	t.Helper()
	b := &bench{T: t, vault: &watchtest.Vault{}, registry: prometheus.NewPedanticRegistry()}
	b.limit = crl.Limit{Backend: "raft", MaxBytes: 1000000, Rule: "a rule", Known: true}
	o := watch.Options{
		Vault: b.vault, Limits: fixedLimit{b}, Thresholds: thresholds,
		Registerer: b.registry, Report: func(f []crl.Finding) { b.findings = f },
	}
	if edit != nil {
		edit(&o)
	}
	w, err := watch.New(o)
	if err != nil {
		t.Fatal(err)
	}
	b.watch = w
	return b
}

func (b *bench) once() {
	b.Helper()
	if err := b.watch.Once(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// publish builds a list that is fresh for three days.
func (b *bench) publish(m pki.Mount, issuer string, entries int) {
	b.vault.Publish(m, issuer, entries, time.Now().Truncate(time.Second), time.Now().Truncate(time.Second).Add(72*time.Hour))
}

func (b *bench) wantRules(want ...string) {
	b.Helper()
	var got []string
	for _, f := range b.findings {
		got = append(got, fmt.Sprintf("%s %s: %s", f.Severity, f.Rule, f.Subject))
	}
	if !slices.Equal(got, want) {
		b.Errorf("findings:\n got %q\nwant %q", got, want)
	}
}

// wantSeries compares the named series, in the order of their labels.
func (b *bench) wantSeries(name string, want ...string) {
	b.Helper()
	families, err := b.registry.Gather()
	if err != nil {
		b.Fatal(err)
	}
	var got []string
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			got = append(got, fmt.Sprintf("%s %d", strings.Join(labels, ","), int64(m.GetGauge().GetValue())))
		}
	}
	if !slices.Equal(got, want) {
		b.Errorf("%s:\n got %q\nwant %q", name, got, want)
	}
}

func TestMeasuresEveryList(t *testing.T) {
	for _, fetch := range []string{"json", "der"} {
		t.Run(fetch, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, func(o *watch.Options) { o.Fetch = fetch })
				root, web := b.vault.Mount("pki"), b.vault.Mount("team/web")
				key := b.vault.Issuer(root, "root", watchtest.IssuerOptions{Subject: "Root CA"})
				b.vault.Issuer(root, "root-renewed", watchtest.IssuerOptions{Subject: "Root CA", Key: key, Default: true})
				b.vault.Issuer(root, "imported", watchtest.IssuerOptions{NoKey: true})
				b.vault.Issuer(web, "web", watchtest.IssuerOptions{})
				b.publish(root, "root-renewed", 3)
				b.publish(web, "web", 1000)
				b.once()

				rootBytes, webBytes := len(b.vault.List(root, "root-renewed")), len(b.vault.List(web, "web"))
				b.wantSeries("pkiwarden_crl_bytes", fmt.Sprintf("issuer=root-renewed,mount=pki %d", rootBytes), fmt.Sprintf("issuer=web,mount=team/web %d", webBytes))
				b.wantSeries("pkiwarden_crl_entries", "issuer=root-renewed,mount=pki 3", "issuer=web,mount=team/web 1000")
				b.wantSeries("pkiwarden_crl_limit_bytes", "issuer=root-renewed,mount=pki 1000000", "issuer=web,mount=team/web 1000000")
				now := time.Now().Unix()
				b.wantSeries("pkiwarden_crl_this_update_timestamp_seconds", fmt.Sprintf("issuer=root-renewed,mount=pki %d", now), fmt.Sprintf("issuer=web,mount=team/web %d", now))
				b.wantSeries("pkiwarden_crl_next_update_timestamp_seconds", fmt.Sprintf("issuer=root-renewed,mount=pki %d", now+72*3600), fmt.Sprintf("issuer=web,mount=team/web %d", now+72*3600))
				b.wantSeries("pkiwarden_crl_last_success_timestamp_seconds", fmt.Sprintf("issuer=root-renewed,mount=pki %d", now), fmt.Sprintf("issuer=web,mount=team/web %d", now))
				b.wantRules()
				if n := b.vault.Fetches(); n != 2 {
					t.Errorf("%d lists were fetched, want 2", n)
				}
				families, err := b.registry.Gather()
				if err != nil {
					t.Fatal(err)
				}
				if problems, err := promlint.NewWithMetricFamilies(families).Lint(); err != nil || len(problems) > 0 {
					t.Errorf("metrics: %v %v", problems, err)
				}

				latest, known := b.watch.Latest(web)
				if !known || len(latest) != 1 || latest[0].Summary.Entries != 1000 || latest[0].Limit.MaxBytes != 1000000 ||
					latest[0].Mount != web || latest[0].Issuer.Name != "web" || !latest[0].MeasuredAt.Equal(time.Now()) {
					t.Errorf("latest: %+v %t", latest, known)
				}
			})
		})
	}
}

// TestComplete: a round is complete when each mount and list was looked at, and
// not while Vault is away or mounts cannot be listed.
func TestComplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, even)
		for n := range 30 { // first looked at over six seconds
			m := b.vault.Mount(fmt.Sprint("m", n))
			b.vault.Issuer(m, "ca", watchtest.IssuerOptions{})
			b.publish(m, "ca", 1)
		}
		b.vault.Away(pki.ErrSealed)
		_, _ = b.watch.OnceUntil(t.Context())
		if b.watch.Complete() {
			t.Error("complete while Vault is sealed")
		}
		b.vault.Away(nil)
		b.vault.FailMounts(&pki.PermissionError{Path: "sys/mounts", Capability: "read"})
		_, _ = b.watch.OnceUntil(t.Context())
		if b.watch.Complete() {
			t.Error("complete without any mount")
		}
		b.vault.FailMounts(nil)
		time.Sleep(time.Minute + 10*time.Second)
		_, _ = b.watch.OnceUntil(t.Context())
		if b.watch.Complete() {
			t.Error("complete as soon as mounts are known")
		}
		if err := b.run(10 * time.Second); err != nil {
			t.Fatal(err)
		}
		if !b.watch.Complete() || b.vault.Fetches() != 30 {
			t.Errorf("complete %t after %d lists", b.watch.Complete(), b.vault.Fetches())
		}
	})
}

func TestSelectsMounts(t *testing.T) {
	b := newBench(t, func(o *watch.Options) { o.Mounts = []string{"pki*", "!pki-test"} })
	for _, path := range []string{"pki", "pki-test", "pki-web", "other"} {
		m := b.vault.Mount(path)
		b.vault.Issuer(m, "ca", watchtest.IssuerOptions{})
		b.publish(m, "ca", 2)
	}
	b.once()
	b.wantSeries("pkiwarden_crl_entries", "issuer=ca,mount=pki 2", "issuer=ca,mount=pki-web 2")
}

// TestFailuresKeepValues makes each step fail in turn: what was measured stays,
// with its time, and a finding says so.
func TestFailuresKeepValues(t *testing.T) {
	other := &watchtest.Vault{} // another CA with the same name
	otherMount := other.Mount("x")
	other.Issuer(otherMount, "ca", watchtest.IssuerOptions{})
	other.Publish(otherMount, "ca", 7, time.Now(), time.Now().Add(time.Hour))
	foreign := other.List(otherMount, "ca")

	down := errors.New("connection refused")
	for _, c := range []struct {
		name, finding, evidence string
		edit                    func(b *bench, m pki.Mount, on bool)
	}{
		{"mounts", "unknown crl-unreadable: Vault", "connection refused", func(b *bench, m pki.Mount, on bool) { b.vault.FailMounts(when(on, down)) }},
		{"issuers", "unknown crl-unreadable: mount pki", "connection refused", func(b *bench, m pki.Mount, on bool) { b.vault.FailIssuers(m, when(on, down)) }},
		{"fetch", "unknown crl-unreadable: mount pki, issuer ca", "connection refused", func(b *bench, m pki.Mount, on bool) { b.vault.FailCRL(m, "ca", when(on, down)) }},
		{"no content", "warning crl-missing: mount pki, issuer ca", "vault has no CRL for this issuer", func(b *bench, m pki.Mount, on bool) {
			b.vault.FailCRL(m, "ca", when(on, fmt.Errorf("%w: status 204", pki.ErrNoCRL)))
		}},
		{"empty body", "critical crl-unreadable: mount pki, issuer ca", "no input at all", serving(func([]byte) io.Reader { return strings.NewReader("") })},
		{"cut short", "critical crl-unreadable: mount pki, issuer ca", "the end of the input", serving(func(der []byte) io.Reader { return bytes.NewReader(der[:len(der)-1]) })},
		{"connection lost", "unknown crl-unreadable: mount pki, issuer ca", "connection refused", serving(func(der []byte) io.Reader {
			return io.MultiReader(bytes.NewReader(der[:100]), iotest.ErrReader(down))
		})},
		{"too large", "critical crl-unreadable: mount pki, issuer ca", "too large; crl.maxBytes 268435456; limit 1000000 bytes", serving(func(der []byte) io.Reader {
			return strings.NewReader("\x30\x84\x7f\xff\xff\xff\x30")
		})},
		{"changed", "critical crl-signature-invalid: mount pki, issuer ca", "not signed by this issuer", serving(func(der []byte) io.Reader {
			changed := bytes.Clone(der)
			changed[len(changed)-1] ^= 1
			return bytes.NewReader(changed)
		})},
		{"another CA's", "critical crl-signature-invalid: mount pki, issuer ca", "not signed by this issuer", serving(func([]byte) io.Reader { return bytes.NewReader(foreign) })},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, nil)
				m := b.vault.Mount("pki")
				b.vault.Issuer(m, "ca", watchtest.IssuerOptions{})

				// Failing from the start: nothing is published.
				missing := c.name == "no content"
				b.publish(m, "ca", 5)
				c.edit(b, m, true)
				if err := b.watch.Once(t.Context()); err == nil {
					t.Fatal("no error")
				}
				b.wantSeries("pkiwarden_crl_bytes")
				b.wantSeries("pkiwarden_crl_last_success_timestamp_seconds")
				b.wantRules(c.finding)
				if lists, known := b.watch.Latest(m); known != missing || len(lists) > 0 {
					t.Errorf("latest: %v %t", lists, known)
				}

				c.edit(b, m, false)
				b.once()
				firstAt := time.Now().Unix()
				b.wantRules()
				b.wantSeries("pkiwarden_crl_entries", "issuer=ca,mount=pki 5")

				time.Sleep(time.Minute)
				b.publish(m, "ca", 6)
				c.edit(b, m, true)
				if err := b.watch.Once(t.Context()); err == nil {
					t.Fatal("no error")
				}
				if missing {
					b.wantRules("critical crl-missing: mount pki, issuer ca") // there was one
				} else {
					b.wantRules(c.finding)
				}
				if !strings.Contains(b.findings[0].Evidence, c.evidence) {
					t.Errorf("evidence %q, want %q", b.findings[0].Evidence, c.evidence)
				}
				if c.name == "mounts" || c.name == "issuers" { // what is known goes on being measured
					b.wantSeries("pkiwarden_crl_entries", "issuer=ca,mount=pki 6")
					firstAt = time.Now().Unix()
				} else {
					b.wantSeries("pkiwarden_crl_entries", "issuer=ca,mount=pki 5")
				}
				b.wantSeries("pkiwarden_crl_last_success_timestamp_seconds", fmt.Sprintf("issuer=ca,mount=pki %d", firstAt))
				if latest, known := b.watch.Latest(m); !known || latest[0].MeasuredAt.Unix() != firstAt {
					t.Errorf("latest: %+v %t", latest, known)
				}
				if c.name != "mounts" {
					if measured, err := b.watch.Measure(t.Context(), m); err == nil || measured != nil {
						t.Errorf("Measure: %v %v", measured, err)
					}
				}

				time.Sleep(time.Minute)
				c.edit(b, m, false)
				b.once()
				b.wantRules()
				b.wantSeries("pkiwarden_crl_entries", "issuer=ca,mount=pki 6")
				b.wantSeries("pkiwarden_crl_last_success_timestamp_seconds", fmt.Sprintf("issuer=ca,mount=pki %d", time.Now().Unix()))
			})
		})
	}
}

func when(on bool, err error) error {
	if on {
		return err
	}
	return nil
}

func serving(serve func(der []byte) io.Reader) func(*bench, pki.Mount, bool) {
	return func(b *bench, m pki.Mount, on bool) {
		if on {
			b.vault.Serve(m, "ca", serve)
		} else {
			b.vault.Serve(m, "ca", nil)
		}
	}
}

// TestOneFailsOthersDoNot: lists and mounts are independent.
func TestOneFailsOthersDoNot(t *testing.T) {
	b := newBench(t, nil)
	a, c := b.vault.Mount("a"), b.vault.Mount("c")
	for _, m := range []pki.Mount{a, c} {
		b.vault.Issuer(m, "one", watchtest.IssuerOptions{})
		b.vault.Issuer(m, "two", watchtest.IssuerOptions{})
		b.publish(m, "one", 1)
		b.publish(m, "two", 2)
	}
	b.vault.FailCRL(a, "one", errors.New("status 500"))
	err := b.watch.Once(t.Context())
	if err == nil || !strings.Contains(err.Error(), "measuring CRL of mount a, issuer one: status 500") {
		t.Error(err)
	}
	b.wantSeries("pkiwarden_crl_entries", "issuer=one,mount=c 1", "issuer=two,mount=a 2", "issuer=two,mount=c 2")
	if _, known := b.watch.Latest(a); known {
		t.Error("mount a counts as measured")
	}
	if _, known := b.watch.Latest(c); !known {
		t.Error("mount c does not count as measured")
	}
}

func TestVanished(t *testing.T) {
	b := newBench(t, nil)
	a, c := b.vault.Mount("a"), b.vault.Mount("c")
	b.vault.Issuer(a, "one", watchtest.IssuerOptions{})
	b.vault.Issuer(a, "two", watchtest.IssuerOptions{})
	b.vault.Issuer(c, "one", watchtest.IssuerOptions{})
	b.publish(a, "one", 1)
	b.publish(a, "two", 2)
	b.publish(c, "one", 3)
	b.once()
	b.wantSeries("pkiwarden_crl_entries", "issuer=one,mount=a 1", "issuer=one,mount=c 3", "issuer=two,mount=a 2")
	b.vault.RemoveIssuer(a, "one")
	b.vault.Unmount(c)
	b.once()
	b.wantSeries("pkiwarden_crl_entries", "issuer=two,mount=a 2")
	if _, known := b.watch.Latest(c); known {
		t.Error("a mount that is gone is remembered")
	}
	b.watch.Unregister()
	b.wantSeries("pkiwarden_crl_entries")
	b.watch.Unregister()
}

func TestLimitUnknown(t *testing.T) {
	b := newBench(t, nil)
	b.limit = crl.Limit{Backend: "raft", Rule: "permission denied"}
	m := b.vault.Mount("pki")
	b.vault.Issuer(m, "ca", watchtest.IssuerOptions{})
	b.publish(m, "ca", 1)
	b.once()
	b.wantSeries("pkiwarden_crl_limit_bytes")
	b.wantRules("unknown crl-limit-unknown: storage")
}

func TestFindingsOfIssuers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		b.limit.MaxBytes = 1000
		m := b.vault.Mount("pki")
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		b.vault.Issuer(m, "edwards", watchtest.IssuerOptions{Key: key})
		b.vault.Issuer(m, "mute", watchtest.IssuerOptions{KeyUsage: x509.KeyUsageCertSign})
		b.vault.Issuer(m, "near", watchtest.IssuerOptions{})
		b.vault.Issuer(m, "old", watchtest.IssuerOptions{})
		b.publish(m, "edwards", 1)
		b.publish(m, "near", 23)
		b.vault.Publish(m, "old", 1, time.Now().Add(-71*time.Hour), time.Now().Add(time.Hour))
		if err := b.watch.Once(t.Context()); !errors.Is(err, crl.ErrNotVerifiable) {
			t.Error(err)
		}
		b.wantRules(
			"unknown crl-not-verifiable: mount pki, issuer edwards",
			"warning crl-no-issuer-usage: mount pki, issuer mute",
			"warning crl-near-limit: mount pki, issuer near",
			"warning crl-stale: mount pki, issuer old",
		)
		b.wantSeries("pkiwarden_crl_entries", "issuer=near,mount=pki 23", "issuer=old,mount=pki 1")

		// A list ages although nothing can be read any more.
		time.Sleep(time.Hour)
		b.vault.FailMounts(errors.New("sealed"))
		if err := b.watch.Once(t.Context()); err == nil {
			t.Error("no error")
		}
		b.wantRules(
			"unknown crl-unreadable: Vault",
			"unknown crl-not-verifiable: mount pki, issuer edwards",
			"warning crl-no-issuer-usage: mount pki, issuer mute",
			"warning crl-near-limit: mount pki, issuer near",
			"critical crl-stale: mount pki, issuer old",
		)
	})
}

// TestCancelled: what is cut short is no finding.
func TestCancelled(t *testing.T) {
	b := newBench(t, nil)
	m := b.vault.Mount("pki")
	b.vault.Issuer(m, "ca", watchtest.IssuerOptions{})
	b.publish(m, "ca", 1)
	b.once()
	ctx, cancel := context.WithCancel(t.Context())
	b.findings = []crl.Finding{{Rule: "untouched", Severity: "x", Subject: "y"}}
	b.vault.Serve(m, "ca", func([]byte) io.Reader {
		cancel()
		return iotest.ErrReader(context.Canceled)
	})
	if err := b.watch.Once(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	b.wantRules("x untouched: y")
}

func TestNewRefuses(t *testing.T) {
	good := watch.Options{Vault: &watchtest.Vault{}, Limits: fixedLimit{}, Thresholds: thresholds}
	for want, edit := range map[string]func(*watch.Options){
		"Vault and Limits are needed":           func(o *watch.Options) { o.Vault = nil },
		`fetch "raw" is neither json nor der`:   func(o *watch.Options) { o.Fetch = "raw" },
		"want shares 0 < warn <= critical <= 1": func(o *watch.Options) { o.Thresholds.Warn.Share = 0.9 },
	} {
		o := good
		edit(&o)
		if _, err := watch.New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := watch.New(good); err != nil {
		t.Error(err)
	}
}

// TestNoNextUpdate: a list that does not say until when it may be used.
func TestNoNextUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		b := newBench(t, func(o *watch.Options) { even(o); o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
		m := b.vault.Mount("pki")
		key := b.vault.Issuer(m, "ca", watchtest.IssuerOptions{})
		b.publish(m, "ca", 3)
		b.vault.Serve(m, "ca", func(der []byte) io.Reader {
			var list pkix.CertificateList
			if _, err := asn1.Unmarshal(der, &list); err != nil {
				t.Error(err)
			}
			list.TBSCertList.Raw, list.TBSCertList.NextUpdate = nil, time.Time{}
			signed, err := asn1.Marshal(list.TBSCertList)
			if err != nil {
				t.Error(err)
			}
			digest := sha256.Sum256(signed)
			signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
			if err != nil {
				t.Error(err)
			}
			list.SignatureValue = asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
			if der, err = asn1.Marshal(list); err != nil {
				t.Error(err)
			}
			return bytes.NewReader(der)
		})
		if err := b.run(3 * time.Minute); err != nil {
			t.Fatal(err)
		}
		b.wantRules("warning crl-dates: mount pki, issuer ca")
		b.wantText("no nextUpdate")
		b.wantSeries("pkiwarden_crl_entries", "issuer=ca,mount=pki 3")
		if text := log.String(); strings.Contains(text, "0001-01-01") || !strings.Contains(text, "next_update=none") {
			t.Error(text)
		}
	})
}

// TestCountersSayWhatTheyAre: no counter promises more than it counts.
func TestCountersSayWhatTheyAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, m := keeping(t, newCells())
		b.publish(m, "ca", 1)
		b.once()
		b.publish(m, "ca", 2)
		b.once()
		families, err := b.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, f := range families {
			if name := f.GetName(); name != "pkiwarden_crl_entries_added_total" && name != "pkiwarden_crl_entries_removed_total" {
				continue
			}
			n++
			for _, part := range []string{"at least", "entries' dates", "constant memory", "since this process began", "go on over a reload", "up to five minutes may be counted twice"} {
				if !strings.Contains(f.GetHelp(), part) {
					t.Errorf("%s: %q is not in %q", f.GetName(), part, f.GetHelp())
				}
			}
		}
		if n != 2 {
			t.Errorf("%d counters", n)
		}
	})
}
