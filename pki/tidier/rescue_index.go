package tidier

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/pkiwarden/pkiwarden/pki"
)

// maxRescued is how many revocations a rescue takes on: each takes about 60
// octets of memory.
const maxRescued = 500_000

// What is known of where a revocation belongs, besides the list's number.
const (
	anyList = -1 // not known: it may be on any list
	noList  = -2 // Vault puts it on none
)

// held is one revocation.
type held struct {
	at       uint32 // of its serial number
	octets   uint16
	list     int16 // the list that it belongs on, or anyList, or noList
	notAfter int64 // of its certificate, Unix seconds; 0: not known

	served   bool // on a list when the rescue began
	kept     bool // kept by Vault, as last listed
	known    bool // its certificate was asked for
	unstored bool // Vault has no such certificate
	listed   bool // on the list that it belongs on, as last fetched
}

// index is revocations by serial number, in little memory.
type index struct {
	serials []byte // magnitudes, one after the other
	held    []held
	sorted  int // so many of held are in order, and each but once
}

func (x *index) serial(h held) []byte { return x.serials[h.at : h.at+uint32(h.octets)] }

// find returns nil where there is none, and does not see what was added since
// the last call of sort.
func (x *index) find(serial []byte) *held {
	i, found := slices.BinarySearchFunc(x.held[:x.sorted], serial, func(h held, s []byte) int { return bytes.Compare(x.serial(h), s) })
	if !found {
		return nil
	}
	return &x.held[i]
}

// add takes a serial number that find does not know, with what is known of it.
func (x *index) add(serial []byte, h held) error {
	if len(x.held) >= 2*maxRescued { // on lists, and kept
		return tooMany()
	}
	if len(serial) > 1<<15 {
		return fmt.Errorf("a serial number of %d octets", len(serial))
	}
	h.at, h.octets = uint32(len(x.serials)), uint16(len(serial))
	x.serials = append(x.serials, serial...)
	x.held = append(x.held, h)
	return nil
}

func tooMany() error {
	return fmt.Errorf("there are more than %d revocations, which a rescue does not take on: raise the limit, or tidy with pkiwarden tidy", maxRescued)
}

// sort puts what was added in its place. What was added twice is once.
func (x *index) sort() error {
	slices.SortStableFunc(x.held, func(a, b held) int { return bytes.Compare(x.serial(a), x.serial(b)) })
	merged := x.held[:0]
	kept := 0
	for _, h := range x.held {
		if n := len(merged); n > 0 && bytes.Equal(x.serial(merged[n-1]), x.serial(h)) {
			merged[n-1].served = merged[n-1].served || h.served
			merged[n-1].kept = merged[n-1].kept || h.kept
			continue
		}
		merged = append(merged, h)
	}
	for _, h := range merged {
		if h.kept {
			kept++
		}
	}
	x.held, x.sorted = merged, len(merged)
	if kept > maxRescued {
		return tooMany()
	}
	return nil
}

// each calls f with every one in turn, which may change it.
func (x *index) each(f func(*held)) {
	for i := range x.held {
		f(&x.held[i])
	}
}

// text is a serial number as Vault writes it.
func (x *index) text(h held) string {
	digits := hex.EncodeToString(x.serial(h))
	var b strings.Builder
	for i := 0; i < len(digits); i += 2 {
		if i > 0 {
			b.WriteByte(':')
		}
		b.WriteString(digits[i : i+2])
	}
	return b.String()
}

// entryBytes is the DER length of its entry in a list.
func (x *index) entryBytes(h held) int64 {
	octets := int64(h.octets)
	if serial := x.serial(h); len(serial) > 0 && serial[0] >= 0x80 {
		octets++ // so that it is not read as negative
	}
	return pki.EntrySize(octets)
}

// magnitude is the contents of an INTEGER as Vault writes serial numbers.
func magnitude(serial []byte) []byte {
	for len(serial) > 1 && serial[0] == 0 {
		serial = serial[1:]
	}
	return serial
}

// parseSerial reads a serial number as Vault writes it, with colons or hyphens.
func parseSerial(text string) ([]byte, error) {
	octets, err := hex.DecodeString(strings.NewReplacer(":", "", "-", "").Replace(text))
	if err != nil || len(octets) == 0 {
		return nil, fmt.Errorf("serial number %q is not octets in hexadecimal", text)
	}
	return magnitude(octets), nil
}
