package tidier

import (
	"context"
	"errors"
	"fmt"

	"github.com/pkiwarden/pkiwarden/pki"
)

// owes tells whether a rotation is owed that may be made up for now.
func (t *Tidier) owes(v *view) bool {
	o := &v.observation
	return v.record.Owed != nil && v.record.Run == nil && t.o.Policy.Rotate &&
		!o.Health.Standby && o.Status != nil && !o.Status.State.Active()
}

// payOwed makes up for a rotation that a run owes, before anything else is
// decided about the mount: it rotates and measures. It tells in words what
// became of it, "" where nothing is owed or it is not its time; with asked it
// always is. The debt stays where its error says why.
func (t *Tidier) payOwed(ctx context.Context, v *view, asked bool) (string, error) {
	if !t.owes(v) || !asked && t.now().Before(v.record.Owed.NextAt) {
		return "", nil
	}
	owed := *v.record.Owed
	if paid, err := t.settleOwed(ctx, v, false); err != nil || paid { // Vault did so itself
		return "", ignoreConflict(err)
	}
	record := v.record
	record.Owed = new(owed.Attempt(t.now()))
	if err := t.saveRecord(ctx, v, record); err != nil {
		return "", ignoreConflict(err) // another instance does it
	}
	t.log.Info("rotating the CRL, which an earlier tidy owes", "mount", v.mount.Name(), "since", owed.Since, "attempt", record.Owed.Attempts)
	before := pki.SizeOf(v.observation.CRLs)
	if err := t.o.Vault.Rotate(ctx, v.mount); err != nil {
		return "", fmt.Errorf("a rotation is owed since the run that ended at %s: %w", owed.Since.UTC().Format(timeForm), err)
	}
	paid, err := t.settleOwed(ctx, v, true)
	if err != nil || !paid {
		return "", ignoreConflict(err)
	}
	after := pki.SizeOf(v.observation.CRLs)
	return fmt.Sprintf("the CRL was rotated, which the run that ended at %s owed: %d entries before, %d after",
		owed.Since.UTC().Format(timeForm), before.Entries, after.Entries), nil
}

// timeForm is how instants are written in words.
const timeForm = "2006-01-02T15:04:05Z07:00"

// settleOwed measures the mount's lists and forgets the debt where they are
// newer than the run that owes them.
func (t *Tidier) settleOwed(ctx context.Context, v *view, rotated bool) (paid bool, err error) {
	crls, err := t.lists(ctx, v.mount, true)
	if err != nil {
		return false, err
	}
	record, paid := v.record.Paid(crls, v.observation.CRLConfig, v.observation.LongestTTL, rotated, t.now())
	if !paid {
		return false, nil
	}
	if err := t.saveRecord(ctx, v, record); err != nil {
		return false, err
	}
	v.observation.CRLs = append([]pki.CRL{}, crls...)
	v.decision = pki.Plan(v.observation, t.o.Policy, t.now())
	return true, nil
}

// payOnce is payOwed for a look that nobody asks for. What fails there is tried
// again later, and a finding until then.
func (t *Tidier) payOnce(ctx context.Context, v *view) error {
	said, err := t.payOwed(ctx, v, false)
	if said != "" {
		t.log.Info(said, "mount", v.mount.Name())
	}
	var tooLarge *pki.TooLargeError
	if err != nil && (refused(err) || errors.As(err, &tooLarge)) && !lostToken(err) {
		t.log.Warn("the CRL is still not rotated", "mount", v.mount.Name(), "error", err)
		return nil
	}
	return err
}
