package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

// leaderDocument is what a leader says at noon. "future" is a key of a newer
// pkiwarden.
const leaderDocument = `{
 "status": "critical", "at": "2026-03-01T12:00:00Z", "version": "1.2.3", "identity": "vault-0_ABCD2345", "role": "candidate", "future": {"n": 12345678901234567890},
 "undetermined": ["loop tidy fails: boom\u001b[2J"],
 "leadership": {"leading": true, "since": "2026-03-01T11:00:00Z", "lease": "vault/pkiwarden", "leader": "vault-0_ABCD2345"},
 "config": {"file": "/etc/pkiwarden/config.yaml", "accepted": true, "since": "2026-03-01T10:00:00Z"},
 "loops": [{"name": "tidy", "failures": 1, "lastError": "boom"}],
 "certificates": [
  {"name": "consul", "secret": "consul/tls", "paused": false, "state": "await-approval", "step": "await-approval", "reason": "request pkiwarden-x awaits approval by somebody else: kubectl certificate approve pkiwarden-x",
   "observedAt": "2026-03-01T11:59:58Z", "request": "pkiwarden-x", "lastFailure": {"rule": "csr-denied", "summary": "request pkiwarden-w was denied: no", "at": "2026-03-01T11:50:00Z", "inARow": 1}},
  {"name": "vault", "secret": "vault/tls", "paused": false, "state": "good", "step": "nothing", "reason": "good until then", "observedAt": "2026-03-01T11:59:58Z", "notBefore": "2026-02-01T12:00:00Z", "notAfter": "2026-03-11T12:00:00Z", "renewAt": "2026-03-03T13:00:00Z"}
 ],
 "signers": [{"name": "pkiwarden.io/consul", "secret": "consul/ca", "state": "unusable", "reason": "the Secret\u001b does not exist", "lookedAt": "2026-03-01T11:59:50Z", "signed": 1200, "refused": 1, "lastSignedAt": "2026-03-01T11:00:00Z"},
  {"name": "pkiwarden.io/web", "secret": "web/ca", "state": "good", "lookedAt": "2026-03-01T11:59:50Z", "notAfter": "2026-03-11T12:00:00Z", "signed": 0, "refused": 0}],
 "deliveries": [{"certificate": "vault", "delivered": true, "lookedAt": "2026-03-01T11:59:50Z", "notAfter": "2026-03-11T12:00:00Z", "fingerprint": "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
  "addresses": [{"address": "127.0.0.1:8200", "served": true, "verifiedAt": "2026-03-01T11:59:50Z"}, {"address": "127.0.0.1:8202", "error": "connection refused"}]}],
 "mounts": [{"name": "pki", "crls": [{"issuer": "root", "measuredAt": "2026-03-01T11:59:30Z", "bytes": 196446, "limitBytes": 392892, "entries": 5030, "nextUpdate": "2026-03-03T12:00:00Z", "limitReachedAt": "2026-03-15T12:00:00Z"}],
  "tidy": {"enabled": false, "run": true, "verdict": "run", "reason": "at least 300 of 400 entries are reclaimable", "decidedAt": "2026-03-01T11:59:30Z", "lastRun": {"outcome": "ok", "endedAt": "2026-02-28T12:00:00Z", "deleted": 1200, "entriesBefore": 1300, "entriesAfter": 100}}},
  {"name": "web", "error": "permission denied"}],
 "findings": [{"rule": "csr-never-approved", "severity": "critical", "subject": "certificate consul", "summary": "Nobody approves", "evidence": "since an hour\nor so", "remedy": "kubectl certificate approve pkiwarden-x", "citation": "c"}]
}`

