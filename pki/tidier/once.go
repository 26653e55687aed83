package tidier

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

// Once looks at every wanted mount, carries on the run that is open, starts
// those that are due one after the other, neediest mount first, and publishes
// metrics and findings. It follows runs for Options.FollowFor at the longest:
// what is not concluded by then is carried on by the next call, of this
// instance or another. With Policy.Enabled false it changes nothing.
//
// It returns what kept it from looking or acting; mounts are independent of
// each other in that. A missing permission is a finding, no error: it lasts
// until somebody grants it. When ctx ends it returns promptly and leaves the record
// as it is.
func (t *Tidier) Once(ctx context.Context) error {
	leave, err := t.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()

	s, err := t.glance(ctx)
	if err != nil {
		t.metrics.publish(nil, t.o.Policy, t.now())
		t.show(nil)
		return err
	}
	views, err := t.lookAll(ctx, s, pki.Select(s.mounts, t.o.Mounts))
	errs := []error{err}
	t.sampleAll(ctx, s, views)
	if t.o.Policy.Enabled {
		t.show(views) // a run may be followed for minutes
		errs = append(errs, t.act(ctx, s, views))
	}
	t.publish(s, views)
	return errors.Join(errs...)
}

// lookAll looks at each of mounts. Those that cannot be looked at are left out.
func (t *Tidier) lookAll(ctx context.Context, s *survey, mounts []pki.Mount) ([]*view, error) {
	var views []*view
	var errs []error
	for _, m := range mounts {
		v, err := t.look(ctx, s, m, t.o.Policy, false)
		if err != nil {
			t.memories.mountsAt = time.Time{} // it may be gone
			errs = append(errs, err)
			continue
		}
		views = append(views, v)
	}
	return views, errors.Join(errs...)
}

// act carries on and starts runs, until one is left open.
func (t *Tidier) act(ctx context.Context, s *survey, views []*view) error {
	until := t.now().Add(t.o.FollowFor)
	var errs []error
	for _, v := range t.byNeed(views) {
		errs = append(errs, t.own(ctx, v))
		if v.record.WatchedSince.IsZero() {
			record := v.record
			record.WatchedSince = t.now()
			if err := t.save(ctx, v, record); err != nil && !errors.Is(err, pki.ErrConflict) {
				errs = append(errs, err)
				continue
			}
			v.observation.Record = v.record
		}
		errs = append(errs, t.payOnce(ctx, v))
		if v.decision.Verdict != pki.RunNow && v.decision.Verdict != pki.Follow {
			continue
		}
		err := t.begin(ctx, s, v, t.o.Policy)
		followed := err == nil && v.record.Run != nil
		if followed {
			_, err = t.follow(ctx, v, until, 0)
		}
		// A missing right is in the record, or seen by looking again.
		if _, denied := isDenied(err); denied && !lostToken(err) || followed && err == nil {
			err = t.again(ctx, v)
		}
		errs = append(errs, err)
		if v.record.Run != nil || ctx.Err() != nil {
			break // one mount at a time
		}
	}
	return errors.Join(errs...)
}

// byNeed orders mounts, see [pki.Need].
func (t *Tidier) byNeed(views []*view) []*view {
	needs := make(map[*view]pki.Need, len(views))
	for _, v := range views {
		needs[v] = pki.NeedOf(v.observation, v.decision, t.now())
	}
	return slices.SortedFunc(slices.Values(views), func(a, b *view) int { return needs[a].Compare(needs[b]) })
}

// begin does what v's decision, Run or Follow, asks for first, so that v has an
// open run: starts one after measuring and planning again, or adopts one. v is
// left without an open run where the second look decides otherwise, or where
// another instance was faster.
func (t *Tidier) begin(ctx context.Context, s *survey, v *view, p pki.Policy) error {
	if v.record.Run != nil {
		return nil
	}
	if v.decision.Verdict == pki.Follow {
		return ignoreConflict(t.adopt(ctx, v))
	}
	if err := t.refresh(ctx, s); err != nil {
		return err
	}
	fresh, err := t.look(ctx, s, v.mount, p, true)
	if err != nil {
		return err
	}
	*v = *fresh
	if v.record.Run != nil || v.decision.Verdict != pki.RunNow {
		return nil
	}
	return ignoreConflict(t.start(ctx, v))
}

// refresh reads again what other mounts and Vault's health are like.
func (t *Tidier) refresh(ctx context.Context, s *survey) error {
	now, err := t.survey(ctx)
	if err == nil {
		*s = *now
	}
	return err
}

// confirm decides about v anew by what other mounts and Vault's health are like
// now: looking at v may have taken long.
func (t *Tidier) confirm(ctx context.Context, v *view, p pki.Policy) error {
	s, err := t.survey(ctx)
	if err != nil {
		return err
	}
	o := &v.observation
	o.Health, o.OtherRun, o.Load = s.health, s.otherRun(v.mount), t.latencies.load(t.now())
	if status, known := s.statuses[v.mount]; known {
		o.Status = &status
	} else {
		err := s.errs[v.mount]
		if _, denied := isDenied(err); !denied {
			return err
		}
		o.Status, v.statusErr = nil, err
	}
	v.decision = pki.Plan(*o, p, t.now())
	return nil
}

// ignoreConflict drops the error of having come second: the next look shows
// what the first one did.
func ignoreConflict(err error) error {
	if errors.Is(err, pki.ErrConflict) {
		return nil
	}
	return err
}

// again looks at the mount after a run, for findings and metrics.
func (t *Tidier) again(ctx context.Context, v *view) error {
	s, err := t.glance(ctx, v.mount)
	if err != nil {
		return err
	}
	fresh, err := t.look(ctx, s, v.mount, t.o.Policy, false)
	if err == nil {
		*v = *fresh
	}
	return err
}

// publish tells metrics, findings and, where it changed, the decision.
func (t *Tidier) publish(s *survey, views []*view) {
	now := t.now()
	for _, v := range views {
		v.dueAt = t.dueAt(v)
	}
	t.metrics.publish(views, t.o.Policy, now)
	t.show(views)
	findings := append(t.noMount(s), pki.VaultFindings(s.leases)...)
	for _, v := range views {
		findings = append(findings, pki.Findings(v.observation, t.o.Policy, v.decision, now)...)
		if said := string(v.decision.Verdict); t.spoken[v.mount] != said {
			t.spoken[v.mount] = said
			t.log.Info("tidy decision", "mount", v.mount.Name(), "verdict", said, "reason", v.decision.Reason)
		}
	}
	t.o.Report(findings)
}

// noMount says that nothing is tidied, unless the CRL watch beside says that it
// sees nothing either.
func (t *Tidier) noMount(s *survey) []pki.Finding {
	watched := t.o.Watched != nil && len(pki.Select(s.mounts, t.o.Watched)) == 0
	if watched || len(pki.Select(s.mounts, t.o.Mounts)) > 0 {
		return nil
	}
	return []pki.Finding{pki.NoMount(s.mounts, t.o.Mounts)}
}
