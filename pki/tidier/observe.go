package tidier

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

// ttlLifetime is how long the longest TTL of a mount is believed: it takes one
// request per role.
const ttlLifetime = time.Hour

// view is one mount as it was last seen, with its record and what was decided.
type view struct {
	mount   pki.Mount
	key     string
	record  pki.Record
	version string // of record, in the state

	lookedAt    time.Time // zero: not looked at
	statusErr   error     // the missing right because of which tidy-status is not known, nil where it is
	observation pki.Observation
	decision    pki.Decision
	dueAt       time.Time // see [pki.DueAt]
}

// survey is what holds for all mounts.
type survey struct {
	health   pki.Health
	cluster  string
	mounts   []pki.Mount // all of the PKI
	statuses map[pki.Mount]pki.TidyStatus
	errs     map[pki.Mount]error // of statuses
	leases   *pki.Leases         // nil: not known
}

// survey looks at Vault and at the tidy-status of every PKI mount, wanted or
// not: they tidy one at a time.
func (t *Tidier) survey(ctx context.Context) (*survey, error) {
	return t.surveyOf(ctx, true)
}

// glance is survey by what is remembered, with the tidy-status of some mounts
// read anew. It is enough to decide that nothing is to be done.
func (t *Tidier) glance(ctx context.Context, anew ...pki.Mount) (*survey, error) {
	return t.surveyOf(ctx, false, anew...)
}

// overview is glance of Vault and its mounts, without the tidy-status of any
// but some. What else is on is not known by it: confirm asks before a run.
func (t *Tidier) overview(ctx context.Context, of ...pki.Mount) (*survey, error) {
	s, err := t.vaultNow(ctx, false)
	if err != nil {
		return nil, err
	}
	t.readStatuses(ctx, s, of, true)
	return s, nil
}

func (t *Tidier) surveyOf(ctx context.Context, fresh bool, anew ...pki.Mount) (*survey, error) {
	s, err := t.vaultNow(ctx, fresh)
	if err != nil {
		return nil, err
	}
	for _, m := range s.mounts {
		t.readStatuses(ctx, s, []pki.Mount{m}, fresh || slices.Contains(anew, m))
	}
	s.leases = t.readLeases(ctx)
	return s, nil
}

// readStatuses reads the tidy-status of mounts into s.
func (t *Tidier) readStatuses(ctx context.Context, s *survey, of []pki.Mount, fresh bool) {
	for _, m := range of {
		status, err := t.status(ctx, m, fresh)
		if err != nil {
			s.errs[m] = err
			continue
		}
		s.statuses[m] = status
	}
}

// vaultNow is a survey without the tidy-status of any mount.
func (t *Tidier) vaultNow(ctx context.Context, fresh bool) (*survey, error) {
	s := &survey{statuses: make(map[pki.Mount]pki.TidyStatus), errs: make(map[pki.Mount]error)}
	var err error
	if s.health, err = t.readHealth(ctx); err != nil {
		return nil, err
	}
	switch {
	case !s.health.Initialized:
		return nil, fmt.Errorf("observing mounts: vault is not initialized")
	case s.health.Sealed:
		return nil, fmt.Errorf("observing mounts: %w", pki.ErrSealed)
	}
	if s.cluster = s.health.ClusterID; s.cluster == "" {
		if s.cluster, err = t.o.Vault.ClusterID(ctx); err != nil {
			return nil, err
		}
	}
	if s.mounts, err = t.mounts(ctx, fresh); err != nil {
		return nil, err
	}
	return s, nil
}

// otherRun names a mount other than m that is being tidied.
func (s *survey) otherRun(m pki.Mount) string {
	for _, other := range s.mounts {
		if other != m && s.statuses[other].State.Active() {
			return other.Name()
		}
	}
	return ""
}

// look observes one mount, with its record, and plans by p. Where fresh is true
// all is read and measured now, else what is remembered counts, see [memory].
// Where p is asked for, certificates are read until the estimate is good enough.
func (t *Tidier) look(ctx context.Context, s *survey, m pki.Mount, p pki.Policy, fresh bool) (*view, error) {
	v := &view{mount: m, key: m.StateKey(stateKind, s.cluster)}
	if err := t.recall(ctx, v, fresh); err != nil {
		return nil, err
	}
	o := pki.Observation{Mount: m, Health: s.health, OtherRun: s.otherRun(m), Record: v.record, Load: t.latencies.load(t.now()), Leases: s.leases}
	if err := s.errs[m]; err != nil {
		if err := note(&o, err); err != nil {
			return nil, err
		}
		v.statusErr = err
	} else {
		status := s.statuses[m]
		o.Status = &status
	}
	if err := t.readConfig(ctx, m, &o, fresh); err != nil {
		return nil, err
	}
	crls, err := t.lists(ctx, m, fresh)
	if err != nil {
		return nil, err
	}
	o.CRLs = append([]pki.CRL{}, crls...)
	o.Sample = t.samples.of(m).Sample
	v.observation, v.lookedAt = o, t.now()
	v.decision = pki.Plan(o, p, t.now())
	if p.Asked {
		t.sampleAsked(ctx, v, p)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return v, nil
}

// readConfig fills in what config and roles of the mount say.
func (t *Tidier) readConfig(ctx context.Context, m pki.Mount, o *pki.Observation, fresh bool) error {
	config, err := t.settings(ctx, m, fresh)
	if err != nil {
		return err
	}
	o.CRLConfig, o.AutoTidy = config.crl, config.auto
	o.Denied = append(o.Denied, config.denied...)
	longest, err := t.longestTTL(ctx, m)
	o.LongestTTL = longest
	return note(o, err)
}

// note keeps a missing permission in o, to become a finding, and returns any
// other error.
func note(o *pki.Observation, err error) error {
	if denied, ok := isDenied(err); ok {
		o.Denied = append(o.Denied, denied)
		return nil
	}
	return err
}