const leaderTable = `pkiwarden 1.2.3  vault-0_ABCD2345, role candidate: CRITICAL
Leads since 2026-03-01 11:00:00 UTC, 1 hour ago
Configuration /etc/pkiwarden/config.yaml, in force since 2026-03-01 10:00:00 UTC, 2 hours ago
Unknown: loop tidy fails: boom` + "\ufffd" + `[2J

CERTIFICATE  STATE           VALID UNTIL                         RENEWAL                                   WHY
consul       await-approval  -                                   -                                         request pkiwarden-x awaits approval by somebody else: kubectl certificate approve pkiwarden-x; the last attempt that failed, 10 minutes ago: request pkiwarden-w was denied: no
vault        good            2026-03-11 12:00:00 UTC, in 10 days  2026-03-03 13:00:00 UTC, in 2 days 1 hour  good until then
Certificates as observed 2 seconds ago

SIGNER               STATE     CA VALID UNTIL                       SIGNED                                   WHY NOT
pkiwarden.io/consul  unusable  -                                    1,200, 1 refused, the last 1 hour ago    the Secret` + "\ufffd" + ` does not exist
pkiwarden.io/web     good      2026-03-11 12:00:00 UTC, in 10 days  0, 0 refused                             -

DELIVERY  IN PLACE  VALID UNTIL                          LEAF          ADDRESS         SERVED   WHY NOT
vault     yes       2026-03-11 12:00:00 UTC, in 10 days  001122334455  127.0.0.1:8200  yes      -
vault     yes       2026-03-11 12:00:00 UTC, in 10 days  001122334455  127.0.0.1:8202  unknown  connection refused

MOUNT  ISSUER  CRL                           OF THE LIMIT           NEXT UPDATE                         MEASURED        FORECAST
pki    root    196,446 bytes, 5,030 entries  50 % of 392,892 bytes  2026-03-03 12:00:00 UTC, in 2 days  30 seconds ago  the limit is reached 2026-03-15 12:00:00 UTC, in 14 days
web    -       -                             -                      -                                   -               permission denied

TIDY  RUN    NEXT  LAST RUN                     WHY
pki   would  -     ok 1 day ago, 1,200 deleted  at least 300 of 400 entries are reclaimable

CRITICAL csr-never-approved: certificate consul
  Nobody approves
  evidence: since an hour; or so
  remedy: kubectl certificate approve pkiwarden-x
`

// spaced makes the width of columns no matter: the tests below hold it once.
func spaced(table string) string {
	var lines []string
	for line := range strings.Lines(table) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n")
}

