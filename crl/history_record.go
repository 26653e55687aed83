package crl

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"strings"
	"time"
)

// MaxHistoryRecord is what a [HistoryRecord] may take. A list takes 2 to 4 KiB
// of it with its whole history, below 2 KiB with one sample a day.
const MaxHistoryRecord = 64 << 10

const (
	historyVersion = 1
	// maxSamples bounds what is decoded; a History has far fewer.
	maxSamples = 1 << 12
	// maxLabel bounds the names that people gave and that a record repeats.
	maxLabel = 200
)

// HistoryRecord is what is remembered of the lists of one mount, as it is
// stored: a JSON object with a version.
type HistoryRecord struct {
	Mount string                // its name, for a person who reads this
	Lists map[string]ListRecord // by [HistoryKey]
	// TidiedAt is when a tidy was last known to be on, as Unix time, 0 for never:
	// Vault forgets it when it restarts.
	TidiedAt int64
}

// ListRecord is what is remembered of one list.
type ListRecord struct {
	Issuer  string  `json:"issuer,omitempty"` // its label, for a person who reads this
	History History `json:"history"`
	Mark    *Mark   `json:"mark,omitempty"` // of the last list, to compare the next one with
	Loss    *Loss   `json:"loss,omitempty"` // of entries that have not come back
	Sight   Sight   `json:"sight,omitzero"`
}

// Sight is when a list was last there, and since when it is not. Times are Unix
// times, 0 what is not known. The zero Sight is of a list that was not seen since
// this is remembered.
type Sight struct {
	Seen       int64 `json:"seen"`
	NextUpdate int64 `json:"next,omitempty"` // of the list
	Gone       int64 `json:"gone,omitempty"` // when it was missed; 0 while it is there
}

// over tells whether s is the one to keep of the two: that of the later look.
func (s Sight) over(other Sight) bool {
	return cmp.Or(cmp.Compare(max(s.Seen, s.Gone), max(other.Seen, other.Gone)), cmp.Compare(s.Gone, other.Gone),
		cmp.Compare(s.Seen, other.Seen), cmp.Compare(s.NextUpdate, other.NextUpdate)) > 0
}

// HistoryKey is the key of the list of an issuer: in hexadecimal, the SHA-256
// of the DER of its name and of its key. Vault keeps one list for each such
// pair, however many issuers share it.
func HistoryKey(rawSubject, rawSubjectPublicKeyInfo []byte) string {
	h := sha256.New()
	h.Write(rawSubject)
	h.Write(rawSubjectPublicKeyInfo) // both are DER, which says where it ends
	return hex.EncodeToString(h.Sum(nil))
}

// Merge is what both remember: for a record that somebody else has written
// between reading and writing. It is commutative, associative and idempotent.
func (r HistoryRecord) Merge(other HistoryRecord) HistoryRecord {
	merged := HistoryRecord{Mount: max(r.Mount, other.Mount), Lists: map[string]ListRecord{}, TidiedAt: max(r.TidiedAt, other.TidiedAt)}
	maps.Copy(merged.Lists, r.Lists)
	for key, l := range other.Lists {
		merged.Lists[key] = merged.Lists[key].merge(l)
	}
	return merged
}

func (l ListRecord) merge(other ListRecord) ListRecord {
	merged := ListRecord{Issuer: l.Issuer, History: l.History.Merge(other.History), Mark: l.Mark, Loss: l.Loss, Sight: l.Sight}
	mine, _ := l.History.Latest()
	theirs, _ := other.History.Latest()
	if c := mine.compare(theirs); c < 0 || c == 0 && l.Issuer < other.Issuer {
		merged.Issuer = other.Issuer
	}
	if other.Mark.after(l.Mark) {
		merged.Mark = other.Mark
	}
	if other.Loss.over(l.Loss) {
		merged.Loss = other.Loss
	}
	if other.Sight.over(l.Sight) {
		merged.Sight = other.Sight
	}
	return merged
}

// after tells whether m is the one to keep of the two: that of the later list.
func (m *Mark) after(other *Mark) bool {
	if m == nil || other == nil {
		return m != nil
	}
	if c := cmp.Or(cmp.Compare(m.ThisUpdate, other.ThisUpdate), cmp.Compare(m.Entries, other.Entries)); c != 0 {
		return c > 0
	}
	a, errA := json.Marshal(m)
	b, errB := json.Marshal(other)
	return errA == nil && errB == nil && bytes.Compare(a, b) > 0
}

// storedRecord is the JSON form.
type storedRecord struct {
	Version  int                   `json:"version"`
	Mount    string                `json:"mount,omitempty"`
	TidiedAt int64                 `json:"tidied,omitempty"`
	Lists    map[string]ListRecord `json:"lists"`
}

