package tidier

import (
	"context"
	"fmt"

	"github.com/pkiwarden/pkiwarden/pki"
)

// own switches the mount's own auto-tidy off where that is configured and
// nothing is lost by it. What it was is written down first, so that it can be
// given back whatever happens. A missing right is a finding, no error.
func (t *Tidier) own(ctx context.Context, v *view) error {
	o := &v.observation
	switch {
	case !t.o.Policy.OwnAutoTidy:
		return t.disown(ctx, v)
	case o.AutoTidy == nil || !o.AutoTidy.Enabled:
		return nil
	}
	if _, may := pki.MayOwn(*o, t.o.Policy); !may {
		return nil
	}
	auto, err := t.o.Vault.AutoTidy(ctx, v.mount) // what is remembered may be old
	if err != nil {
		return note(o, err)
	}
	o.AutoTidy = &auto
	reason, may := pki.MayOwn(*o, t.o.Policy)
	if !may {
		return nil
	}
	record := v.record
	record.AutoTidy = &pki.OwnedAutoTidy{Was: auto, At: t.now(), Reason: reason, Holder: t.holder}
	if err := t.saveRecord(ctx, v, record); err != nil {
		return ignoreConflict(err)
	}
	if err := t.o.Vault.DisableAutoTidy(ctx, v.mount); err != nil {
		return note(o, err)
	}
	after, err := t.o.Vault.AutoTidy(ctx, v.mount)
	if err != nil {
		return note(o, err)
	}
	o.AutoTidy = &after
	if config := &t.memory(v.mount).config; config.auto != nil {
		config.auto = &after
	}
	if after.Enabled {
		return fmt.Errorf("switching off auto-tidy of mount %s: it is on afterwards", v.mount.Name())
	}
	t.log.Info("the mount's own auto-tidy is switched off", "mount", v.mount.Name(), "reason", reason,
		"interval", auto.Interval, "safety_buffer", auto.SafetyBuffer)
	owned := *v.record.AutoTidy
	owned.OffAt = t.now()
	record.AutoTidy = &owned
	return ignoreConflict(t.saveRecord(ctx, v, record))
}

// disown forgets what the mount's own auto-tidy was once somebody has switched
// it on again.
func (t *Tidier) disown(ctx context.Context, v *view) error {
	if v.record.AutoTidy == nil || v.observation.AutoTidy == nil || !v.observation.AutoTidy.Enabled {
		return nil
	}
	record := v.record
	record.AutoTidy = nil
	return ignoreConflict(t.saveRecord(ctx, v, record))
}

// saveRecord is save, for what is observed as well.
func (t *Tidier) saveRecord(ctx context.Context, v *view, record pki.Record) error {
	if err := t.save(ctx, v, record); err != nil {
		return err
	}
	v.observation.Record = v.record
	return nil
}
