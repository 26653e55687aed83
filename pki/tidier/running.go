package tidier

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

const (
	// progressEvery spaces what the log says of a run that goes on.
	progressEvery = 30 * time.Second

	// slowPolls is how many looks at a run in a row find Vault degraded before
	// the run is stopped.
	slowPolls = 3

	// cancelWithin is how long an interrupted command waits for the end of the
	// run that it cancels.
	cancelWithin = 15 * time.Second

	// cancelInterrupted is Run.Cancel where that command has it stopped.
	cancelInterrupted = "the command that started it was interrupted"
)

// following is what is remembered about the run that is being followed, as long
// as this instance follows it.
type following struct {
	run      string // its ID
	toldAt   time.Time
	told     pki.Progress
	slow     int  // looks in a row that found Vault degraded
	noCancel bool // it may not be cancelled, and that was said
	stopping bool // Vault is stopping it, and that was said

	answered time.Time // when something was last learned of it
	away     error     // why nothing is since, nil where something is
}

// lost tells whether it is not known what becomes of the run now.
func (f *following) lost(now time.Time) bool {
	return f.away != nil || now.Sub(f.answered) > 2*pollMax
}

const (
	// waitQuietly is how long a command waits before it says for what, and
	// waitAnew how often it says so again.
	waitQuietly = 10 * time.Second
	waitAnew    = 30 * time.Second
)

// waiting is a time in which nothing is learned of a run.
type waiting struct {
	since, told time.Time
	most        time.Duration
}

// tellWaiting says from time to time what is waited for, and how long at most.
func (t *Tidier) tellWaiting(v *view, w *waiting, err error) {
	now := t.now()
	if now.Sub(w.since) < waitQuietly || !w.told.IsZero() && now.Sub(w.told) < waitAnew {
		return
	}
	w.told = now
	t.log.Warn("waiting until something can be learned of the tidy", "mount", v.mount.Name(),
		"since", now.Sub(w.since).Round(time.Second), "at_most", (w.most - now.Sub(w.since)).Round(time.Second), "error", err)
}

// pause chooses how long a run that begins now sleeps before each entry.
func (t *Tidier) pause(v *view) pki.Pause {
	slower := v.record.Slower
	if !t.o.AutoPause {
		return pki.FixedPause(t.o.Policy.Pause, slower)
	}
	in := pki.PauseInput{
		Revocations: v.decision.Estimate.Total.Entries,
		Read:        t.latencies.load(t.now()).Usual,
		Within:      t.within(),
		Slower:      slower,
	}
	s := v.observation.Status
	counted := s != nil && s.CountingError == ""
	if counted && s.RevokedCount != nil {
		in.Revocations = max(in.Revocations, *s.RevokedCount)
	}
	if t.o.Policy.CertStore {
		in.Certificates = -1
		if counted && s.CertStoreCount != nil {
			in.Certificates = *s.CertStoreCount
		}
	}
	return pki.ChoosePause(in)
}

// within is how long a run that begins now may take: until its window closes,
// at most Options.RunWithin.
func (t *Tidier) within() time.Duration {
	windows, now := t.o.Policy.Windows, t.now()
	openAt := func(d time.Duration) bool {
		return slices.ContainsFunc(windows, func(w pki.Window) bool { return w.Open(now.Add(d)) })
	}
	if !openAt(0) { // no window, or one that does not hold for this run
		return t.o.RunWithin
	}
	const step = time.Minute
	for d := step; d < t.o.RunWithin; d += step {
		if !openAt(d) {
			return d
		}
	}
	return t.o.RunWithin
}

// goesOn is what is done at each look at a run that has not ended: tell how far
// it is, keep when it began, and stop it where Vault suffers.
func (t *Tidier) goesOn(ctx context.Context, v *view, run pki.Run, status pki.TidyStatus) error {
	t.tell(v, run, status)
	if run.StartedAt.IsZero() {
		run.StartedAt = status.StartedAt
		if err := t.saveRun(ctx, v, run); err != nil {
			return err
		}
	}
	if run.Foreign || status.State != pki.TidyRunning {
		return nil
	}
	if run.Cancel == "" {
		why, degraded := t.latencies.load(t.now()).Degraded()
		if !degraded {
			t.following.slow = 0
			return nil
		}
		if t.following.slow++; t.following.slow < slowPolls {
			return nil
		}
		t.log.Warn("stopping tidy for Vault's sake", "mount", v.mount.Name(), "why", why)
		run = run.CancelForLoad(why)
		if err := t.saveRun(ctx, v, run); err != nil {
			return err
		}
	}
	return t.cancel(ctx, v, run)
}

