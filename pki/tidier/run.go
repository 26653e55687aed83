package tidier

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

const (
	pollFirst = time.Second
	pollMax   = 5 * time.Second

	// rotateClaim is how long a rotation, or a measurement, is left to the
	// instance that took it: longer than either request may take.
	rotateClaim = 3 * time.Minute

	// rotateAttempts is how often a rotation is tried that fails for reasons
	// that may pass.
	rotateAttempts = 3
)

// start writes the run down that v's decision asks for, and asks Vault for it.
// The record comes first: whoever reads it later knows that Vault may have been
// asked, and asks tidy-status before anything else. Where the record was
// changed by another instance the error wraps [pki.ErrConflict], and Vault was
// not asked.
func (t *Tidier) start(ctx context.Context, v *view) error {
	now := t.now()
	run := t.newRun(v)
	run.Step, run.Deadline = pki.StepDecided, now.Add(t.o.Claim)
	if err := t.saveRun(ctx, v, run); err != nil {
		return err
	}
	t.log.Info("starting tidy", "mount", v.mount.Name(), "reason", run.Reason,
		"reclaimable", run.Predicted.Reclaimable, "safety_buffer", run.SafetyBuffer, "pause", run.Pause, "pause_reason", run.PauseReason)
	version := v.observation.Health.Version
	if _, known := pki.TidySwitches(version); !known {
		t.log.Warn("this version of Vault is not known here; tidy is asked for with what versions 1.12 to 1.21 have in common", "version", version)
	}

	ask, cancel := context.WithTimeout(ctx, t.o.Claim/2)
	defer cancel()
	params := t.o.Policy.Params()
	params.Pause, params.Version = run.Pause, version
	started, err := t.o.Vault.StartTidy(ask, v.mount, params)
	switch {
	case lostToken(err):
		run.Outcome, run.Explanation = pki.OutcomeInterrupted, "the token was no longer valid when Vault was asked, so that it began nothing"
		if saveErr := t.conclude(ctx, v, run); saveErr != nil {
			return errors.Join(err, saveErr)
		}
		return err
	case refused(err):
		run.Error, run.Denied = shorten(err.Error()), denial(err)
		run.Outcome, run.Explanation = pki.OutcomeRefused, run.Error
		if saveErr := t.conclude(ctx, v, run); saveErr != nil {
			return errors.Join(err, saveErr)
		}
		return err
	case err != nil:
		t.log.Warn("tidy may or may not have been started; tidy-status will tell", "mount", v.mount.Name(), "error", err)
		return nil
	case !started:
		// Somebody came between our look at tidy-status and our request.
		t.metrics.concluded(v.mount, pki.OutcomeRefused)
		run.Foreign = true
	}
	run.Step = pki.StepRunning
	return t.saveRun(ctx, v, run)
}

// adopt writes down a run that somebody else started, so that it is seen
// through to the proof, by this instance or another.
func (t *Tidier) adopt(ctx context.Context, v *view) error {
	run := t.newRun(v)
	run.Foreign, run.Step = true, pki.StepRunning
	run.Pause, run.PauseReason = 0, "" // theirs is not told
	run.StartedAt, run.PreviousStart = v.observation.Status.StartedAt, time.Time{}
	run.SafetyBuffer = v.observation.Status.SafetyBuffer
	t.log.Info("following a tidy that was not started here", "mount", v.mount.Name(), "started_at", run.StartedAt)
	return t.saveRun(ctx, v, run)
}

func (t *Tidier) newRun(v *view) pki.Run {
	pause := t.pause(v)
	run := pki.Run{
		Pause:        pause.Each,
		PauseReason:  shorten(pause.Reason),
		Margin:       v.decision.Estimate.Margin,
		Sampled:      v.decision.Estimate.Read,
		ID:           rand.Text(),
		Holder:       t.holder,
		Reason:       shorten(v.decision.Reason),
		DecidedAt:    t.now(),
		SafetyBuffer: t.o.Policy.SafetyBuffer,
		Predicted:    v.decision.Predicted,
		Possible:     v.decision.Estimate.High,
		Before:       v.decision.Estimate.Total,
	}
	if s := v.observation.Status; s != nil {
		run.PreviousStart = s.StartedAt
	}
	return run
}

// refused tells whether Vault surely did not start what it was asked to.
func refused(err error) bool {
	var redirect *pki.RedirectError
	var refusal *pki.RefusedError
	_, denied := isDenied(err)
	return denied || errors.As(err, &redirect) || errors.As(err, &refusal) || errors.Is(err, pki.ErrSealed)
}

// lostToken tells whether Vault no longer takes the token: the session logs in
// anew, which ends that.
func lostToken(err error) bool {
	denied, ok := isDenied(err)
	return ok && denied.InvalidToken
}

