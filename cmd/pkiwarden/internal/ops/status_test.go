package ops

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestStatusPage(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	url, _ := serve(t, ServerOptions{Status: func() Status {
		return Status{
			Status: "ok", At: at, Version: "1", Identity: "a_B", Role: "candidate", Leadership: Leadership{Leader: "b_C", SeenAt: at},
			Config: ConfigFile{Accepted: true}, Loops: []Loop{{Name: "crl"}}, Deliveries: []Delivery{}, Findings: []Finding{},
			Mounts: []Mount{{Name: "pki", CRLs: []CRL{}}},
		}
	}})
	resp, err := http.Get(url + "/status.json")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	for name, want := range map[string]string{"Content-Type": "application/json", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	// What is not known is absent: never a zero, never year 1.
	const want = `{"status":"ok","at":"2026-03-01T12:00:00Z","version":"1","identity":"a_B","role":"candidate","leadership":{"leading":false,"leader":"b_C","seenAt":"2026-03-01T12:00:00Z"},` +
		`"config":{"accepted":true},"loops":[{"name":"crl","failures":0}],"mounts":[{"name":"pki","crls":[]}],"deliveries":[],"findings":[]}` + "\n"
	if status, body := get(t, url+"/status.json"); status != 200 || body != want {
		t.Errorf("%d\n%s\nwant\n%s", status, body, want)
	}

	url, _ = serve(t, ServerOptions{})
	if status, _ := get(t, url+"/status.json"); status != 404 {
		t.Errorf("without a status: %d", status)
	}
}

func TestStatusVerdict(t *testing.T) {
	find := func(severities ...string) (out []Finding) {
		for _, s := range severities {
			out = append(out, Finding{Severity: s})
		}
		return out
	}
	for _, tt := range []struct {
		findings []Finding
		doubts   []string
		want     string
	}{
		{nil, nil, "ok"},
		{find("info"), nil, "ok"},
		{find("warning", "info"), nil, "warning"},
		{find("unknown", "warning"), nil, "unknown"},
		{find("critical", "unknown"), nil, "critical"},
		{find("warning"), []string{"x"}, "unknown"},
		{find("critical"), []string{"x"}, "critical"},
		{find("dreadful"), nil, "unknown"},
	} {
		s := Status{Findings: tt.findings, Undetermined: tt.doubts}
		if s.Judge(); s.Status != tt.want {
			t.Errorf("%v, %q: %s, want %s", tt.findings, tt.doubts, s.Status, tt.want)
		}
	}
}

// However much there is, the document is bounded, says what it leaves out, keeps
// the most severe, and leaves what it was made of as it is.
func TestStatusIsBounded(t *testing.T) {
	long := strings.Repeat("ä", 5000)
	var names []string
	for range 500 {
		names = append(names, strings.Repeat("n", 200))
	}
	trust := &Trust{Reason: long, Peers: slices.Repeat([]Peer{{Address: "a:1", Detail: long}}, 30), Authorities: slices.Repeat([]Authority{{State: "wanted"}}, 30)}
	trust.Authorities[29].State = "leaving"
	var s Status
	all := 3000
	if testing.Short() {
		all = 1200
	}
	for range all {
		s.Certificates = append(s.Certificates, Certificate{Name: "c", Reason: long, Trust: trust, Names: &Names{DNS: names}, LastFailure: &Failure{Summary: long}})
		s.Signers = append(s.Signers, Signer{Name: "s", Reason: long})
		s.Mounts = append(s.Mounts, Mount{Name: "m", CRLs: []CRL{{Error: long, Forecast: long}}, Tidy: &Tidy{Reason: long}})
		s.Findings = append(s.Findings, Finding{Rule: "r", Evidence: long})
	}
	s.Findings[0].Rule = "the most severe"
	s.Leadership.LostWhy = long
	data, err := s.encode()
	if err != nil {
		t.Fatal(err)
	}
	if len(data) > 4<<20 {
		t.Errorf("%d octets", len(data))
	}
	var got Status
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	n := len(got.Certificates)
	if n == 0 || n > 1000 || len(got.Mounts) != n || len(got.Signers) != n || len(got.Findings) != n || got.LeftOut == nil || *got.LeftOut != (LeftOut{Certificates: all - n, Signers: all - n, Mounts: all - n, Findings: all - n}) {
		t.Errorf("%d certificates, %d mounts, %d findings, left out %+v", n, len(got.Mounts), len(got.Findings), got.LeftOut)
	}
	if got.Findings[0].Rule != "the most severe" || len(got.Findings[0].Evidence) > 2010 || !strings.HasSuffix(got.Findings[0].Evidence, "ä…") {
		t.Errorf("the first finding: %.40s, %d octets", got.Findings[0].Rule, len(got.Findings[0].Evidence))
	}
	if n := len(got.Leadership.LostWhy); n > 2010 {
		t.Errorf("why it lost the Lease has %d octets", n)
	}
	if c := got.Certificates[0]; len(c.Names.DNS) != 100 || c.Names.LeftOut != 400 {
		t.Errorf("%d names, %d left out", len(c.Names.DNS), c.Names.LeftOut)
	}
	if r := got.Signers[0].Reason; len(r) > 2010 {
		t.Errorf("why a signer does not sign has %d octets", len(r))
	}
	if c := got.Certificates[0].Trust; len(c.Authorities) != 20 || c.Authorities[0].State != "leaving" || len(c.Peers) != 20 || c.LeftOut != 20 || len(c.Reason) > 2010 || len(c.Peers[0].Detail) > 2010 {
		t.Errorf("trust: %d CAs, the first %q, %d peers, %d left out", len(c.Authorities), c.Authorities[0].State, len(c.Peers), c.LeftOut)
	}
	if len(s.Certificates[0].Trust.Authorities) != 30 || s.Certificates[0].Trust.Authorities[29].State != "leaving" || len(s.Certificates[0].Trust.Peers[0].Detail) != 10000 ||
		len(s.Findings[0].Evidence) != 10000 || len(s.Certificates[0].Names.DNS) != 500 || len(s.Certificates[0].LastFailure.Summary) != 10000 || len(s.Mounts[0].CRLs[0].Error) != 10000 || s.LeftOut != nil {
		t.Error("the original has changed")
	}
}
