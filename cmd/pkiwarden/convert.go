package main

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/config"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/ops"
	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/k8scsr"
	"github.com/pkiwarden/pkiwarden/k8scsr/deliver"
	"github.com/pkiwarden/pkiwarden/k8scsr/issuer"
	"github.com/pkiwarden/pkiwarden/k8scsr/signer"
	"github.com/pkiwarden/pkiwarden/pki"
)

// What the domains are given of the configuration. Each has options of its
// own, so that none of them knows the file.

// certificates are the configuration's, as the issuer asks for them.
type certificates struct {
	list    config.Certificates
	opening map[*config.Window]k8scsr.Windows // by the first of each list of windows
}

func issued(list config.Certificates) certificates {
	out := certificates{list, map[*config.Window]k8scsr.Windows{}}
	for _, c := range list.All() {
		if len(c.Windows) > 0 && out.opening[&c.Windows[0]] == nil {
			out.opening[&c.Windows[0]] = renewalWindows(c.Windows)
		}
	}
	return out
}

// Len implements [issuer.Certificates].
func (c certificates) Len() int { return len(c.list) }

// At implements [issuer.Certificates].
func (c certificates) At(n int) issuer.Certificate {
	declared := c.list.At(n)
	wanted, _ := spec(declared) // a profile without names was refused with the configuration
	if len(declared.Windows) > 0 {
		wanted.Windows = c.opening[&declared.Windows[0]]
	}
	return issuer.Certificate{
		Spec:          wanted,
		Namespace:     declared.Secret.Namespace,
		Secret:        declared.Secret.Name,
		Keys:          issuer.SecretKeys(declared.SecretKeys),
		Trust:         issuer.TrustSource{ConfigMap: keyRef(declared.Trust.ConfigMap), Secret: keyRef(declared.Trust.Secret), File: declared.Trust.File},
		NamesFrom:     nameSources(declared.NamesFrom),
		ClusterDomain: clusterDomain(declared),
	}
}

// authorities are the signers that are configured.
func authorities(list []config.Signer) []signer.Authority {
	var out []signer.Authority
	for _, s := range list {
		out = append(out, signer.Authority{
			Policy: signingPolicy(s), Namespace: s.CASecret.Namespace, Secret: s.CASecret.Name,
			CertificateKey: s.CASecret.Certificate, KeyKey: s.CASecret.Key,
		})
	}
	return out
}

func signingPolicy(s config.Signer) k8scsr.SigningPolicy {
	return k8scsr.SigningPolicy{
		Signer: s.Name, MaxLifetime: s.MaxLifetime, Usages: s.Usages, DNSNames: s.Allow.DNSNames, IPAddresses: s.Allow.IPAddresses,
	}
}

func nameSources(list []config.ObjectRef) []issuer.NameSource {
	var out []issuer.NameSource
	for _, ref := range list {
		out = append(out, issuer.NameSource(ref))
	}
	return out
}

// clusterDomain is the profile's, which then holds for the objects as well.
func clusterDomain(c config.Certificate) string {
	if c.Profile == nil {
		return ""
	}
	return c.Profile.ClusterDomain
}

func keyRef(r *config.KeyRef) *issuer.KeyRef {
	if r == nil {
		return nil
	}
	return &issuer.KeyRef{Namespace: r.Namespace, Name: r.Name, Key: r.Key}
}

// spec is the certificate with its profile's names; an error is a profile that
// gives none.
func spec(c config.Certificate) (k8scsr.Spec, error) {
	names, addresses, err := profileNames(c.Profile)
	var uris []string
	for _, u := range c.URIs {
		uris = append(uris, u.String())
	}
	return k8scsr.Spec{
		Name:          c.Name,
		CommonName:    c.Subject.CommonName,
		Organizations: c.Subject.Organizations,
		DNSNames:      both(names, c.DNSNames),
		IPAddresses:   both(addresses, c.IPAddresses),
		URIs:          uris,
		NamesFollow:   len(c.NamesFrom) > 0,
		Usages:        c.Usages,
		Key:           k8scsr.Key{Algorithm: c.Key.Algorithm, Size: c.Key.Size},
		Signer:        c.Signer,
		Lifetime:      c.Lifetime,
		RenewAt:       c.RenewAt,
		AlertAt:       c.AlertAt,
		CriticalAt:    c.CriticalAt,
		Settle:        c.Trust.Settle,
		Peers:         c.Trust.Peers,
		Approve:       c.Approve,
		Paused:        c.Paused,
	}, err
}

// both is one list after the other; the second itself when it is all.
func both[T any](first, second []T) []T {
	if len(first) == 0 {
		return slices.Clip(second)
	}
	return slices.Concat(first, second)
}

// renewals are windows of renewals: what a window is knows package pki, whose
// tidies have them too.
type renewals []pki.Window

func (w renewals) NextOpening(now time.Time) time.Time { return pki.NextOpening(w, now) }

// renewalWindows is nil for none: always.
func renewalWindows(list []config.Window) k8scsr.Windows {
	if len(list) == 0 {
		return nil
	}
	return renewals(windows(list))
}

func windows(list []config.Window) []pki.Window {
	var out []pki.Window
	for _, w := range list {
		from, to := w.Clock()
		out = append(out, pki.Window{Days: w.Weekdays(), From: from, To: to, Location: w.Location()})
	}
	return out
}

func profileNames(p *config.Profile) ([]string, []netip.Addr, error) {
	if p == nil {
		return nil, nil, nil
	}
	return k8scsr.Profile(*p).Names()
}