// cancel stops a run of ours, of which tidy-status was just read and whose
// record says why. Where that may not be done it says so, once, and the run
// goes on.
func (t *Tidier) cancel(ctx context.Context, v *view, run pki.Run) error {
	if t.following.noCancel {
		return nil
	}
	asked, err := t.o.Vault.CancelTidy(ctx, v.mount)
	var refusal *pki.RefusedError
	if _, denied := isDenied(err); denied || errors.As(err, &refusal) {
		t.following.noCancel = true
		t.log.Warn("tidy goes on, it may not be cancelled", "mount", v.mount.Name(), "error", err)
		return nil
	}
	if err == nil {
		t.log.Info("tidy is told to stop", "mount", v.mount.Name(), "was_on", asked, "why", run.Cancel)
	}
	return err
}

// tell shows a status of a run that goes on, and logs it from time to time.
func (t *Tidier) tell(v *view, run pki.Run, status pki.TidyStatus) {
	f := &t.following
	if f.run != run.ID {
		*f = following{run: run.ID, toldAt: t.now(), answered: f.answered, away: f.away}
	}
	t.metrics.isRunning(v.mount, true)
	t.o.Watch(v.mount, status)
	if status.State == pki.TidyCancelling && !f.stopping {
		f.stopping = true
		t.tellStopping(v, run, status)
		return
	}
	ago := t.now().Sub(f.toldAt)
	if ago < progressEvery {
		return
	}
	line := t.log.With("mount", v.mount.Name(), "revoked_deleted", status.RevokedDeleted, "cert_store_deleted", status.CertStoreDeleted)
	if p, ok := status.Progress(); ok {
		line = line.With("phase", p.Phase, "done", p.Done, "total", p.Total)
		if left := p.Left(f.told, ago); left > 0 {
			line = line.With("phase_left", left.Round(time.Second))
		}
		f.told = p
	}
	f.toldAt = t.now()
	if f.stopping {
		line.Info("Vault is still stopping tidy, which it does at the run's next entry")
		return
	}
	line.Info("tidy is running")
}

// tellStopping says that Vault is stopping the run. That is a warning where
// nobody here asked for it.
func (t *Tidier) tellStopping(v *view, run pki.Run, status pki.TidyStatus) {
	level, why := slog.LevelInfo, run.Cancel
	if why == "" {
		level, why = slog.LevelWarn, "somebody else cancelled it"
	}
	t.following.toldAt = t.now()
	t.log.Log(context.Background(), level, "Vault is stopping tidy", "mount", v.mount.Name(), "why", why,
		"revoked_deleted", status.RevokedDeleted, "cert_store_deleted", status.CertStoreDeleted)
}

// stopInterrupted stops the run that an interrupted command started, and
// waits a little for its end. The record stays open: whoever looks next
// rotates, measures and concludes. It tells what becomes of the run.
func (t *Tidier) stopInterrupted(ctx context.Context, v *view, id string) Left {
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), cancelWithin)
	defer done()
	left, err := t.stop(ctx, v, id)
	if err != nil {
		t.log.Warn("tidy was not cancelled", "mount", v.mount.Name(), "error", err)
		if left == LeftRunning {
			left = LeftUnknown
		}
	}
	return left
}

func (t *Tidier) stop(ctx context.Context, v *view, id string) (Left, error) {
	if err := t.load(ctx, v); err != nil {
		return LeftRunning, err
	}
	if !open(v, id) || v.record.Run.Step != pki.StepRunning {
		return LeftOpen, nil // it has ended, or nobody knows whether it began
	}
	status, err := t.readStatus(ctx, v.mount)
	if err != nil {
		return LeftRunning, err
	}
	run := *v.record.Run
	if !run.IsOn(status) {
		return LeftOpen, nil
	}
	if run.StartedAt.IsZero() {
		run.StartedAt = status.StartedAt
	}
	run.Cancel = cancelInterrupted
	if err := t.saveRun(ctx, v, run); err != nil {
		return LeftRunning, err
	}
	if err := t.cancel(ctx, v, run); err != nil || t.following.noCancel {
		return LeftRunning, err
	}
	for {
		if status, err = t.readStatus(ctx, v.mount); err == nil && !run.IsOn(status) {
			return LeftCancelled, nil
		}
		if sleep(ctx, pollFirst) != nil {
			return LeftCancelled, nil // asked, which Vault does not forget
		}
	}
}