// Encode is the stored form, of at most maxBytes. Where it would be longer, all
// lists keep one sample a day only; where it still would, the least important
// ones are left out, and their keys returned, the least important first: those
// that have been gone for more than a day, then those that are there, and last
// those that are gone or have lost entries, unless these fill half of it; among
// them those that were not seen for a week before the one seen last, then the
// smallest, which are farthest from a limit.
func (r HistoryRecord) Encode(maxBytes int) (data []byte, dropped []string, err error) {
	stored := storedRecord{Version: historyVersion, Mount: cut(r.Mount), TidiedAt: r.TidiedAt, Lists: map[string]ListRecord{}}
	for key, l := range r.Lists {
		if len(l.History.samples) == 0 {
			continue // nothing is remembered of it
		}
		l.Issuer = cut(l.Issuer)
		stored.Lists[key] = l
	}
	data, err = json.Marshal(stored)
	if err != nil || len(data) <= maxBytes {
		return data, nil, err
	}
	for key, l := range stored.Lists {
		l.History.samples = thin(l.History.samples, []tier{tiers[0], tiers[len(tiers)-1]})
		stored.Lists[key] = l
	}
	if data, err = json.Marshal(stored); err != nil {
		return nil, nil, err
	}
	size := len(data)
	for _, key := range stored.unimportant(maxBytes) {
		if size <= maxBytes {
			break
		}
		one, err := json.Marshal(stored.Lists[key])
		if err != nil {
			return nil, nil, err
		}
		size -= len(one) + len(key) + len(`"":,`)
		delete(stored.Lists, key)
		dropped = append(dropped, key)
	}
	if data, err = json.Marshal(stored); err == nil && len(data) > maxBytes {
		return nil, dropped, fmt.Errorf("encoding CRL history: %d bytes are not enough for a record without lists", maxBytes)
	}
	return data, dropped, err
}

// unimportant are the keys of the lists, the most important last: before all,
// as far as half of maxBytes takes them, those that carry a finding, which is
// about to be forgotten otherwise; then those that are there; last those that are
// gone. Within each, see Encode.
func (r storedRecord) unimportant(maxBytes int) []string {
	var last time.Time
	for _, l := range r.Lists {
		for _, at := range []time.Time{l.History.SeenAt(), time.Unix(max(l.Sight.Seen, l.Sight.Gone), 0)} {
			if at.After(last) {
				last = at
			}
		}
	}
	seen := func(l ListRecord) time.Time {
		if at := l.History.SeenAt(); last.Sub(at) > week*oneDay {
			return at
		}
		return last
	}
	rank := map[string]int{}
	order := func(a, b string) int {
		x, y := r.Lists[a], r.Lists[b]
		sizeX, _ := x.History.Latest()
		sizeY, _ := y.History.Latest()
		return cmp.Or(cmp.Compare(rank[a], rank[b]), seen(x).Compare(seen(y)), cmp.Compare(sizeX.Bytes, sizeY.Bytes), strings.Compare(a, b))
	}
	for key, l := range r.Lists {
		missed := last.Sub(time.Unix(l.Sight.Gone, 0)) < vanishedFor
		switch {
		case l.Sight.Gone > 0 && missed || l.Loss.Current(last):
			rank[key] = 2
		case l.Sight.Gone == 0:
			rank[key] = 1
		}
	}
	keys := slices.SortedFunc(maps.Keys(r.Lists), order)
	size := 0
	for _, key := range slices.Backward(keys) {
		if rank[key] < 2 {
			break
		}
		one, err := json.Marshal(r.Lists[key])
		if size += len(one); err != nil || size > maxBytes/2 {
			if rank[key] = 0; r.Lists[key].Sight.Gone == 0 {
				rank[key] = 1
			}
		}
	}
	slices.SortFunc(keys, order)
	return keys
}

func cut(label string) string {
	if len(label) <= maxLabel {
		return label
	}
	return strings.ToValidUTF8(label[:maxLabel], "") + "…"
}