// storage is the storage of which crl.limit speaks.
func storage(c *config.Config) crl.Storage {
	l := c.CRL.Limit
	return crl.Storage{
		Backend: l.Backend,
		Consul:  crl.ConsulLimits{KVMaxValueSize: l.KVMaxValueSize, TxnMaxReqLen: l.TxnMaxReqLen, Path: c.Consul.StoragePath},
		Raft:    crl.RaftLimits{MaxEntrySize: l.MaxEntrySize},
	}
}

func thresholds(c *config.Config) crl.Thresholds {
	return crl.Thresholds{Warn: crl.Threshold(c.CRL.Warn), Critical: crl.Threshold(c.CRL.Critical)}
}

// acceptable is the configuration's check by the domains' own rules: what they
// would refuse to be made with is refused before anything runs.
func acceptable(c *config.Config, bad func(path, message string)) {
	check := func(path string, err error) {
		if err == nil {
			return
		}
		errs := []error{err}
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			errs = joined.Unwrap()
		}
		for _, err := range errs {
			bad(path, err.Error())
		}
	}
	if c.CRL.Limit.Backend != "" {
		check("crl.limit", storage(c).Validate())
	}
	check("crl", thresholds(c).Validate())
	at := "tidy.safetyBuffer"
	if pause := c.Tidy.Pause; pause != nil && *pause > pki.LongestPause {
		at = "tidy.pause"
	}
	check(at, tidyPolicy(c).Validate())
	for i, signer := range c.Signers {
		check(fmt.Sprintf("signers[%d]", i), signingPolicy(signer).Validate())
	}
	for i, certificate := range c.Certificates.All() {
		at := fmt.Sprintf("certificates[%d]", i)
		wanted, err := spec(certificate)
		wanted.Windows = renewalWindows(certificate.Windows)
		check(at+".profile", err)
		if err == nil {
			wanted = wanted.WithDefaults()
			check(at, wanted.Validate())
			for _, signer := range c.Signers {
				if signer.Name != wanted.Signer {
					continue
				}
				for _, why := range signingPolicy(signer).Refuses(wanted) {
					bad(at, fmt.Sprintf("signer %s would not sign it: %s; change the certificate, or signers", signer.Name, why))
				}
			}
		}
		if next := certificate.Secret.Name + issuer.NextSuffix; len(next) > 253 {
			bad(at+".secret.name", fmt.Sprintf("%q is too long: with %q it has to fit into 253 octets", certificate.Secret.Name, issuer.NextSuffix))
		}
	}
}

// declared finds the certificate that a delivery names; the configuration has
// been checked to declare it.
func declared(list config.Certificates, name string) (config.Certificate, error) {
	for _, c := range list.All() {
		if c.Name == name {
			return c, nil
		}
	}
	return config.Certificate{}, fmt.Errorf("deliver: certificate %q is not declared under certificates", name)
}

func listeners(list []config.Listener) []deliver.Address {
	var out []deliver.Address
	for _, l := range list {
		out = append(out, deliver.Address{Address: l.Address, ServerName: l.ServerName, Protocol: l.Protocol})
	}
	return out
}

// tidyPolicy is the policy of tidy; what is critical is so by the thresholds of
// the CRL watch.
func tidyPolicy(c *config.Config) pki.Policy {
	t, critical := c.Tidy, c.CRL.Critical
	p := pki.Policy{
		Enabled:                t.Enabled,
		SafetyBuffer:           t.SafetyBuffer,
		AllowShortSafetyBuffer: t.AllowShortSafetyBuffer,
		Trigger: pki.Trigger{
			ReclaimableShare: t.Trigger.ReclaimableShare, ReclaimableEntries: t.Trigger.ReclaimableEntries,
			LimitShare: t.Trigger.LimitShare, Horizon: t.Trigger.Horizon, AtLeastEvery: t.Trigger.AtLeastEvery,
		},
		IgnoreWindowsWhenCritical: t.IgnoreWindowsWhenCritical,
		Critical:                  pki.Pressure{Share: critical.Share, Horizon: critical.Horizon},
		OwnAutoTidy:               t.OwnAutoTidy,
		MinInterval:               t.MinInterval,
		CertStore:                 t.CertStore,
		Rotate:                    t.Rotate == nil || *t.Rotate,
		Windows:                   windows(t.Windows),
	}
	if t.Pause != nil {
		p.Pause = *t.Pause
	}
	// Who allows runs that close to each other does not want to wait longer
	// for a new active node.
	if t.MinInterval > 0 {
		p.Settle = min(t.MinInterval, pki.SettleTime)
	}
	return p
}

// The one struct of findings that is shown, from the three of the domains.

func crlFindings(list []crl.Finding) []ops.Finding {
	var out []ops.Finding
	for _, f := range list {
		out = append(out, ops.Finding{
			Rule: f.Rule, Severity: string(f.Severity), Subject: f.Subject, Summary: f.Summary,
			Evidence: f.Evidence, Remedy: f.Remedy, Citation: f.Citation,
		})
	}
	return out
}

func pkiFindings(list []pki.Finding) []ops.Finding {
	var out []ops.Finding
	for _, f := range list {
		out = append(out, ops.Finding{
			Rule: f.Rule, Severity: string(f.Severity), Subject: f.Subject, Summary: f.Summary,
			Evidence: f.Evidence, Remedy: f.Remedy, Citation: f.Citation,
		})
	}
	return out
}

func certificateFindings(list []k8scsr.Finding) []ops.Finding {
	var out []ops.Finding
	for _, f := range list {
		out = append(out, ops.Finding{
			Rule: f.Rule, Severity: string(f.Severity), Subject: f.Subject, Summary: f.Summary,
			Evidence: f.Evidence, Remedy: f.Remedy, Citation: f.Citation,
		})
	}
	return out
}
