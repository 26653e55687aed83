package tidier

import (
	"cmp"
	"context"
	"errors"
	"slices"

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

	s, err := t.survey(ctx)
	if err != nil {
		t.metrics.publish(nil, t.o.Policy, t.now())
		return err
	}
	views, err := t.lookAll(ctx, s, pki.Select(s.mounts, t.o.Mounts))
	errs := []error{err}
	t.sampleAll(ctx, s, views)
	if t.o.Policy.Enabled {
		errs = append(errs, t.act(ctx, s, views))
	}
	t.publish(views)
	return errors.Join(errs...)
}

// lookAll looks at each of mounts. Those that cannot be looked at are left out.
func (t *Tidier) lookAll(ctx context.Context, s *survey, mounts []pki.Mount) ([]*view, error) {
	var views []*view
	var errs []error
	for _, m := range mounts {
		v, err := t.look(ctx, s, m, t.o.Policy, false)
		if err != nil {
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
	for _, v := range byNeed(views) {
		if v.record.WatchedSince.IsZero() {
			record := v.record
			record.WatchedSince = t.now()
			if err := t.save(ctx, v, record); err != nil && !errors.Is(err, pki.ErrConflict) {
				errs = append(errs, err)
				continue
			}
			v.observation.Record = v.record
		}
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

// byNeed orders mounts: what is open first, then by the share of the storage's
// limit, then by what is reclaimable.
func byNeed(views []*view) []*view {
	rank := func(v *view) int {
		switch {
		case v.record.Run != nil:
			return 0
		case v.decision.Verdict == pki.Follow:
			return 1
		}
		return 2
	}
	return slices.SortedStableFunc(slices.Values(views), func(a, b *view) int {
		return cmp.Or(
			cmp.Compare(rank(a), rank(b)),
			-cmp.Compare(a.decision.Estimate.LimitShare(), b.decision.Estimate.LimitShare()),
			-cmp.Compare(a.decision.Estimate.Low, b.decision.Estimate.Low),
		)
	})
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
	s, err := t.survey(ctx)
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
func (t *Tidier) publish(views []*view) {
	now := t.now()
	t.metrics.publish(views, t.o.Policy, now)
	var findings []pki.Finding
	for _, v := range views {
		findings = append(findings, pki.Findings(v.observation, t.o.Policy, v.decision, now)...)
		if said := string(v.decision.Verdict); t.spoken[v.mount] != said {
			t.spoken[v.mount] = said
			t.log.Info("tidy decision", "mount", v.mount.Name(), "verdict", said, "reason", v.decision.Reason)
		}
	}
	t.o.Report(findings)
}
