package tidier

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

// Request is what the one-shot command asks for. Asking is the switch: it runs
// whether or not Policy.Enabled is set, unless DryRun.
type Request struct {
	Mounts []string // patterns as [pki.Select] reads them, each of which must match; none: Options.Mounts
	DryRun bool     // say what would be done, and change nothing
	Force  bool     // skip the thresholds, nothing else
	Wait   bool     // follow to the proof

	// CancelOnInterrupt: where ctx ends while a run is followed that this call
	// started, Vault is asked to stop it.
	CancelOnInterrupt bool
}

// Left is what becomes of a run that a call started and did not see to its end.
type Left string

// What becomes of such a run.
const (
	LeftRunning   Left = "running"   // it goes on in Vault
	LeftCancelled Left = "cancelled" // Vault was asked to stop it
	LeftUnknown   Left = "unknown"   // Vault does not tell: it may go on, or have ended
	LeftOpen      Left = "open"      // it has ended, or may not have begun; its record is open
)

// Report is what became of one mount.
type Report struct {
	Mount     string         `json:"mount"`
	Run       bool           `json:"run"` // this call started a run
	Reason    string         `json:"reason"`
	Predicted pki.Prediction `json:"predicted"`
	Result    *Result        `json:"result"` // nil without a run that was seen to its end

	follows bool // a run that was on

	Left Left `json:"-"` // "" unless ctx ended before the proof of a run of this call's
}

// Result is what a run achieved, as measured.
type Result struct {
	State         pki.RunState `json:"state"`
	Deleted       *int64       `json:"deleted"` // revocations; nil where Vault forgot
	EntriesBefore int64        `json:"entriesBefore"`
	EntriesAfter  int64        `json:"entriesAfter"`
	BytesBefore   int64        `json:"bytesBefore"`
	BytesAfter    int64        `json:"bytesAfter"`
	CRLRotated    bool         `json:"crlRotated"`

	rebuilt bool // the lists are newer than the run
}

// ErrNoMount says that no PKI mount is selected, or that Vault shows none:
// nothing was looked at.
var ErrNoMount = errors.New("no PKI mount to tidy")

