package tidier

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

func TestKey(t *testing.T) {
	tests := []struct {
		cluster string
		mount   pki.Mount
		want    string
	}{
		{"1b7c", pki.Mount{Path: "pki", UUID: "2D4E-55"}, "tidy-1b7c-2d4e-55"},
		{"a/b_c", pki.Mount{Path: "pki", UUID: "x.y"}, "tidy-a-b-c-x-y"},
		{"c", pki.Mount{Namespace: "ns", Path: "team/pki"}, ""},
	}
	safe := regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
	for _, tt := range tests {
		got := Key(tt.cluster, tt.mount)
		if !safe.MatchString(got) || tt.want != "" && got != tt.want {
			t.Errorf("Key(%q, %+v) = %q, want %q", tt.cluster, tt.mount, got, tt.want)
		}
	}
	if Key("c", pki.Mount{Path: "a"}) == Key("c", pki.Mount{Path: "b"}) {
		t.Error("two mounts without UUID share a key")
	}
}

// A record never outgrows the state, whatever Vault says: the oldest runs go.
func TestRecordStaysSmall(t *testing.T) {
	if got := shorten(strings.Repeat("é", 1000)); len(got) > 410 || !strings.HasSuffix(got, "é …") {
		t.Errorf("shortened to %d bytes: …%q", len(got), got[len(got)-10:])
	}
	record := pki.Record{Version: 1, Run: &pki.Run{ID: "open"}}
	for i := range 40 {
		record = record.Conclude(pki.Run{ID: string(rune('A' + i)), Outcome: pki.OutcomeFailed, Explanation: strings.Repeat("x", 6000), EndedAt: time.Unix(int64(i), 0)})
		record.Run = &pki.Run{ID: "open"}
	}
	data, err := encode(record)
	if err != nil || len(data) > 64<<10 {
		t.Fatalf("%d bytes, %v", len(data), err)
	}
	var back pki.Record
	if err := json.Unmarshal(data, &back); err != nil || back.Run.ID != "open" || back.Last().ID != string(rune('A'+39)) || len(back.History) != 10 {
		t.Errorf("%d runs left, the last %s, %v", len(back.History), back.Last().ID, err)
	}
	record.Run.Reason = strings.Repeat("x", 64<<10)
	if _, err := encode(record); err == nil {
		t.Error("an oversized run is accepted")
	}
}
