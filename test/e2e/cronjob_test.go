package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// killPoint is a request of a `pkiwarden tidy` on its way to Vault, at which the
// process is killed.
type killPoint struct {
	mount  string
	method string
	path   string // below the mount, or a part of it
	after  string // a request that has to have gone through before, "" for none
	when   string // "before" Vault gets it, or "after" Vault has answered
}

// The steps of a run, one after the other. Those whose holder is given three
// minutes to come back are first, so that the waits overlap.
var killPoints = []killPoint{
	{"measured", http.MethodGet, "/crl", "GET /crl/rotate", "after"},
	{"measuring", http.MethodGet, "/crl", "GET /crl/rotate", "before"},
	{"rotated", http.MethodGet, "/crl/rotate", "", "after"},
	{"rotating", http.MethodGet, "/crl/rotate", "", "before"},
	{"followed", http.MethodGet, "/tidy-status", "POST /tidy", "after"},
	{"asked", http.MethodPost, "/tidy", "", "after"},
	{"decided", http.MethodPost, "/tidy", "", "before"},
	{"surveyed", http.MethodGet, "/tidy-status", "", "after"},
	{"looked", http.MethodGet, "/config/crl", "", "after"},
}

// killer is a way to Vault on which a process is killed.
type killer struct {
	*httptest.Server
	point killPoint
	kill  func() error

	mu     sync.Mutex
	passed map[string]bool
	struck bool
}

// newKiller makes a proxy in front of w's Vault that presents a certificate
// which Vault's clients trust.
func newKiller(w *world.World, point killPoint) (*killer, error) {
	leaf, err := w.Kubernetes.CA.Issue(servers.LeafOptions{CommonName: "proxy", DNSNames: []string{world.ServerName}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}})
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(leaf.CertificatePEM, leaf.KeyPEM)
	if err != nil {
		return nil, err
	}
	k := &killer{point: point, passed: map[string]bool{}}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "https", Host: w.VaultAddress()})
	proxy.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.Kubernetes.CA.Pool(), ServerName: world.ServerName}}
	proxy.ModifyResponse = func(r *http.Response) error {
		if k.strike(r.Request, "after") {
			return errors.New("killed")
		}
		return nil
	}
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	k.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if k.strike(r, "before") {
			panic(http.ErrAbortHandler)
		}
		proxy.ServeHTTP(rw, r)
	}))
	k.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	k.StartTLS()
	return k, nil
}

// strike kills the process where the request is the one. Nothing passes any
// more then.
func (k *killer) strike(r *http.Request, when string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.struck {
		return true
	}
	p := k.point
	path, ours := strings.CutPrefix(r.URL.Path, "/v1/"+p.mount)
	if !ours {
		return false
	}
	if strings.HasPrefix(path, "/issuer/") && strings.HasSuffix(path, "/crl") {
		path = "/crl"
	}
	if when == "after" {
		defer func() { k.passed[r.Method+" "+path] = true }()
	}
	if r.Method != p.method || path != p.path || when != p.when || p.after != "" && !k.passed[p.after] {
		return false
	}
	k.struck = true
	_ = k.kill() // a process that is still there fails the story by its exit code
	return true
}

// tidiesEverything waits for a job that was started for all mounts and returns
// the mounts in which it started a run.
func tidiesEverything(t *testing.T, ctx context.Context, p *servers.Program) (ran []string) {
	t.Helper()
	code, err := p.Wait(ctx)
	must(t, err)
	if code != 0 {
		t.Errorf("exit code %d, want 0:\n%s", code, p.Log())
	}
	log := p.Log()
	begin := strings.LastIndex(log, "\n[") + 1
	var reports []report
	if err := json.Unmarshal([]byte(log[begin:]), &reports); err != nil {
		t.Fatalf("%v in:\n%s", err, log)
	}
	if len(reports) != len(killPoints) {
		t.Errorf("reports of %d mounts, want %d", len(reports), len(killPoints))
	}
	for _, r := range reports {
		if r.Run {
			ran = append(ran, r.Mount)
		}
	}
	return ran
}

// cronJobs is a world with the shipped CronJob's rights, and fleets in as many
// mounts as there are points at which a job is killed, ripe for a tidy.
func cronJobs(t *testing.T) (*controller, map[string]*fleet) {
	c := tidying(t)
	ctx, w := c.ctx, c.w
	manifest, err := filepath.Abs("../../manifests/tidy-cronjob")
	must(t, err)
	must(t, w.Apply(ctx, manifest))
	mounts := map[string]*fleet{}
	for _, p := range killPoints {
		mounts[p.mount] = newFleet(t, ctx, w, world.PKIOptions{Mount: p.mount, AutoRebuild: true})
	}
	revokeAll(t, ctx, mounts)
	return c, mounts
}

