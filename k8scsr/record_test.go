package k8scsr

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

// keptRecord is a record as it is written while a request is under way.
func keptRecord() Record {
	return Record{
		Version: 1, Wanted: strings.Repeat("ab", 32), CSRName: "pkiwarden-vault-tls-mfrggzdfmztwq2lk", CSRUID: "6f2e",
		PodUIDs: []string{"pod-1"}, StoredAt: epoch, Replace: "none", Attempts: []Attempt{{At: epoch}, {At: epoch, Failed: true}},
		Failures: 3, RetryAt: epoch.Add(time.Minute), LastFailure: &Failure{Rule: RuleDenied, Summary: "no", At: epoch, Wanted: "ab"},
	}
}

func TestRecordsAreChecked(t *testing.T) {
	if got, err := keptRecord().Checked(epoch); err != nil || !reflect.DeepEqual(got, keptRecord()) {
		t.Errorf("a good one: %v, %+v", err, got)
	}
	if _, err := keptRecord().Checked(epoch.Add(-24 * time.Hour)); err != nil {
		t.Errorf("a clock that jumped back a day: %v", err)
	}
	for _, edit := range []func(*Record){
		func(r *Record) { r.Replace = strings.Repeat("0a", 32) },
		func(r *Record) { r.CSRName = "pkiwarden-vault.tls-1-" + strings.Repeat("a", 231) },
	} {
		r := keptRecord()
		edit(&r)
		if _, err := r.Checked(epoch); err != nil {
			t.Errorf("a good one: %v", err)
		}
	}
	if _, err := (Record{Version: 1}).Checked(epoch); err != nil {
		t.Errorf("an empty one: %v", err)
	}
	for _, tc := range []struct {
		says string
		edit func(*Record)
	}{
		{"version is 2", func(r *Record) { r.Version = 2 }},
		{"failures is -1", func(r *Record) { r.Failures = -1 }},
		{"failures is 9223372036854775807", func(r *Record) { r.Failures = 1<<63 - 1 }},
		{"attempts has 2000 entries", func(r *Record) { r.Attempts = make([]Attempt, 2000) }},
		{"podUIDs has 9 entries", func(r *Record) { r.PodUIDs = make([]string, 9) }},
		{`replace is "latest"`, func(r *Record) { r.Replace = "latest" }},
		{`csrName is "pkiwarden-UPPER CASE%"`, func(r *Record) { r.CSRName = "pkiwarden-UPPER CASE%" }},
		{`csrName is "pkiwarden-a/b"`, func(r *Record) { r.CSRName = "pkiwarden-a/b" }},
		{`csrName is "pkiwarden-a..b"`, func(r *Record) { r.CSRName = "pkiwarden-a..b" }},
		{`csrName is "pkiwarden-a.-b"`, func(r *Record) { r.CSRName = "pkiwarden-a.-b" }},
		{`csrName is "pkiwarden-"`, func(r *Record) { r.CSRName = "pkiwarden-" }},
		{`csrName is "pkiwarden-aXb"`, func(r *Record) { r.CSRName = "pkiwarden-aXb" }},
		{`replace is`, func(r *Record) { r.Replace = strings.Repeat("0", 63) + "G" }},
		{`csrName is "somebody-elses"`, func(r *Record) { r.CSRName = "somebody-elses" }},
		{"csrName is", func(r *Record) { r.CSRName = "pkiwarden-" + strings.Repeat("a", 244) }},
		{"2026-03-11T12:00:00Z", func(r *Record) { r.StoredAt = epoch.Add(240 * time.Hour) }},
		{"2026-03-11T12:00:00Z", func(r *Record) { r.RetryAt = epoch.Add(240 * time.Hour) }},
		{"2026-03-11T12:00:00Z", func(r *Record) { r.Attempts[1].At = epoch.Add(240 * time.Hour) }},
		{"2026-03-11T12:00:00Z", func(r *Record) { r.LastFailure.At = epoch.Add(240 * time.Hour) }},
		{"has 5000 octets", func(r *Record) { r.PodUIDs[0] = strings.Repeat("x", 5000) }},
		{"has 5000 octets", func(r *Record) { r.LastFailure.Wanted = strings.Repeat("x", 5000) }},
	} {
		r := keptRecord()
		tc.edit(&r)
		if got, err := r.Checked(epoch); err == nil || !strings.Contains(err.Error(), tc.says) || !reflect.DeepEqual(got, Record{}) {
			t.Errorf("want %q, got %v, %+v", tc.says, err, got)
		}
	}
}

// TestRecordsFitIntoAnAnnotation: whatever somebody else wrote about the
// failure.
func TestRecordsFitIntoAnAnnotation(t *testing.T) {
	long := Failure{Rule: RuleDenied, Summary: strings.Repeat("no\x1b[2J", 80_000), At: epoch}
	kept := keptRecord()
	kept.LastFailure = &long
	read, err := kept.Checked(epoch)
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]Record{"read": read, "written": keptRecord().fail(long, epoch)} {
		text, err := json.Marshal(r)
		if err != nil || len(text) > 4096 || strings.Contains(r.LastFailure.Summary, "\x1b") || !strings.HasPrefix(r.LastFailure.Summary, "no?[2Jno") {
			t.Errorf("%s: %d octets, %v, %.40q", name, len(text), err, r.LastFailure.Summary)
		}
	}
	if len(long.Summary) != 80_000*6 {
		t.Error("the failure itself was changed")
	}
}

// TestFailuresThatCannotBe: no number of them makes the next wait anything but
// one from a minute to half an hour.
func TestFailuresThatCannotBe(t *testing.T) {
	for failures, want := range map[int]time.Duration{-1 << 63: time.Minute, -1: time.Minute, 0: time.Minute, 1: 2 * time.Minute,
		4: 16 * time.Minute, 5: 30 * time.Minute, 64: 30 * time.Minute, 1<<63 - 1: 30 * time.Minute} {
		r := Record{Version: 1, Failures: failures}.fail(Failure{}, epoch)
		if wait := r.RetryAt.Sub(epoch); wait != want || r.Failures < 1 {
			t.Errorf("after %d failures it waits %v, want %v; then %d", failures, wait, want, r.Failures)
		}
		if _, err := r.Checked(epoch); err != nil {
			t.Errorf("after %d failures the record is damaged: %v", failures, err)
		}
	}
}

func TestParseIssuedAt(t *testing.T) {
	for text, want := range map[string]time.Time{
		"2026-03-01T12:00:00Z":      epoch,
		"2026-03-01T13:05:00+01:00": epoch.Add(5 * time.Minute),
		"2026-03-01T12:05:01Z":      {},
		"2026-03-02T11:59:59Z":      {},
		"yesterday":                 {},
		"":                          {},
	} {
		if got := ParseIssuedAt(text, epoch); !got.Equal(want) {
			t.Errorf("%q is %v, want %v", text, got, want)
		}
	}
}
