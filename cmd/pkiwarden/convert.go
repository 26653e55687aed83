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

// certificates shares what the entries have in common, as they do themselves.
func certificates(list []config.Certificate) []issuer.Certificate {
	out := make([]issuer.Certificate, 0, len(list))
	refs := map[*config.KeyRef]*issuer.KeyRef{}
	opening := map[*config.Window]k8scsr.Windows{}
	for i := range list {
		c := &list[i]
		wanted, _ := spec(*c) // a profile without names was refused with the configuration
		if len(c.Windows) > 0 {
			first := &c.Windows[0]
			if opening[first] == nil {
				opening[first] = renewalWindows(c.Windows)
			}
			wanted.Windows = opening[first]
		}
		out = append(out, issuer.Certificate{
			Spec:      wanted,
			Namespace: c.Secret.Namespace,
			Secret:    c.Secret.Name,
			Keys:      issuer.SecretKeys(c.SecretKeys),
			Trust: issuer.TrustSource{
				ConfigMap: keyRef(refs, c.Trust.ConfigMap), Secret: keyRef(refs, c.Trust.Secret), File: c.Trust.File,
			},
			NamesFrom:     nameSources(c.NamesFrom),
			ClusterDomain: clusterDomain(*c),
		})
	}
	return out
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

// keyRef is one for all that have the same.
func keyRef(known map[*config.KeyRef]*issuer.KeyRef, r *config.KeyRef) *issuer.KeyRef {
	if r == nil {
		return nil
	}
	if known[r] == nil {
		known[r] = &issuer.KeyRef{Namespace: r.Namespace, Name: r.Name, Key: r.Key}
	}
	return known[r]
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
		Windows:       renewalWindows(c.Windows),
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
	for i := range c.Certificates {
		certificate := &c.Certificates[i]
		at := fmt.Sprintf("certificates[%d]", i)
		wanted, err := spec(*certificate)
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
func declared(list []config.Certificate, name string) (config.Certificate, error) {
	for _, c := range list {
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