// Tidy looks at each mount asked for and does what is decided, one after the
// other, in the order in which Once takes them. It returns a Report for each
// mount that it could look at, in that order, with an error where a mount could not be looked at or is not there, where none
// is selected ([ErrNoMount]), where Vault refused a run or to say whether one is
// on, where one of
// pkiwarden's failed or got lost, whoever started it, and where ctx ended before
// the proof. A run that is not due, or is somebody else's, is no error.
func (t *Tidier) Tidy(ctx context.Context, r Request) ([]Report, error) {
	leave, err := t.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()

	var s *survey
	err = t.retry(ctx, func() (err error) {
		s, err = t.overview(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	mounts, err := t.wanted(s, r)
	if err != nil {
		return nil, err
	}
	policy := t.o.Policy
	policy.Enabled, policy.Asked, policy.Force = true, true, r.Force
	turns, err := t.turns(ctx, mounts, policy, r)
	var reports []Report
	errs := []error{err}
	acted := false // what was seen of the other mounts may hold no longer
	for _, v := range turns {
		if ctx.Err() != nil {
			break
		}
		if !r.DryRun && (acted || t.now().Sub(v.lookedAt) >= t.o.Interval) {
			v = &view{mount: v.mount}
		}
		report, err := t.tidyMount(ctx, v, policy, r)
		if report != nil {
			reports = append(reports, *report)
		}
		errs = append(errs, err)
		acted = acted || v.decision.Verdict == pki.RunNow || v.decision.Verdict == pki.Follow
	}
	return reports, errors.Join(errs...)
}

// turns are the mounts in the order in which Once takes them, the neediest
// first. Those that cannot be looked at are left out and in the error. A single
// mount is not looked at: its view says nothing.
func (t *Tidier) turns(ctx context.Context, mounts []pki.Mount, p pki.Policy, r Request) ([]*view, error) {
	if len(mounts) == 1 {
		return []*view{{mount: mounts[0]}}, nil
	}
	var views []*view
	var errs []error
	for _, m := range mounts {
		v := &view{mount: m}
		if err := t.lookAsked(ctx, v, p, r.DryRun); err != nil {
			errs = append(errs, err)
		} else {
			views = append(views, v)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return t.byNeed(views), errors.Join(errs...)
}

// lookAsked looks at v's mount as it is now. Of other mounts it asks only for a
// dry run, which does not confirm.
func (t *Tidier) lookAsked(ctx context.Context, v *view, p pki.Policy, dry bool) error {
	look := t.overview
	if dry {
		look = t.glance
	}
	return t.retry(ctx, func() error {
		s, err := look(ctx, v.mount)
		if err != nil {
			return err
		}
		fresh, err := t.look(ctx, s, v.mount, p, true)
		if err == nil {
			*v = *fresh
		}
		return err
	})
}

// wanted are the mounts asked for.
func (t *Tidier) wanted(s *survey, r Request) ([]pki.Mount, error) {
	patterns := r.Mounts
	if len(patterns) == 0 || len(s.mounts) == 0 {
		patterns = t.o.Mounts
	} else if unmatched := pki.Unmatched(s.mounts, patterns); len(unmatched) > 0 {
		return nil, fmt.Errorf("no PKI mount %s among those that Vault shows: %s", quoted(unmatched), strings.Join(names(s.mounts), ", "))
	}
	selected := pki.Select(s.mounts, patterns)
	switch {
	case len(selected) > 0:
		return selected, nil
	case len(s.mounts) > 0 && len(r.Mounts) > 0:
		return nil, fmt.Errorf("%w: %q leave out all that Vault shows: %s", ErrNoMount, patterns, strings.Join(names(s.mounts), ", "))
	}
	return nil, fmt.Errorf("%w: %s", ErrNoMount, pki.NoMount(s.mounts, t.o.Mounts).Evidence)
}

func quoted(patterns []string) string {
	var quoted []string
	for _, p := range patterns {
		quoted = append(quoted, strconv.Quote(p))
	}
	return strings.Join(quoted, ", ")
}

func names(mounts []pki.Mount) []string {
	var names []string
	for _, m := range mounts {
		names = append(names, m.Name())
	}
	return names
}

// tidyMount looks, unless v has been looked at, makes up for a rotation that is
// owed, and does what is decided then.
func (t *Tidier) tidyMount(ctx context.Context, v *view, p pki.Policy, r Request) (*Report, error) {
	if v.lookedAt.IsZero() {
		if err := t.lookAsked(ctx, v, p, r.DryRun); err != nil {
			return nil, err
		}
	}
	owed := ""
	var owedErr error
	switch {
	case !r.DryRun:
		if owed, owedErr = t.payOwed(ctx, v, true); owed != "" {
			v.lookedAt = time.Time{} // the lists are others now
		}
		if owedErr != nil {
			owed = owedErr.Error()
		}
	case t.owes(v):
		owed = fmt.Sprintf("a rotation of the CRL is owed since the run that ended at %s, and would come first", v.record.Owed.Since.UTC().Format(timeForm))
	}
	report, err := t.actAsked(ctx, v, p, r)
	if report != nil && report.Result != nil && report.Result.rebuilt { // what was owed is on these lists
		owedErr = nil
	}
	if report != nil && owed != "" {
		report.Reason = owed + "; " + report.Reason
	}
	return report, errors.Join(owedErr, err)
}

// actAsked looks, unless v has been looked at, decides, acts and reports. Coming
// second to another instance means to look again.
func (t *Tidier) actAsked(ctx context.Context, v *view, p pki.Policy, r Request) (*Report, error) {
	before := ""        // what was concluded first
	var stopped *Report // of that
	for again := v.lookedAt.IsZero(); ; again = true {
		var err error
		if again {
			err = t.lookAsked(ctx, v, p, r.DryRun)
		}
		if err == nil && v.decision.Verdict == pki.RunNow {
			err = t.retry(ctx, func() error { return t.confirm(ctx, v, p) })
		}
		if err != nil {
			return nil, err
		}
		report := &Report{Mount: v.mount.Name(), Reason: before + v.decision.Reason, Predicted: v.decision.Predicted}
		switch {
		case v.decision.Verdict == pki.Follow && v.record.Run != nil:
			report.Predicted, report.follows = v.record.Run.Predicted, true
			run, err := t.settle(ctx, v, report, r)
			if err == nil && run.NeverStarted() {
				continue // what another instance left behind before it asked Vault
			}
			if run.Cancel == cancelInterrupted && run.State == pki.RunCancelled && run.Outcome != "" && !run.Owes {
				stopped = report
				before = fmt.Sprintf("the run decided at %s was cancelled and is concluded: %s; ", run.DecidedAt.UTC().Format(timeForm), run.Explanation)
				continue // a person stopped it: what is due is due still
			}
			return report, err
		case r.DryRun:
			report.Reason, err = t.rehearse(ctx, v, p)
			return report, err
		case v.statusErr != nil:
			report.Reason += "; " + v.statusErr.Error()
			return report, v.statusErr
		case v.decision.Settling && r.Wait:
			t.log.Warn("waiting before tidy", "mount", v.mount.Name(), "reason", v.decision.Reason)
			if err := sleep(ctx, v.decision.Until.Sub(t.now())); err != nil {
				return report, err
			}
			continue
		case v.decision.Verdict == pki.Follow:
			report.follows = true
			err = t.adopt(ctx, v)
		case v.decision.Verdict == pki.RunNow:
			err = t.start(ctx, v)
		default:
			if stopped != nil {
				report.Result = stopped.Result
			}
			return report, nil
		}
		if errors.Is(err, pki.ErrConflict) {
			if err := sleep(ctx, pollFirst); err != nil {
				return report, err
			}
			continue
		}
		if err != nil {
			report.Reason += "; " + err.Error()
			return report, err
		}
		if report.Run = !v.record.Run.Foreign; !report.Run && v.decision.Verdict == pki.RunNow {
			report.Reason += "; when Vault was asked, a run was on that is not in the record: somebody else's, or of a pkiwarden with another state"
		}
		_, err = t.settle(ctx, v, report, r)
		return report, err
	}
}

// followed says which run was followed to its end.
func followed(run pki.Run) string {
	if run.Foreign {
		return fmt.Sprintf("a tidy that was not started here was followed to its end, since %s", run.DecidedAt.UTC().Format(timeForm))
	}
	return fmt.Sprintf("a run decided at %s was followed to its end: %s", run.DecidedAt.UTC().Format(timeForm), run.Reason)
}

// settle follows v's open run to its proof, where the request waits for it,
// and completes the report. It returns the run as it is then.
func (t *Tidier) settle(ctx context.Context, v *view, report *Report, r Request) (pki.Run, error) {
	if !r.Wait || r.DryRun {
		return *v.record.Run, nil
	}
	run, err := t.follow(ctx, v, time.Time{}, t.o.Patience)
	if err != nil && ctx.Err() != nil && report.Run {
		report.Left = LeftRunning
		if t.following.lost(t.now()) {
			report.Left = LeftUnknown
		}
		if r.CancelOnInterrupt {
			report.Left = t.stopInterrupted(ctx, v, run.ID)
		}
	}
	_, denied := isDenied(err)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return run, err
	case denied && run.Step == pki.StepRunning:
		return run, fmt.Errorf("%w; the run goes on in Vault, and the next call follows it to the proof", err)
	default:
		return run, fmt.Errorf("%w; nothing was learned of the run for %s: the next call finds out what became of it, and follows it where it goes on", err, t.o.Patience)
	}
	if report.follows {
		report.Reason = followed(run)
	}
	if run.Outcome != pki.OutcomeOK {
		report.Reason += "; afterwards: " + run.Explanation
	}
	if run.After != nil {
		report.Result = &Result{
			State:         run.State,
			Deleted:       run.Deleted,
			EntriesBefore: run.Before.Entries,
			EntriesAfter:  run.After.Entries,
			BytesBefore:   run.Before.Bytes,
			BytesAfter:    run.After.Bytes,
			CRLRotated:    run.Rotated,

			rebuilt: run.Outcome == pki.OutcomeOK,
		}
	}
	switch {
	case run.Owes:
	case run.Foreign, !report.Run && run.NeverStarted(), run.Outcome == pki.OutcomeOK, run.Outcome == pki.OutcomeNoEffect:
		return run, nil
	}
	return run, fmt.Errorf("tidy of mount %s: %s: %s", v.mount.Name(), run.Outcome, run.Explanation)
}
