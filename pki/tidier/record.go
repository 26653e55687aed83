package tidier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

// maxRecord is what a record may take in the state.
const maxRecord = 64 << 10

// maxText caps each text that comes from outside and is kept in a record.
const maxText = 400

// stateless is the state of a tidier without one.
type stateless struct{}

func (stateless) Get(context.Context, string) ([]byte, string, error) { return nil, "", nil }

func (stateless) Put(context.Context, string, []byte, string) (string, error) {
	return "", errors.New("there is no state to keep a run's record in: set state in the configuration")
}

// stateKind is the kind of a mount's record in the state.
const stateKind = "tidy"

// load reads the mount's record into v.
func (t *Tidier) load(ctx context.Context, v *view) error {
	data, version, err := t.o.State.Get(ctx, v.key)
	if err != nil {
		return fmt.Errorf("reading tidy record of mount %s: %w", v.mount.Name(), err)
	}
	record := pki.Record{Version: pki.RecordVersion, Mount: v.mount.Name()}
	if data != nil {
		record = pki.Record{}
		if err := json.Unmarshal(data, &record); err != nil {
			return fmt.Errorf("reading tidy record of mount %s: decoding %s (delete it to begin anew): %w", v.mount.Name(), t.where(v.key), err)
		}
		if record.Version != pki.RecordVersion {
			return fmt.Errorf("reading tidy record of mount %s: %s has version %d, this pkiwarden knows version %d: run one version only, or delete it",
				v.mount.Name(), t.where(v.key), record.Version, pki.RecordVersion)
		}
	}
	v.record, v.version = record, version
	t.remember(v)
	return nil
}

// where names what a key of the state is kept in, for a person.
func (t *Tidier) where(key string) string {
	if kept, ok := t.o.State.(interface{ Where(key string) string }); ok {
		return kept.Where(key)
	}
	return fmt.Sprintf("state %q", key)
}

// remember keeps v's record, which is the one in the state.
func (t *Tidier) remember(v *view) {
	k := t.memory(v.mount)
	k.record, k.version, k.recordAt = v.record, v.version, t.now()
}

// save writes record as the mount's, provided that it is still as v has it,
// and makes it v's. Its error wraps [pki.ErrConflict] where it is not: then v
// is as before.
func (t *Tidier) save(ctx context.Context, v *view, record pki.Record) error {
	data, err := encode(record)
	if err != nil {
		return fmt.Errorf("writing tidy record of mount %s: %w", v.mount.Name(), err)
	}
	version, err := t.o.State.Put(ctx, v.key, data, v.version)
	if err != nil {
		t.memory(v.mount).recordAt = time.Time{} // it is another one, or may be
		return fmt.Errorf("writing tidy record of mount %s: %w", v.mount.Name(), err)
	}
	v.record, v.version = record, version
	t.remember(v)
	return nil
}

// saveRun is save with the open run replaced.
func (t *Tidier) saveRun(ctx context.Context, v *view, run pki.Run) error {
	record := v.record
	record.Run = &run
	return t.save(ctx, v, record)
}

// encode leaves out the oldest runs where the record would be too long.
func encode(record pki.Record) ([]byte, error) {
	for {
		data, err := json.Marshal(record)
		if err != nil || len(data) <= maxRecord {
			return data, err
		}
		if len(record.History) == 0 {
			return nil, fmt.Errorf("record takes %d bytes, %d are allowed", len(data), maxRecord)
		}
		record.History = record.History[1:]
	}
}

// shorten cuts text to what a record keeps.
func shorten(text string) string {
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + " …"
}