// answering is an instance that gives this answer.
func answering(t *testing.T, status int, contentType, body string) (address string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/status.json" {
			t.Errorf("asked for %s %s", r.Method, r.URL)
		}
		w.Header().Set("Content-Type", contentType)
		if status/100 == 3 {
			w.Header().Set("Location", "http://169.254.169.254/")
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// ask runs the command at noon of the documents above, or at another time.
func ask(t *testing.T, now time.Time, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	a := &app{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, env: func(string) string { return "" }, now: func() time.Time { return now }, output: outputTable}
	root := newRootCmd(a)
	root.SetArgs(append([]string{"status"}, args...))
	code = a.report(root.ExecuteContext(t.Context()))
	return code, out.String(), errs.String()
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestStatusForAPerson(t *testing.T) {
	code, out, stderr := ask(t, noon, "--address", answering(t, 200, "application/json", leaderDocument))
	if code != exitCritical || stderr != "" {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	if spaced(out) != spaced(leaderTable) {
		t.Errorf("it prints\n%s\nwant\n%s", out, leaderTable)
	}
	_, deliveries, _ := strings.Cut(leaderTable, "DELIVERY")
	deliveries, _, _ = strings.Cut(deliveries, "CRITICAL csr")
	if !strings.Contains(out, deliveries) {
		t.Errorf("columns are not aligned:\n%s\nwant\n%s", out, deliveries)
	}
}

// JSON is what was received, also what is not known here.
func TestStatusForAProgram(t *testing.T) {
	code, out, stderr := ask(t, noon, "-o", "json", "--address", "http://"+answering(t, 200, "application/json", leaderDocument)+"/status.json")
	if code != exitCritical || stderr != "" {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	var got, want bytes.Buffer
	canonical := func(to *bytes.Buffer, text string) {
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.UseNumber()
		var v any
		if err := decoder.Decode(&v); err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(to, v)
	}
	canonical(&got, out)
	canonical(&want, leaderDocument)
	if got.String() != want.String() || strings.Count(out, "\n") != 1 || !strings.Contains(out, `"future":{"n":12345678901234567890}`) {
		t.Errorf("it prints\n%s", out)
	}
}

func document(status, more string) string {
	return `{"status":"` + status + `","at":"2026-03-01T12:00:00Z","version":"1","identity":"vault-1_X","role":"candidate","config":{"accepted":true},"loops":[],"deliveries":[],"findings":[],` + more + `}`
}

func TestStatusVerdicts(t *testing.T) {
	for status, want := range map[string]int{"ok": 0, "warning": 1, "critical": 2, "unknown": 3, "splendid": 3} {
		code, out, stderr := ask(t, noon, "--address", answering(t, 200, "application/json", document(status, `"leadership":{"leading":true}`)))
		if code != want || stderr != "" || !strings.Contains(out, "No findings") {
			t.Errorf("%s: exit code %d, want %d\n%s%s", status, code, want, out, stderr)
		}
	}
}

func TestStatusOfAFollower(t *testing.T) {
	for name, tt := range map[string]struct{ leadership, role, want string }{
		"known": {`{"leading":false,"since":"2026-03-01T11:00:00Z","lease":"pkiwarden/pkiwarden","leader":"vault-0_ABCD","seenAt":"2026-03-01T11:59:59Z"}`, "candidate",
			"Does not lead: vault-0_ABCD does, seen 2026-03-01 11:59:59 UTC, 1 second ago; certificates and mounts are known to the leader alone:\n  kubectl -n vault exec vault-0 -c pkiwarden -- /pkiwarden status\n"},
		"unknown": {`{"leading":false,"lease":"vault/pkiwarden"}`, "candidate",
			"Does not lead, and who does is not known; certificates and mounts are known to the leader alone\n"},
		"unknown by now": {`{"leading":false,"lease":"vault/pkiwarden","lastLeader":"vault-0_ABCD","lastSeenAt":"2026-03-01T11:59:00Z"}`, "candidate",
			"Does not lead, and who does is not known: the last was vault-0_ABCD, seen 2026-03-01 11:59:00 UTC, 1 minute ago; certificates and mounts are known to the leader alone\n"},
		"lost": {`{"leading":false,"lease":"vault/pkiwarden","lastLeader":"vault-1_X","lastSeenAt":"2026-03-01T11:59:00Z","lostAt":"2026-03-01T11:59:10Z","lostWhy":"getting it: connection refused"}`, "candidate",
			"Does not lead: led until 2026-03-01 11:59:10 UTC, 50 seconds ago, and lost the Lease: getting it: connection refused\nWho leads is not known; certificates and mounts are known to the leader alone\n"},
		"local": {`{"leading":false}`, "local",
			"Does not lead, and never will; certificates and mounts are known to the leader alone: ask a candidate\n"},
		"nothing to type": {`{"leading":false,"lease":"vault/pkiwarden","leader":"x; rm -rf ~ #_A","seenAt":"2026-03-01T11:59:59Z"}`, "candidate",
			"Does not lead: x; rm -rf ~ #_A does, seen 2026-03-01 11:59:59 UTC, 1 second ago; certificates and mounts are known to the leader alone\n"},
	} {
		body := strings.Replace(document("ok", `"namespace":"vault","leadership":`+tt.leadership), `"role":"candidate"`, `"role":"`+tt.role+`"`, 1)
		code, out, _ := ask(t, noon, "--address", answering(t, 200, "application/json", body))
		if code != 0 || !strings.Contains(out, "\n"+tt.want) || strings.Contains(out, "CERTIFICATE") ||
			strings.Contains(out, "No findings") || !strings.Contains(out, "\nFindings: only this pod's are known, and it has none\n") || name != "known" && strings.Contains(out, "kubectl") {
			t.Errorf("%s: exit code %d\n%s\nwant\n%s", name, code, out, tt.want)
		}
	}
}

// An older instance does not say its namespace; that of the Lease may be another.
func TestStatusOfAFollowerWithoutNamespace(t *testing.T) {
	_, out, _ := ask(t, noon, "--address", answering(t, 200, "application/json", document("ok",
		`"leadership":{"leading":false,"lease":"pkiwarden/pkiwarden","leader":"vault-0_ABCD","seenAt":"2026-03-01T11:59:59Z"}`)))
	if want := "known to the leader alone: in its namespace\n  kubectl exec vault-0 -c pkiwarden -- /pkiwarden status\n"; !strings.Contains(out, want) {
		t.Errorf("it prints\n%s\nwant\n%s", out, want)
	}
}

// What is printed says how old it is, and what it does not know.
func TestStatusSaysHowOldItIs(t *testing.T) {
	certificate := func(name, state, observedAt string) string {
		return `{"name":"` + name + `","secret":"n/s","paused":false,"state":"` + state + `","reason":"r","observedAt":"2026-03-01T` + observedAt + `Z"}`
	}
	leader := `"leadership":{"leading":true},"certificates":[`
	for name, tt := range map[string]struct{ document, want string }{
		"one": {leader + certificate("a", "good", "11:59:26") + "]", "r\nCertificates as observed 34 seconds ago\n\nNo findings"},
		"two": {leader + certificate("a", "good", "11:59:26") + "," + certificate("b", "good", "11:59:58") + "]", "r\nCertificates as observed 34 seconds ago to 2 seconds ago\n"},
		"old": {leader + certificate("a", "expired", "11:00:00") + "," + certificate("b", "unknown", "11:59:58") + `],"undetermined":["certificate b: r"]`,
			"r; the dates are of 1 hour ago\nb unknown - - r; the dates are of 2 seconds ago\n\nNo findings of what is known"},
		"a follower with findings": {`"leadership":{"leading":false},"findings":[{"rule":"x","severity":"warning","subject":"s","summary":"t"}]`,
			"\nFindings: only this pod's are known\n\nWARNING x: s\n"},
	} {
		_, out, _ := ask(t, noon, "--address", answering(t, 200, "application/json", document("ok", tt.document)))
		if !strings.Contains(spaced(out), tt.want) {
			t.Errorf("%s: it prints\n%s\nwant\n%s", name, spaced(out), tt.want)
		}
	}
}

// What is not of now is not known, however well it looks.
func TestStatusOutdated(t *testing.T) {
	for status, want := range map[string]int{"ok": 3, "critical": 2} {
		code, out, _ := ask(t, noon.Add(10*time.Minute), "--address", answering(t, 200, "application/json", document(status, `"leadership":{"leading":true}`)))
		if code != want || !strings.Contains(out, "OUTDATED: it is of 2026-03-01 12:00:00 UTC, 10 minutes ago: clocks that differ, or a cache") {
			t.Errorf("%s: exit code %d, want %d\n%s", status, code, want, out)
		}
	}
	if code, _, _ := ask(t, noon.Add(-10*time.Minute), "--address", answering(t, 200, "application/json", document("ok", `"leadership":{"leading":true}`))); code != 3 {
		t.Errorf("from the future: exit code %d", code)
	}
}

func TestStatusNotAnswered(t *testing.T) {
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	for name, tt := range map[string]struct{ address, says string }{
		"nobody":    {strings.TrimPrefix(closed.URL, "http://"), "connection refused"},
		"HTML":      {answering(t, 200, "text/html", "<html><body>Log in\x1b[2J</body></html>"), `it begins with "<html><body>Log in\x1b[2J</body></html>"`},
		"other":     {answering(t, 200, "application/json", `{"status":"ok"}`), "it lacks status, version or at"},
		"cut short": {answering(t, 200, "application/json", leaderDocument[:500]), "not a pkiwarden's status: unexpected end of JSON input"},
		"large":     {answering(t, 200, "application/json", `{"x":"`+strings.Repeat("x", 5<<20)+`"}`), "more than 4,194,304 bytes"},
		"old":       {answering(t, 404, "text/plain", "404 page not found"), "there is no /status.json: it is another program, or a pkiwarden older than this command"},
		"redirect":  {answering(t, 302, "text/plain", ""), "302 Found: redirects are not followed"},
		"busy":      {answering(t, 503, "text/plain", ""), "the answer is 503 Service Unavailable"},
	} {
		code, out, stderr := ask(t, noon, "--address", tt.address)
		if code != exitUnknown || out != "" || !strings.HasPrefix(stderr, "error: asking http://"+tt.address+"/status.json: ") || !strings.Contains(stderr, tt.says) || strings.Count(stderr, "\x1b") > 0 {
			t.Errorf("%s: exit code %d, stdout %q, stderr\n%s", name, code, out, stderr)
		}
	}
}

func TestStatusUsage(t *testing.T) {
	file := t.TempDir() + "/c.yaml"
	listen := func(address string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("apiVersion: pkiwarden/v1\nlisten: {address: \""+address+"\"}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, address := range []string{"", "10.0.0.1", "ftp://h:1", "http://user:hush@h:1", "http://h:1/metrics", "http://h:1/?token=hush", "http://", "a b:1"} {
		code, _, stderr := ask(t, noon, "--address", address)
		if code != exitUsage || !strings.Contains(stderr, "want HOST:PORT") || strings.Contains(stderr, "hush") {
			t.Errorf("--address %q: exit code %d, %s", address, code, stderr)
		}
	}
	// A wildcard is asked on this machine.
	at := answering(t, 200, "application/json", document("warning", `"leadership":{"leading":true}`))
	_, port, _ := strings.Cut(at, ":")
	for _, address := range []string{":" + port, "0.0.0.0:" + port, "[::]:" + port, "127.0.0.1:" + port} {
		listen(address)
		if code, _, stderr := ask(t, noon, "--config", file); code != exitWarning {
			t.Errorf("listen.address %q: exit code %d, %s", address, code, stderr)
		}
	}
	if code, _, _ := ask(t, noon, "--config", file+".none"); code != exitUsage {
		t.Errorf("no such configuration: exit code %d", code)
	}
}
