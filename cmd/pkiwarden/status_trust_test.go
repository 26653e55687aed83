package main

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/ops"
	"github.com/pkiwarden/pkiwarden/k8scsr"
	"github.com/pkiwarden/pkiwarden/k8scsr/issuer"
)

// TestStatusOfAChangeOfCA: the program gets every CA and peer, the person a table
// of those bundles alone that change.
func TestStatusOfAChangeOfCA(t *testing.T) {
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	moving, unknown := certificateOf(issuer.Status{
		Name: "vault", Namespace: "vault", Secret: "tls", LookedAt: noon, ObservedAt: noon,
		Trust: issuer.TrustStatus{
			State: k8scsr.ChangePeers, Reason: "CA CN=old stays published: waiting for peer 10.0.0.1:8200",
			Authorities: []issuer.AuthorityStatus{
				{Subject: "CN=new", SHA256: "0011223344", NotAfter: noon.AddDate(9, 0, 0), Wanted: true, PublishedAt: noon.Add(-time.Hour)},
				{Subject: "CN=old\x1b[2J", SHA256: "5566778899", NotAfter: noon.AddDate(1, 0, 0)},
			},
			Peers: []k8scsr.PeerStatus{{Address: "10.0.0.1:8200", State: "behind", Detail: "it still presents a certificate from CA CN=old"}},
		},
	}, noon)
	still, _ := certificateOf(issuer.Status{Name: "web", LookedAt: noon, ObservedAt: noon, Trust: issuer.TrustStatus{State: k8scsr.ChangeNone, Reason: "as it is"}}, noon)
	none, _ := certificateOf(issuer.Status{Name: "x", LookedAt: noon, ObservedAt: noon}, noon)
	if unknown || none.Trust != nil || still.Trust == nil {
		t.Fatalf("%+v %+v", none.Trust, still.Trust)
	}
	text, err := json.Marshal(moving.Trust)
	if err != nil {
		t.Fatal(err)
	}
	var got, want any
	wanted := `{"state":"awaiting-peers","reason":"CA CN=old stays published: waiting for peer 10.0.0.1:8200","authorities":[
	 {"subject":"CN=new","sha256":"0011223344","notAfter":"2035-03-01T12:00:00Z","state":"wanted","publishedAt":"2026-03-01T11:00:00Z"},
	 {"subject":"CN=old\u001b[2J","sha256":"5566778899","notAfter":"2027-03-01T12:00:00Z","state":"leaving"}],
	 "peers":[{"address":"10.0.0.1:8200","state":"behind","detail":"it still presents a certificate from CA CN=old"}]}`
	if json.Unmarshal(text, &got) != nil || json.Unmarshal([]byte(wanted), &want) != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("document:\n%s", text)
	}

	var out bytes.Buffer
	p := statusPrinter{out: &out, s: ops.Status{At: noon, Certificates: []ops.Certificate{moving, still, none}}}
	p.trust()
	const table = `
TRUST CHANGE WHO PUBLISHED VALID UNTIL WHY
vault awaiting-peers wanted CA CN=new (SHA-256 00112233…) 2026-03-01 11:00:00 UTC, 1 hour ago 2035-03-01 12:00:00 UTC, in 9 years 2 days CA CN=old stays published: waiting for peer 10.0.0.1:8200
- - leaving CA CN=old` + "\ufffd" + `[2J (SHA-256 55667788…) - 2027-03-01 12:00:00 UTC, in 1 year -
- - peer 10.0.0.1:8200 - - behind: it still presents a certificate from CA CN=old`
	if got := spaced(out.String()); strings.TrimRight(got, "\n") != table {
		t.Errorf("table:\n%s\nwant:\n%s", got, table)
	}
}
