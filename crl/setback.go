package crl

import "time"

// Setback is that a list was replaced by an older one that lacks entries, as
// after Vault's storage was restored from a backup: what was revoked in between
// is not revoked any more, and no tidy explains it. A later list is compared with
// the newer one again, see [Loss].
type Setback struct {
	Before time.Time // thisUpdate of the newer list
	At     time.Time // thisUpdate of the older one, which is served now
	Lost   int64     // entries of the newer list that are not in the older one, at the least

	// Buffer is how long after a certificate's end an entry has to stay on the
	// list here: the safety buffer of tidy; 0 where it is not known, which is
	// AssumedSafetyBuffer.
	Buffer time.Duration

	gone [ages]int64 // of those, by age at Before
}

// NewSetback is the setback from the list that left a Mark behind to s: nil where
// s is the newer one, or lacks nothing.
func NewSetback(before Mark, s Summary, c Changes) *Setback {
	if !c.Backwards || c.Removed <= 0 {
		return nil
	}
	return &Setback{Before: time.Unix(before.ThisUpdate, 0), At: s.ThisUpdate, Lost: c.Removed, gone: c.gone}
}

// buffer is Buffer, or what is assumed.
func (b *Setback) buffer() time.Duration {
	if b.Buffer > 0 {
		return b.Buffer
	}
	return AssumedSafetyBuffer
}

// due counts the lost entries that ought to be listed now, at the least: Vault
// revokes what has not expired, so what was revoked less than the buffer ago
// stays for longer, whenever its certificate ends.
func (b *Setback) due(now time.Time) int64 {
	since := int64(now.Sub(b.Before) / time.Second)
	var n int64
	for class, gone := range b.gone[:ages-1] {
		if since+oldest(class) < int64(b.buffer()/time.Second) {
			n += gone
		}
	}
	return n
}
