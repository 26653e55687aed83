package pki_test

import (
	"strings"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

func TestChoosePause(t *testing.T) {
	const ms = time.Millisecond
	tests := []struct {
		name string
		in   pki.PauseInput
		want time.Duration
		says string
	}{
		{"nothing known", pki.PauseInput{}, 10 * ms, "10ms before each of 0 revocations: the usual pause"},
		{"few entries, fast", pki.PauseInput{Revocations: 1000, Certificates: 5000, Read: 300 * time.Microsecond, Within: 30 * time.Minute}, 10 * ms,
			"10ms before each of 1000 revocations and 5000 certificates: the usual pause; about 1m0s in all"}, // 6,000 × 10.3 ms = 61.8 s
		{"a slow Vault", pki.PauseInput{Revocations: 1000, Read: 6100 * time.Microsecond, Within: 30 * time.Minute}, 25 * ms, // 4 × 6.1 ms, rounded up
			"25ms before each of 1000 revocations: Vault takes 6.1ms for a small read; about 31s in all"},
		{"a very slow one", pki.PauseInput{Revocations: 1000, Read: 200 * ms, Within: 30 * time.Minute}, 50 * ms, "200ms for a small read"},
		{"many entries", pki.PauseInput{Revocations: 100_000, Certificates: 200_000, Read: 500 * time.Microsecond, Within: 30 * time.Minute}, 5 * ms, // 1800 s / 300,000 = 6 ms, less 0.5, whole
			"5ms before each of 100000 revocations and 200000 certificates: to be through within 30m0s"},
		{"too many for any pause", pki.PauseInput{Revocations: 10_000_000, Read: ms, Within: 30 * time.Minute}, ms, "to be through within"},
		{"an unknown number", pki.PauseInput{Revocations: 100_000, Certificates: -1, Within: 15 * time.Minute}, 4 * ms, // 900 s / 200,000 = 4.5 ms
			"4ms before each of 100000 revocations and the certificates stored, counted as often"},
		{"no limit", pki.PauseInput{Revocations: 10_000_000}, 10 * ms, "usual"},
		{"slowed once", pki.PauseInput{Revocations: 10, Slower: 1}, 20 * ms, "the usual pause, doubled once because Vault got slow during earlier runs"},
		{"slowed against the time", pki.PauseInput{Revocations: 10_000_000, Within: time.Minute, Slower: 2}, 4 * ms, "doubled 2 times"},
		{"slowed for long", pki.PauseInput{Revocations: 10, Read: 200 * ms, Slower: 50}, 500 * ms, "doubled 5 times"}, // 50 ms × 32, bounded
	}
	for _, tt := range tests {
		got := pki.ChoosePause(tt.in)
		if got.Each != tt.want || !strings.Contains(got.Reason, tt.says) {
			t.Errorf("%s: %s, %s; want %s, … %s …", tt.name, got.Each, got.Reason, tt.want, tt.says)
		}
	}
}

func TestFixedPause(t *testing.T) {
	tests := []struct {
		set    time.Duration
		slower int
		want   time.Duration
	}{
		{0, 0, 0},
		{0, 1, 2 * time.Millisecond},
		{10 * time.Millisecond, 0, 10 * time.Millisecond},
		{10 * time.Millisecond, 3, 80 * time.Millisecond},
		{2 * time.Second, 3, 2 * time.Second}, // who sets that much gets no more
		{400 * time.Millisecond, 3, 500 * time.Millisecond},
	}
	for _, tt := range tests {
		if got := pki.FixedPause(tt.set, tt.slower); got.Each != tt.want {
			t.Errorf("%s slowed %d times: %s, want %s", tt.set, tt.slower, got.Each, tt.want)
		}
	}
}

func TestDegraded(t *testing.T) {
	const ms = time.Millisecond
	tests := []struct {
		usual, now time.Duration
		want       string // "": it is not
	}{
		{0, 30 * time.Second, ""}, // nothing to compare with
		{2 * ms, 0, ""},
		{2 * ms, 400 * ms, ""},    // nobody waits for that
		{200 * ms, 900 * ms, ""},  // always slow
		{200 * ms, 1000 * ms, ""}, // five times, not more
		{1500 * time.Microsecond, 30 * time.Second, "Vault answers small reads in 30s, usually in 1.5ms"},
		{200 * ms, 1001 * ms, "Vault answers small reads in 1.001s, usually in 200ms"},
	}
	for _, tt := range tests {
		why, degraded := pki.Load{Usual: tt.usual, Now: tt.now}.Degraded()
		if why != tt.want || degraded != (tt.want != "") {
			t.Errorf("%s, usually %s: %t, %q; want %q", tt.now, tt.usual, degraded, why, tt.want)
		}
	}
}

func TestProgress(t *testing.T) {
	tests := []struct {
		message string
		want    pki.Progress
		ok      bool
	}{
		{"Tidying certificate store: checking entry 0 of 61", pki.Progress{Phase: pki.PhaseCertStore, Total: 61}, true},
		{"Tidying revoked certificates: checking certificate 40 of 60", pki.Progress{Phase: pki.PhaseRevoked, Done: 40, Total: 60}, true},
		{"", pki.Progress{}, false},
		{"Tidying something new: checking entry 1 of 2", pki.Progress{}, false},
		{"Tidying certificate store: checking entry x of 61", pki.Progress{}, false},
		{"Tidying certificate store: checking entry 7 of 6", pki.Progress{}, false},
		{"Tidying certificate store: checking entry -7 of 6", pki.Progress{}, false},
	}
	for _, tt := range tests {
		if got, ok := (pki.TidyStatus{Message: tt.message}).Progress(); got != tt.want || ok != tt.ok {
			t.Errorf("%q: %+v, %t; want %+v, %t", tt.message, got, ok, tt.want, tt.ok)
		}
	}
	at := func(done int64) pki.Progress { return pki.Progress{Phase: pki.PhaseRevoked, Done: done, Total: 100} }
	if got := at(60).Left(at(40), 10*time.Second); got != 20*time.Second { // 20 in 10 s, 40 left
		t.Errorf("%s left, want 20s", got)
	}
	for _, from := range []pki.Progress{at(60), at(70), {Phase: pki.PhaseCertStore, Done: 1, Total: 100}} {
		if got := at(60).Left(from, 10*time.Second); got != 0 {
			t.Errorf("%s left since %+v, want unknown", got, from)
		}
	}
	if got := at(25).Share(); got != 0.25 {
		t.Errorf("share %v", got)
	}
	if got := (pki.Progress{}).Share(); got != 0 {
		t.Errorf("share of nothing %v", got)
	}
}
