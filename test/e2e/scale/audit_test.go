package scale

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// lines of an audit log as kube-apiserver 1.36 writes them, shortened.
const (
	me       = `"user":{"username":"system:serviceaccount:pkiwarden:pkiwarden"}`
	complete = `{"kind":"Event","level":"Metadata","stage":"ResponseComplete",` + me
	line     = "\n"

	getLive     = complete + `,"verb":"get","requestURI":"/api/v1/namespaces/vault/secrets/c00001","objectRef":{"resource":"secrets","namespace":"vault","name":"c00001","apiVersion":"v1"},"responseStatus":{"metadata":{},"code":200}}` + line
	getMissing  = complete + `,"verb":"get","requestURI":"/api/v1/namespaces/vault/secrets/c00001-next","objectRef":{"resource":"secrets","namespace":"vault","name":"c00001-next","apiVersion":"v1"},"responseStatus":{"code":404}}` + line
	putNext     = complete + `,"verb":"update","objectRef":{"resource":"secrets","namespace":"vault","name":"c00001-next"},"responseStatus":{"code":409}}` + line
	approveIt   = complete + `,"verb":"update","objectRef":{"resource":"certificatesigningrequests","name":"c00001-x","subresource":"approval","apiGroup":"certificates.k8s.io"},"responseStatus":{"code":200}}` + line
	putLease    = complete + `,"verb":"update","objectRef":{"resource":"leases","namespace":"pkiwarden","name":"pkiwarden"},"responseStatus":{"code":200}}` + line
	putState    = complete + `,"verb":"update","objectRef":{"resource":"configmaps","namespace":"pkiwarden","name":"pkiwarden-state-certificates"},"responseStatus":{"code":429}}` + line
	getTrust    = complete + `,"verb":"get","objectRef":{"resource":"configmaps","namespace":"vault","name":"kube-root-ca.crt"},"responseStatus":{"code":403}}` + line
	watchBegins = `{"stage":"ResponseStarted",` + me + `,"verb":"watch","objectRef":{"resource":"certificatesigningrequests"},"responseStatus":{"code":200}}` + line
	watchEnds   = complete + `,"verb":"watch","objectRef":{"resource":"certificatesigningrequests"},"responseStatus":{"code":200}}` + line
	discovery   = complete + `,"verb":"get","requestURI":"/version?timeout=32s","responseStatus":{"code":200}}` + line
	somebodys   = `{"stage":"ResponseComplete","user":{"username":"admin"},"verb":"get","objectRef":{"resource":"secrets","namespace":"vault","name":"c00001"},"responseStatus":{"code":200}}` + line
)

func TestAuditLogCountsWhileItGrows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	write := func(text string) {
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	a := newAuditLog(controller)
	write(getLive + somebodys + putLease[:40])
	go a.follow(ctx, path)
	reach := func(total int) Calls {
		for ctx.Err() == nil {
			if c := a.calls(controller); c.Total() >= total || a.problem() != nil {
				return c
			}
			time.Sleep(10 * time.Millisecond)
		}
		return Calls{}
	}
	first := reach(1)
	if first.Total() != 1 || first.By[Call{"get", "secrets"}] != 1 {
		t.Fatalf("%+v, %v", first, a.problem())
	}
	write(putLease[40:] + getMissing + putNext + approveIt + putState + getTrust + watchBegins + watchEnds + discovery)
	all := reach(9)
	since := all.Since(first)
	want := map[Call]int{
		{"get", "secrets NAME-next"}:                      1,
		{"update", "secrets NAME-next"}:                   1,
		{"update", "certificatesigningrequests/approval"}: 1,
		{"update", "leases"}:                              1,
		{"update", "configmaps of the state"}:             1,
		{"get", "configmaps"}:                             1,
		{"watch", "certificatesigningrequests"}:           1,
		{"get", "/version"}:                               1,
	}
	for call, n := range want {
		if since.By[call] != n {
			t.Errorf("%s: %d, want %d", call, since.By[call], n)
		}
	}
	if len(since.By) != len(want) || since.Total() != 8 || since.Counted() != 6 || since.Writes() != 3 {
		t.Errorf("%d kinds, %d in all, %d that count, %d writes: %v", len(since.By), since.Total(), since.Counted(), since.Writes(), since.By)
	}
	if since.Conflicts != 1 || since.Throttled != 1 || since.Failed != 1 {
		t.Errorf("%d conflicts, %d throttled, %d failed", since.Conflicts, since.Throttled, since.Failed)
	}
}

func TestAuditLogThatIsDamagedIsNotCounted(t *testing.T) {
	a := newAuditLog(controller)
	if err := a.count([]byte("{\n")); err == nil {
		t.Error("half a line counts as read")
	}
	a.follow(t.Context(), filepath.Join(t.TempDir(), "none"))
	if a.problem() == nil {
		t.Error("a log that is not there counts as read")
	}
}