// denial is the missing right that err names, nil where it is another error.
func denial(err error) *pki.PermissionError {
	if denied, ok := isDenied(err); ok {
		return &denied
	}
	return nil
}

// follow takes v's open run step by step to its conclusion, whoever takes the
// steps, and returns it as it was concluded. At the time until, unless that is
// zero, it gives up without an error and returns the run as it is. An error on
// the way ends it once nothing has been learned for patience.
func (t *Tidier) follow(ctx context.Context, v *view, until time.Time, patience time.Duration) (pki.Run, error) {
	run := *v.record.Run
	lastGood := t.now()
	t.following.answered, t.following.away = lastGood, nil
	quiet := waiting{since: lastGood, most: patience}
	for poll := pollFirst; ; poll = min(poll*5/4, pollMax) {
		err := t.advance(ctx, v)
		if err == nil {
			lastGood = t.now()
			t.following.answered, t.following.away = lastGood, nil
			quiet = waiting{since: lastGood, most: patience}
		} else if !errors.Is(err, pki.ErrConflict) && (ctx.Err() != nil || t.now().Sub(lastGood) >= patience) {
			return run, err
		} else if !errors.Is(err, pki.ErrConflict) {
			t.following.away = err
			t.tellWaiting(v, &quiet, err)
		}
		if err == nil && open(v, run.ID) && !until.IsZero() && !t.now().Before(until) {
			return *v.record.Run, nil
		}
		if open(v, run.ID) && !errors.Is(err, pki.ErrConflict) {
			if err := sleep(ctx, poll); err != nil {
				return run, fmt.Errorf("following tidy of mount %s: %w", v.mount.Name(), err)
			}
		}
		if err := t.load(ctx, v); err != nil && t.now().Sub(lastGood) >= patience {
			return run, err
		}
		if !open(v, run.ID) {
			return concluded(v.record, run.ID)
		}
		run = *v.record.Run
	}
}

// open tells whether the run is still the one that the record has open.
func open(v *view, id string) bool { return v.record.Run != nil && v.record.Run.ID == id }

// concluded finds a run in the history.
func concluded(r pki.Record, id string) (pki.Run, error) {
	for _, run := range r.History {
		if run.ID == id {
			return run, nil
		}
	}
	return pki.Run{ID: id}, fmt.Errorf("following tidy of mount %s: run %s is gone from the record", r.Mount, id)
}

// advance takes the open run's next step, where that is this instance's to
// take and its time has come. Its error wraps [pki.ErrConflict] where another
// instance took a step meanwhile.
func (t *Tidier) advance(ctx context.Context, v *view) error {
	run := *v.record.Run
	switch run.Step {
	case pki.StepDecided:
		return t.advanceDecided(ctx, v, run)
	case pki.StepRunning:
		return t.advanceRunning(ctx, v, run)
	case pki.StepRotating:
		return t.advanceRotating(ctx, v, run)
	case pki.StepMeasuring:
		return t.advanceMeasuring(ctx, v, run)
	}
	return fmt.Errorf("following tidy of mount %s: unknown step %q in the record", v.mount.Name(), run.Step)
}

// advanceDecided finds out whether Vault was asked. Only the instance that
// decided asks, and only within its claim.
func (t *Tidier) advanceDecided(ctx context.Context, v *view, run pki.Run) error {
	status, err := t.readStatus(ctx, v.mount)
	if err != nil {
		return err
	}
	if status.State.Active() || !status.StartedAt.Equal(run.PreviousStart) && !status.StartedAt.IsZero() {
		run.Step = pki.StepRunning
		return t.saveRun(ctx, v, run)
	}
	if !t.now().After(run.Deadline) {
		return nil
	}
	run.EndedAt = t.now()
	run.Outcome, run.Explanation = pki.OutcomeInterrupted, "the run was decided and Vault never began it"
	return t.conclude(ctx, v, run)
}

// advanceRunning looks at tidy-status until the run has ended or is forgotten.
func (t *Tidier) advanceRunning(ctx context.Context, v *view, run pki.Run) error {
	status, err := t.readStatus(ctx, v.mount)
	if err != nil {
		return err
	}
	ours := run.Is(status)
	switch {
	case !ours && run.StartedAt.IsZero() && !t.now().After(run.DecidedAt.Add(t.o.Claim)):
		return nil // accepted, and not yet in the status
	case !ours:
		run.State = pki.RunUnknown
	case status.State.Active():
		return t.goesOn(ctx, v, run, status)
	default:
		run.StartedAt = status.StartedAt
		run.State = runState(status.State)
		deleted := status.RevokedDeleted
		run.Deleted = &deleted
		run.Error = shorten(status.Error)
	}
	run.EndedAt = t.now()
	if ended := status.FinishedAt; ours && run.Cancel != "" && ended.After(run.DecidedAt) && ended.Before(run.EndedAt) {
		run.EndedAt = ended // it may be long ago that it was interrupted
	}
	run.Step = pki.StepMeasuring
	if t.o.Policy.Rotate && run.NeedsRotation(v.observation.CRLConfig) {
		run.Step = pki.StepRotating
	}
	t.take(&run)
	ended := t.log.With("mount", v.mount.Name(), "state", run.State, "error", run.Error)
	if run.Deleted != nil {
		ended = ended.With("deleted", *run.Deleted)
	}
	ended.Info("tidy has ended")
	t.metrics.isRunning(v.mount, false)
	if ours {
		t.o.Watch(v.mount, status)
	}
	if err := t.saveRun(ctx, v, run); err != nil {
		return err
	}
	return t.advance(ctx, v)
}

