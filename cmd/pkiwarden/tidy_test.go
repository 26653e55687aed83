package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier"
)

// What may pass by itself is not taken for a failure, which a Job does not try
// again.
func TestTidyExitCodes(t *testing.T) {
	for _, tt := range []struct {
		err  error
		code int
	}{
		{&pki.FailingError{Status: 429, Message: "rate"}, 3},
		{&pki.FailingError{Status: 500, Message: "boom"}, 3},
		{pki.ErrNotVault, 3},
		{pki.ErrUnreachable, 3},
		{pki.ErrSealed, 3},
		{&pki.PermissionError{Path: "pki/tidy-status", Capability: "read"}, 2},
		{&pki.RefusedError{Path: "pki/tidy", Status: 400, Message: "bad"}, 2},
		{errors.New("tidy of mount pki: failed: status 500"), 2},
	} {
		if got := tidyExitCode(errors.Join(fmt.Errorf("reading: %w", tt.err))); got != tt.code {
			t.Errorf("%v: exit code %d, want %d", tt.err, got, tt.code)
		}
	}
}

// What is predicted stands in the table too, whether or not a run was begun.
func TestTidyForAPerson(t *testing.T) {
	var b strings.Builder
	reports := []tidier.Report{
		{Mount: "pki", Reason: "dry run, a run is due", Predicted: pki.Prediction{Reclaimable: 300, BytesAfter: 4106}},
		{Mount: "team", Run: true, Reason: "due", Predicted: pki.Prediction{Reclaimable: 9}, Result: &tidier.Result{State: pki.RunFinished, Deleted: new(int64(8)), EntriesBefore: 10, EntriesAfter: 2, BytesBefore: 600, BytesAfter: 300}},
	}
	if err := writeReports(&b, outputTable, reports); err != nil {
		t.Fatal(err)
	}
	const want = `MOUNT  RUN  STATE     PREDICTED  DELETED  ENTRIES  BYTES       REASON
pki    no   -         300        -        -        -           dry run, a run is due
team   yes  finished  9          8        10 -> 2  600 -> 300  due
`
	if b.String() != want {
		t.Errorf("have\n%s\nwant\n%s", b.String(), want)
	}
}
