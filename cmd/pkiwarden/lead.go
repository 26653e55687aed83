package main

import (
	"context"
	"fmt"
	"time"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/loop"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/ops"
)

// RuleNotStarted is the finding about a part of the leader's work that could
// not be prepared.
const RuleNotStarted = "work-not-started"

// part is a part of the leader's work that does not depend on the others.
type part struct {
	loop string // whose runs the attempts to prepare it count as
	does string // for a person
	// prepare makes what runs until its context ends, and what ends the metrics
	// and findings afterwards. Where it fails it leaves nothing behind.
	prepare func() (work []func(context.Context) error, end func(), err error)
}

// parts is what there is to do for a leader.
func (i *instance) parts() []part {
	var parts []part
	if len(i.cfg.Certificates) > 0 {
		parts = append(parts, part{"certificates", "renewing the declared certificates", i.issuing})
	}
	if len(i.cfg.Signers) > 0 {
		parts = append(parts, part{signerSource, "signing requests for the configured signers", i.signing})
	}
	if i.cfg.Vault.Address != "" {
		parts = append(parts, part{"crl", "watching the CRLs, and tidy", i.watching})
	}
	return parts
}

func preparing(p part) string { return "preparing " + p.loop }

// sources are all that may report findings under this configuration.
func (i *instance) sources() []string {
	var all []string
	if len(i.cfg.Certificates) > 0 {
		all = append(all, certificatesSource)
	}
	if len(i.cfg.Signers) > 0 {
		all = append(all, signerSource)
	}
	if i.cfg.Vault.Address != "" {
		all = append(all, loginSource, crlSource, tidySource)
	}
	for _, p := range i.parts() {
		all = append(all, preparing(p))
	}
	for _, d := range i.cfg.Deliver {
		all = append(all, delivering(d))
	}
	return all
}

// lead does the cluster's work until ctx ends.
func (i *instance) lead(ctx context.Context) {
	i.log.Info("leading")
	defer i.log.Info("no longer leading")
	parts := i.parts()
	if len(parts) == 0 {
		i.log.Warn("the leader has nothing to do: set vault.address or VAULT_ADDR, or declare certificates or signers")
		<-ctx.Done()
		return
	}
	var work []func(context.Context) error
	for _, p := range parts {
		work = append(work, func(ctx context.Context) error { return i.do(ctx, p) })
	}
	_ = loop.Group(ctx, work...) // its loops return nil
}

// do prepares a part and runs it until ctx ends. What fails to be prepared is a
// loop that has never worked, and a finding, until it is: it is tried again,
// and holds back no other part.
func (i *instance) do(ctx context.Context, p part) error {
	source := preparing(p)
	defer i.findings.Forget(source)
	until, prepared := context.WithCancel(ctx)
	defer prepared()
	var work []func(context.Context) error
	var end func()
	l, err := loop.New(loop.Options{
		Name: p.loop, Interval: time.Minute, Log: i.log, Metrics: i.loops,
		Once: func(ctx context.Context) error {
			var err error
			if work, end, err = p.prepare(); err != nil {
				i.findings.Set(source, []ops.Finding{notStarted(p, err)})
				return fmt.Errorf("preparing the leader's work: %w", err)
			}
			prepared()
			return ctx.Err() // it has done none of the work yet: that is no success of the loop
		},
	})
	if err != nil {
		return err
	}
	if err := l.Run(until); err != nil || end == nil {
		return err
	}
	defer end()
	i.findings.Set(source, nil)
	i.findings.Settle(source)
	return loop.Group(ctx, work...)
}

func notStarted(p part, err error) ops.Finding {
	return ops.Finding{
		Rule:     RuleNotStarted,
		Severity: "unknown",
		Subject:  p.does,
		Summary:  "This part of the leader's work has not begun, so that nothing is known of what it looks after.",
		Evidence: err.Error(),
		Remedy:   "Mend what the evidence names in the configuration or its environment; a changed configuration file is read by itself, changed variables need a restart.",
		Citation: "every part of the leader's work is prepared before it begins, and tried again until it can be",
	}
}
