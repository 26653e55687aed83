package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/config"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/loop"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/ops"
	"github.com/pkiwarden/pkiwarden/k8scsr/issuer"
	"github.com/pkiwarden/pkiwarden/k8scsr/signer"
)

// signing signs approved requests for the configured signers.
func (i *instance) signing() (work []func(context.Context) error, end func(), err error) {
	if i.cluster.kube == nil {
		return nil, nil, errors.New("signers are configured, and there is no cluster: set kubernetes.kubeconfig or KUBECONFIG")
	}
	s, err := signer.New(signer.Options{
		Client: i.cluster.kube.Client, Authorities: authorities(i.cfg.Signers), Namespace: i.cluster.kube.Namespace,
		Log: i.log, Registerer: i.registry, Report: i.reportCertificates(signerSource),
	})
	if err != nil {
		return nil, nil, err
	}
	i.known.change(func() { i.known.signers = s.Status })
	end = func() {
		i.known.change(func() { i.known.signers = nil })
		s.Unregister()
		i.findings.Forget(signerSource)
	}
	l, err := loop.New(loop.Options{
		Name: signerSource, Interval: time.Minute, OnceUntil: s.OnceUntil, OwnPace: true, Log: i.log, Metrics: i.loops,
	})
	if err != nil {
		end()
		return nil, nil, err
	}
	return []func(context.Context) error{
		l.Run, func(ctx context.Context) error { return s.Watch(ctx, l.Wake) },
	}, end, nil
}

// apart holds the CAs of signers apart from what certificates are written to,
// where the configuration leaves a namespace to the pod, whose own it does not
// know: a leaf's key would take the place of the CA's, or make a CA's Secret of
// what is no CA.
func apart(c *config.Config, own string) error {
	type secret struct{ namespace, name string }
	signers := map[secret]string{}
	for _, s := range c.Signers {
		signers[secret{cmp.Or(s.CASecret.Namespace, own), s.CASecret.Name}] = s.Name
	}
	for _, certificate := range c.Certificates.All() {
		for _, what := range []struct{ suffix, is string }{{"", "is where certificate %q is written to"}, {issuer.NextSuffix, "holds the next key of certificate %q"}} {
			at := secret{cmp.Or(certificate.Secret.Namespace, own), certificate.Secret.Name + what.suffix}
			if name, taken := signers[at]; taken {
				return &exitError{code: exitUsage, err: fmt.Errorf("the Secret %s/%s of the CA of signer %s "+what.is+"; a CA needs one of its own (where caSecret names no namespace, it is that of the pod, %s)",
					at.namespace, at.name, name, certificate.Name, own)}
			}
		}
	}
	return nil
}

// signerDoes says what a signer signs.
func signerDoes(s config.Signer) string {
	allowed := append([]string{}, s.Allow.DNSNames...)
	for _, prefix := range s.Allow.IPAddresses {
		allowed = append(allowed, prefix.String())
	}
	return fmt.Sprintf("%s: signs approved requests for %s with the CA in Secret %s of %s, for %s at most, usages %s",
		s.Name, strings.Join(allowed, ", "), s.CASecret.Name, cmp.Or(s.CASecret.Namespace, podNamespace), config.Span(s.MaxLifetime), strings.Join(s.Usages, ", "))
}

const stateUnusable = "unusable"

// signersOf is what is known of the signers.
func signersOf(status func() []signer.Status, now time.Time, doubt func(string, ...any)) []ops.Signer {
	if status == nil {
		doubt("signers: looking at them has not begun")
		return nil
	}
	out := []ops.Signer{}
	for _, s := range status() {
		shown := ops.Signer{
			Name: s.Name, Secret: s.Namespace + "/" + s.Secret, LookedAt: utc(s.LookedAt), State: stateGood,
			NotBefore: utc(s.NotBefore), NotAfter: utc(s.NotAfter), Signed: s.Signed, Refused: s.Refused, LastSignedAt: utc(s.LastSignedAt),
		}
		switch {
		case s.LookedAt.IsZero():
			shown.State, shown.Reason = stateUnknown, "it was not looked at yet"
		case s.Err != nil:
			shown.State, shown.Reason = stateUnknown, text(s.Err)
		case now.Sub(s.LookedAt) > lookLate:
			shown.State, shown.Reason = stateUnknown, "it was last looked at "+stamped(s.LookedAt)
		case s.CAProblem != "":
			shown.State, shown.Reason = stateUnusable, oneLine(s.CAProblem)
		case !s.NotAfter.IsZero() && !now.Before(s.NotAfter):
			shown.State, shown.Reason = stateExpired, "the CA ended "+stamped(s.NotAfter)
		}
		if shown.State == stateUnknown {
			doubt("signer %s: %s", s.Name, shown.Reason)
		}
		out = append(out, shown)
	}
	return out
}
