package crl

// Tally counts what changed from one list to a later one in memory that does
// not grow with the lists.
type Tally struct{}

// begin is called before the first entry, with thisUpdate as Unix time.
func (t *Tally) begin(thisUpdate int64) {}

// add is called with each entry: the contents of its serial number's INTEGER,
// which change after it returns, and its date as Unix time.
func (t *Tally) add(serial []byte, at int64) {}
