package tidier

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

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
