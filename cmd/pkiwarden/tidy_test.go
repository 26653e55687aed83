package main

import (
	"errors"
	"fmt"
	"testing"

	"github.com/pkiwarden/pkiwarden/pki"
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