func runState(s pki.TidyState) pki.RunState {
	switch s {
	case pki.TidyFinished:
		return pki.RunFinished
	case pki.TidyError:
		return pki.RunError
	case pki.TidyCancelled:
		return pki.RunCancelled
	}
	return pki.RunUnknown
}

// take makes the run's step this instance's.
func (t *Tidier) take(run *pki.Run) {
	run.Holder, run.Deadline, run.Attempts = t.holder, t.now().Add(rotateClaim), 0
}

// mine tells whether the step is this instance's, taking it over where its
// holder's time is up. Without an error and without the step it is another's.
func (t *Tidier) mine(ctx context.Context, v *view, run *pki.Run) (bool, error) {
	if run.Holder == t.holder {
		return true, nil
	}
	if !t.now().After(run.Deadline) {
		return false, nil
	}
	t.log.Info("taking over a tidy", "mount", v.mount.Name(), "step", run.Step, "from", run.Holder)
	attempts := run.Attempts
	t.take(run)
	run.Attempts = attempts
	err := t.saveRun(ctx, v, *run)
	return err == nil, err
}

// advanceRotating rebuilds the CRL. Where that cannot succeed, the reason is
// kept and what is measured decides.
func (t *Tidier) advanceRotating(ctx context.Context, v *view, run pki.Run) error {
	if mine, err := t.mine(ctx, v, &run); !mine {
		return err
	}
	err := t.o.Vault.Rotate(ctx, v.mount)
	var tooLarge *pki.TooLargeError
	switch {
	case err == nil:
		run.Rotated = true
	case ctx.Err() != nil:
		return err
	case errors.Is(err, pki.ErrSealed), errors.Is(err, pki.ErrNoActiveNode), errors.Is(err, pki.ErrUnreachable), lostToken(err):
		return err
	case refused(err), errors.As(err, &tooLarge), run.Attempts+1 >= rotateAttempts:
		t.log.Warn("CRL was not rotated after tidy", "mount", v.mount.Name(), "error", err)
		run.Error, run.Denied, run.Owes = shorten(err.Error()), denial(err), true
	default:
		run.Attempts++
		run.Deadline = t.now().Add(rotateClaim)
		return errors.Join(err, t.saveRun(ctx, v, run))
	}
	run.Step = pki.StepMeasuring
	t.take(&run)
	if err := t.saveRun(ctx, v, run); err != nil {
		return err
	}
	return t.advance(ctx, v)
}

// advanceMeasuring measures the lists and judges the run by them.
func (t *Tidier) advanceMeasuring(ctx context.Context, v *view, run pki.Run) error {
	if mine, err := t.mine(ctx, v, &run); !mine {
		return err
	}
	crls, err := t.lists(ctx, v.mount, true)
	if err != nil {
		return fmt.Errorf("after tidy: %w", err)
	}
	longest := v.observation.LongestTTL
	if e := v.decision.Estimate; e.TTLBroken {
		longest = pki.LongestTTL{Source: e.TTLExample}
	}
	run = run.Judge(crls, v.observation.CRLConfig, longest)
	run.Explanation = shorten(run.Explanation)
	return t.conclude(ctx, v, run)
}

// conclude moves the run to the history. Only the instance that succeeds in
// writing that counts the run.
func (t *Tidier) conclude(ctx context.Context, v *view, run pki.Run) error {
	if run.EndedAt.IsZero() {
		run.EndedAt = t.now()
	}
	if err := t.save(ctx, v, v.record.Conclude(run)); err != nil {
		return err
	}
	if !run.Foreign {
		t.metrics.concluded(v.mount, run.Outcome)
	}
	t.log.Info("tidy is concluded", "mount", v.mount.Name(), "result", run.Outcome, "foreign", run.Foreign,
		"predicted", run.Predicted.Reclaimable, "explanation", run.Explanation)
	return nil
}

// sleep waits for d, or for ctx to end, whose cause it then returns.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