// slowly makes runs that take long enough for others to see them.
var slowly = map[string]any{"tidy.pause": "200ms"}

// A job that is killed, at whatever step, is seen through by the next, which
// asks for no second run.
func TestTidyKilledJobs(t *testing.T) {
	c, mounts := cronJobs(t)
	ctx, w := c.ctx, c.w
	// The sidecar has no part in what follows, which takes minutes.
	c.enable(t, map[string]any{"tidy.enabled": false, "crl.interval": "1m"}, "*")
	for _, p := range killPoints {
		k, err := newKiller(w, p)
		must(t, err)
		defer k.Close()
		set := map[string]any{"vault.address": k.URL, "tidy.pause": "200ms"}
		job := newJobs(t, ctx, w, "killed-"+p.mount, set)
		program, err := w.Set.NewProgram(job.options("-o", "json", "--mount", p.mount))
		must(t, err)
		k.kill = program.Kill
		must(t, program.Start(ctx))
		if code, err := program.Wait(ctx); err != nil || code != -9 {
			t.Fatalf("%s %s of %s: exit code %d, %v, want a killed process:\n%s", p.when, p.path, p.mount, code, err, program.Log())
		}
		mounts[p.mount].tidyIs("Finished") // one mount at a time
	}
	// What was left behind is carried on, without a second run.
	next := newJobs(t, ctx, w, "next", slowly)
	for _, p := range killPoints {
		if r := next.report(0, p.mount); p.mount == "decided" && !r.Run || p.mount == "asked" && (r.Run || r.Result == nil) {
			t.Errorf("after a job that was killed %s %s: %+v", p.when, p.path, r)
		}
		if err := mounts[p.mount].lists(); err != nil {
			t.Errorf("after a job that was killed %s %s: %v", p.when, p.path, err)
		}
		if n := mounts[p.mount].asked(); n != 1 {
			t.Errorf("after a job that was killed %s %s: vault was asked for %d runs, want 1", p.when, p.path, n)
		}
	}

	// The next decision comes, and again makes one run.
	revokeAll(t, ctx, mounts)
	again := newJobs(t, ctx, w, "again", slowly)
	for _, p := range killPoints {
		if r := again.report(0, p.mount); !r.Run {
			t.Errorf("new revocations after a job that was killed %s %s: %+v", p.when, p.path, r)
		}
		if n := mounts[p.mount].asked(); n != 2 {
			t.Errorf("mount %s: vault was asked for %d runs, want one for each decision, 2", p.mount, n)
		}
	}
	noSecrets(t, ctx, w, c.past...)
}

// Two CronJobs and a controller in front of one Vault: each decision makes one
// run.
func TestTidyCronJobs(t *testing.T) {
	c, mounts := cronJobs(t)
	ctx, w := c.ctx, c.w
	var programs []*servers.Program
	for i := range 2 {
		program, err := w.Set.NewProgram(newJobs(t, ctx, w, fmt.Sprintf("cronjob-%d", i), slowly).options("-o", "json"))
		must(t, err)
		programs = append(programs, program)
	}
	c.enable(t, slowly, "*")
	for _, p := range programs {
		must(t, p.Start(ctx))
	}
	ran := map[string]int{}
	for _, p := range programs {
		for _, mount := range tidiesEverything(t, ctx, p) {
			ran[mount]++
		}
	}
	for _, p := range killPoints {
		f := mounts[p.mount]
		eventually(t, ctx, time.Minute, "the list of "+p.mount+" has shrunk", func(context.Context) error { return f.lists() })
		if n := f.asked(); n != 1 {
			t.Errorf("mount %s: vault was asked for %d runs, want one for its decision", p.mount, n)
		}
		if ran[p.mount] > 1 {
			t.Errorf("mount %s: %d jobs say that they ran", p.mount, ran[p.mount])
		}
	}
	noSecrets(t, ctx, w, c.past...)
}

// revokeAll revokes four certificates in each mount, publishes them, and waits
// until tidy would delete them all.
func revokeAll(t *testing.T, ctx context.Context, mounts map[string]*fleet) {
	t.Helper()
	var last *fleet
	for _, f := range mounts {
		f.issued = nil
		last = f
		f.revoke(4)
		must(t, f.Rotate(ctx))
	}
	last.ripen()
}