// ParseHistoryRecord reads what Encode wrote. What another version wrote, or
// what was damaged since, is an error, and never taken for an empty record.
func ParseHistoryRecord(data []byte) (HistoryRecord, error) {
	fail := func(err error) (HistoryRecord, error) {
		return HistoryRecord{}, fmt.Errorf("reading CRL history (delete the record to begin anew): %w", err)
	}
	if err := checkVersion(data); err != nil {
		return fail(err)
	}
	var stored storedRecord
	if err := json.Unmarshal(data, &stored); err != nil {
		return fail(fmt.Errorf("it is damaged: %w", err))
	}
	for key, l := range stored.Lists {
		if raw, err := hex.DecodeString(key); err != nil || len(raw) != sha256.Size {
			return fail(fmt.Errorf("it is damaged: %.100q is no key of a list", key))
		}
		if len(l.History.samples) == 0 {
			return fail(fmt.Errorf("it is damaged: list %s has no samples", key))
		}
		if l.Mark != nil && !l.Mark.usable() {
			l.Mark = nil // of another version: counting begins anew, which is said by the counts
		}
		if !l.Loss.usable() {
			l.Loss = nil
		}
		stored.Lists[key] = l
	}
	if stored.Lists == nil {
		return fail(errors.New(`it is damaged: it has no "lists"`))
	}
	return HistoryRecord{Mount: stored.Mount, Lists: stored.Lists, TidiedAt: stored.TidiedAt}, nil
}

// checkVersion looks at the version alone, since what another one wrote need
// not look like ours.
func checkVersion(data []byte) error {
	var v struct {
		Version int `json:"version"`
	}
	switch err := json.Unmarshal(data, &v); {
	case err != nil:
		return fmt.Errorf("it is damaged: %w", err)
	case v.Version == 0:
		return errors.New(`it is damaged: it has no "version"`)
	case v.Version != historyVersion:
		return fmt.Errorf("it has version %d, this pkiwarden knows version %d: run one version only", v.Version, historyVersion)
	}
	return nil
}

// storedHistory is the JSON form of a History. Samples is base64 without
// padding: for each sample the differences to the one before it as varints,
// then the CRC-32 of all that.
type storedHistory struct {
	Version int    `json:"version"`
	Samples string `json:"samples"`
}

// MarshalJSON writes a versioned form, which differs only where histories do.
func (h History) MarshalJSON() ([]byte, error) {
	var b []byte
	var last [8]int64
	for _, s := range h.samples {
		row := s.row()
		for i, n := range row {
			b = binary.AppendVarint(b, n-last[i])
		}
		last = row
	}
	if len(b) > 0 {
		b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	}
	return json.Marshal(storedHistory{historyVersion, base64.RawStdEncoding.EncodeToString(b)})
}

// row is a sample as numbers.
func (s Sample) row() [8]int64 {
	counted := int64(0)
	if !s.CountedFrom.IsZero() {
		counted = s.CountedFrom.Unix()
	}
	// The hours that the list was current for: mostly none, which is one octet.
	hours := s.At.Unix()/3600 - s.ThisUpdate.Unix()/3600
	return [8]int64{s.ThisUpdate.Unix(), hours, s.Number, s.Bytes, s.Entries, counted, s.Added, s.Removed}
}

func sampleOf(row [8]int64) Sample {
	s := Sample{
		ThisUpdate: time.Unix(row[0], 0), At: time.Unix((row[0]/3600+row[1])*3600, 0),
		Number: row[2], Bytes: row[3], Entries: row[4], Added: row[6], Removed: row[7],
	}
	s.CountedFrom = time.Unix(row[5], 0)
	return s.normal()
}

// UnmarshalJSON reads what MarshalJSON wrote; anything else is an error.
func (h *History) UnmarshalJSON(data []byte) error {
	if err := checkVersion(data); err != nil {
		return fmt.Errorf("reading samples: %w", err)
	}
	var stored storedHistory
	if err := json.Unmarshal(data, &stored); err != nil {
		return fmt.Errorf("reading samples: it is damaged: %w", err)
	}
	samples, err := decodeSamples(stored.Samples)
	if err != nil {
		return fmt.Errorf("reading samples: it is damaged: %w", err)
	}
	h.samples = samples
	return nil
}

func decodeSamples(text string) ([]Sample, error) {
	if text == "" {
		return nil, nil
	}
	b, err := base64.RawStdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, err
	}
	at := len(b) - crc32.Size
	if at <= 0 || crc32.ChecksumIEEE(b[:at]) != binary.BigEndian.Uint32(b[at:]) {
		return nil, errors.New("its checksum is wrong")
	}
	b = b[:at]
	var samples []Sample
	var row [8]int64
	for len(b) > 0 {
		for i := range row {
			difference, n := binary.Varint(b)
			if n <= 0 {
				return nil, fmt.Errorf("sample %d is cut short", len(samples))
			}
			row[i] += difference
			b = b[n:]
		}
		s := sampleOf(row)
		switch n := len(samples); {
		case n == maxSamples:
			return nil, fmt.Errorf("it has more than %d samples", maxSamples)
		case !s.valid():
			return nil, fmt.Errorf("sample %d is none", n)
		case n > 0 && samples[n-1].compare(s) >= 0:
			return nil, fmt.Errorf("sample %d is out of order", n)
		}
		samples = append(samples, s)
	}
	return samples, nil
}
