package deliver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A certificate's whole life: nothing yet, files before the server, the server
// comes up by itself, and a renewal is signalled and proved.
func TestBirthAndRenewal(t *testing.T) {
	ca := newAuthority(t)
	first, second := ca.issue(t, time.Hour), ca.issue(t, time.Hour)
	address := freeAddress(t)
	b := newBench(t, vaultAt(address))

	if err := b.Once(t.Context()); !errors.Is(err, ErrNotYet) || b.Delivered() {
		t.Fatalf("before there is a certificate: %v, delivered %t", err, b.Delivered())
	}
	b.wantFindings(t, "certificate-not-delivered warning")

	b.source.put(first, nil)
	begin := time.Now()
	if err := b.Once(t.Context()); err != nil || !b.Delivered() {
		t.Fatalf("before there is a server: %v, delivered %t", err, b.Delivered())
	}
	if took := time.Since(begin); took > 2500*time.Millisecond {
		t.Errorf("it waited %s for a server that does not run", took)
	}
	b.wantPublished(t, first)
	b.wantFindings(t, "certificate-not-served unknown")
	if m := b.metric(t, address); m != "" {
		t.Errorf("certificate_served is %s before anything is known", m)
	}

	server := b.startServer(t, address, "reload")
	if err := b.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.wantFindings(t)
	if m := b.metric(t, address); m != "1" {
		t.Errorf("certificate_served is %q, want 1", m)
	}
	if n := server.hups.Load(); n != 0 {
		t.Errorf("a server that started with the right files was signalled %d times", n)
	}

	b.source.put(second, nil)
	if err := b.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.wantPublished(t, second)
	b.wantFindings(t)
	if m := b.metric(t, address); m != "1" || server.signals() == 0 {
		t.Errorf("certificate_served is %q after %d signals", m, server.hups.Load())
	}
	if n := b.generations(t); n != 2 {
		t.Errorf("%d generations right after the reload, want the previous one kept for slow readers", n)
	}
	hups := server.signals()
	b.skew = 2 * time.Minute
	for range 3 {
		if err := b.Once(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.generations(t); n != 1 {
		t.Errorf("%d generations after the proof, want 1", n)
	}
	if server.hups.Load() != hups {
		t.Error("signalled although all is well")
	}

	want := `level=INFO msg="waiting for the certificate" certificate=vault-server detail="reading certificate vault-server: no certificate yet"
level=INFO msg="certificate written" certificate=vault-server directory=DIR fingerprint=F notAfter=T
level=INFO msg="waiting for the server" certificate=vault-server detail="ADDRESS: connecting: connect: connection refused"
level=INFO msg="certificate served" certificate=vault-server detail=F
level=INFO msg="certificate written" certificate=vault-server directory=DIR fingerprint=F notAfter=T
level=INFO msg="reload asked for" certificate=vault-server action="HUP sent to EXE"
level=INFO msg="certificate served" certificate=vault-server detail=F
`
	if got := anonymous(b.log.String(), b.directory, address, server); got != want {
		t.Errorf("the log:\n%swant:\n%s", got, want)
	}
	if strings.Contains(b.log.String(), "PRIVATE") {
		t.Error("the log holds a key")
	}
}

// anonymous takes out of a log what differs from run to run.
func anonymous(log, directory, address string, server *child) string {
	log = strings.NewReplacer(directory, "DIR", address, "ADDRESS", fmt.Sprintf("%s (pid %d)", server.Path, server.Process.Pid), "EXE").Replace(log)
	lines := strings.Split(log, "\n")
	for i, line := range lines {
		fields := strings.Split(line, " ")
		for j, f := range fields {
			if strings.HasPrefix(f, "fingerprint=") {
				fields[j] = "fingerprint=F"
			}
			if strings.HasPrefix(f, "notAfter=") {
				fields[j] = "notAfter=T"
			}
			if v, ok := strings.CutPrefix(f, "detail="); ok && len(v) == 16 {
				fields[j] = "detail=F"
			}
		}
		lines[i] = strings.Join(fields, " ")
	}
	return strings.Join(lines, "\n")
}

// begin delivers a first pair and starts a server on it.
func (b *bench) begin(t *testing.T, address, how string) (*authority, *child) {
	t.Helper()
	ca := newAuthority(t)
	b.source.put(ca.issue(t, time.Hour), nil)
	if err := b.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	server := b.startServer(t, address, how)
	if err := b.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	return ca, server
}

func TestServerIgnoresTheSignal(t *testing.T) {
	address := freeAddress(t)
	b := newBench(t, vaultAt(address))
	ca, server := b.begin(t, address, "ignore")
	old := b.want.fingerprint.String()
	next := ca.issue(t, 2*time.Hour)
	b.source.put(next, nil)

	begin := time.Now()
	err := b.Once(t.Context())
	if took := time.Since(begin); took < 2*time.Second || took > time.Minute {
		t.Errorf("it took %s, want about the timeout of 3s", took)
	}
	if err == nil || !strings.Contains(err.Error(), "proving certificate vault-server at "+address+": it presents leaf "+old) {
		t.Errorf("Once = %v", err)
	}
	b.wantFindings(t, "certificate-not-served critical")
	evidence := b.found[0].Evidence
	for _, want := range []string{old, b.want.fingerprint.String(), b.want.leaf.NotAfter.UTC().Format(time.RFC3339)} {
		if !strings.Contains(evidence, want) {
			t.Errorf("evidence %q lacks %s", evidence, want)
		}
	}
	if m := b.metric(t, address); m != "0" {
		t.Errorf("certificate_served is %q, want 0", m)
	}
	if n := b.generations(t); n != 2 {
		t.Errorf("%d generations, want the previous one kept", n)
	}
	hups := server.signals()
	if hups < 2 {
		t.Errorf("%d signals, want it repeated", hups)
	}

	// It does not hammer: the next try comes after the back-off.
	for range 3 {
		if err := b.Once(t.Context()); err == nil {
			t.Error("the failure was forgotten")
		}
	}
	if n := server.hups.Load(); n != hups {
		t.Errorf("%d more signals before the back-off was over", n-hups)
	}
	b.skew = 90 * time.Second
	if err := b.Once(t.Context()); err == nil || server.hups.Load() == hups {
		t.Errorf("after the back-off: %v, %d signals", err, server.hups.Load()-hups)
	}
	if b.backoff != 2*time.Minute {
		t.Errorf("the back-off is %s, want 2m", b.backoff)
	}
}

// The server was between its two files when the publish came, and lost the
// signal that followed.
func TestLostSignalIsRepeated(t *testing.T) {
	address := freeAddress(t)
	b := newBench(t, vaultAt(address))
	ca, server := b.begin(t, address, "slow")
	if err := server.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	<-server.lines // it has begun to reload
	b.source.put(ca.issue(t, time.Hour), nil)
	if err := b.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m := b.metric(t, address); m != "1" {
		t.Errorf("certificate_served is %q, want 1", m)
	}
	lost := false
	for len(server.lines) > 0 {
		if <-server.lines == "lost" {
			lost = true
		}
	}
	if !lost {
		t.Error("no signal was lost: the test shows nothing")
	}
}

// A server that was restarted with an older file, or lost a signal, is found
// out in steady state.
func TestDriftIsMended(t *testing.T) {
	address := freeAddress(t)
	b := newBench(t, vaultAt(address))
	ca, server := b.begin(t, address, "reload")

	// The files change behind the server's back and ours: as if a process of
	// pkiwarden had died between publish and signal, and its trace was removed.
	next := ca.issue(t, time.Hour)
	p := newPublisher(b.directory)
	mustSync(t, p, next, true)
	if err := p.retire(); err != nil {
		t.Fatal(err)
	}
	b.source.put(next, nil)
	b.restart(t, vaultAt(address))
	if err := b.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m := b.metric(t, address); m != "1" || server.signals() == 0 {
		t.Errorf("certificate_served is %q after %d signals", m, server.hups.Load())
	}
}

// A process killed after the publish left the previous generation: that is how
// the next one knows that the signal is still due, even without an address.
func TestReloadIsDueAfterACrash(t *testing.T) {
	address := freeAddress(t)
	b := newBench(t, vaultAt(address))
	ca, server := b.begin(t, address, "reload")
	next := ca.issue(t, time.Hour)
	mustSync(t, newPublisher(b.directory), next, true)
	b.source.put(next, nil)
	b.restart(t, func(o *Options) { o.Reload = Reload{Signal: "HUP", Process: "vault"} })
	for range 2 {
		if err := b.Once(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := server.signals(); n != 1 {
		t.Errorf("%d signals, want 1", n)
	}
	if n := b.generations(t); n != 1 {
		t.Errorf("%d generations, want 1", n)
	}
	b.wantFindings(t)
}

func TestDoubtMeansNoSignal(t *testing.T) {
	address := freeAddress(t)
	b := newBench(t, func(o *Options) {
		o.Reload = Reload{Signal: "HUP", Process: "vault"} // and no address that tells the two apart
	})
	ca, one := b.begin(t, address, "reload")
	two := b.startServer(t, "127.0.0.1:0", "reload")
	b.source.put(ca.issue(t, time.Hour), nil)
	err := b.Once(t.Context())
	if err == nil || !strings.Contains(err.Error(), "2 could be meant, so none is signalled") {
		t.Errorf("Once = %v", err)
	}
	b.wantFindings(t, "certificate-not-reloaded critical")
	if one.hups.Load()+two.hups.Load() != 0 {
		t.Error("a process was signalled in doubt")
	}
	b.wantPublished(t, b.source.pair)
}

func TestMountedSecret(t *testing.T) {
	mounted := t.TempDir()
	ca := newAuthority(t)
	first, second := ca.issue(t, time.Hour), ca.issue(t, time.Hour)
	files := func(p Pair) map[string][]byte {
		return map[string][]byte{"tls.crt": p.Certificate, "tls.key": p.Key.PEM(), "ca.crt": p.CA}
	}
	rotate(t, mounted, "..1", files(first))
	address := freeAddress(t)
	source, err := NewMountedSource(mounted, Keys{})
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, func(o *Options) {
		vaultAt(address)(o)
		o.Source, o.Files = source, Files{}
	})
	server := start(t, b.process, roleServer, filepath.Join(mounted, "tls.crt"), filepath.Join(mounted, "tls.key"), address, "reload")
	if err := b.Once(t.Context()); err != nil || !b.Delivered() {
		t.Fatal(err)
	}
	rotate(t, mounted, "..2", files(second))
	if err := b.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.wantFindings(t)
	if m := b.metric(t, address); m != "1" || server.signals() == 0 {
		t.Errorf("certificate_served is %q after %d signals", m, server.hups.Load())
	}
	if list := names(t, b.directory); len(list) != 0 {
		t.Errorf("files were written: %v", list)
	}
}

type agent struct {
	reloads int
	err     error
}

func (a *agent) Reload(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok {
		return errors.New("a request without a deadline")
	}
	a.reloads++
	return a.err
}

func TestConsulReload(t *testing.T) {
	consul := &agent{err: &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}}
	b := newBench(t, func(o *Options) { o.Reload = Reload{Consul: consul} })
	ca := newAuthority(t)
	b.source.put(ca.issue(t, time.Hour), nil)
	if err := b.Once(t.Context()); err != nil {
		t.Fatalf("before the agent runs: %v", err)
	}
	consul.err, consul.reloads = nil, 0
	if err := b.Once(t.Context()); err != nil || consul.reloads != 0 {
		t.Errorf("a first pair: %v, %d reloads", err, consul.reloads)
	}
	b.source.put(ca.issue(t, time.Hour), nil)
	if err := b.Once(t.Context()); err != nil || consul.reloads != 1 {
		t.Errorf("a renewal: %v, %d reloads", err, consul.reloads)
	}
	consul.err = errors.New("Unexpected response code: 403 (Permission denied)")
	b.source.put(ca.issue(t, time.Hour), nil)
	if err := b.Once(t.Context()); err == nil || !strings.Contains(err.Error(), "reloading Consul agent: Unexpected response code: 403") {
		t.Errorf("a refusal: %v", err)
	}
	b.wantFindings(t, "certificate-not-reloaded critical")
}

func TestBadPairsLeaveTheOldOne(t *testing.T) {
	b := newBench(t, func(*Options) {})
	ca := newAuthority(t)
	good, other := ca.issue(t, time.Hour), ca.issue(t, time.Hour)
	b.source.put(good, nil)
	if err := b.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		pair Pair
		err  error
		want string
		rule string
	}{
		"mismatch":    {Pair{good.Certificate, other.Key, nil}, nil, "private key does not match", "certificate-not-delivered critical"},
		"expired":     {ca.issue(t, -time.Minute), nil, "does not replace the delivered one", "certificate-not-delivered critical"},
		"unreachable": {Pair{}, errors.New("connection refused"), "connection refused", "certificate-not-delivered critical"},
		"deleted":     {Pair{}, ErrNotYet, "no certificate yet", "certificate-not-delivered warning"},
	} {
		t.Run(name, func(t *testing.T) {
			b.source.put(tc.pair, tc.err)
			if err := b.Once(t.Context()); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Once = %v, want %q", err, tc.want)
			}
			b.wantFindings(t, tc.rule)
			b.wantPublished(t, good)
		})
	}
	b.source.put(other, nil)
	if err := b.Once(t.Context()); err != nil {
		t.Error(err)
	}
	b.wantFindings(t)
	b.wantPublished(t, other)
}

// With the API down, a restarted sidecar goes on with what is on disk.
func TestRestartWithoutSource(t *testing.T) {
	address := freeAddress(t)
	b := newBench(t, vaultAt(address))
	b.begin(t, address, "reload")
	b.source.put(Pair{}, errors.New("connection refused"))
	b.restart(t, vaultAt(address))
	if err := b.Once(t.Context()); err == nil || !b.Delivered() {
		t.Errorf("Once = %v, delivered %t", err, b.Delivered())
	}
	if m := b.metric(t, address); m != "1" {
		t.Errorf("certificate_served is %q, want 1", m)
	}
}

// An expired pair is better than none: the server must be able to start.
func TestExpiredPairIsDeliveredWhenThereIsNoOther(t *testing.T) {
	address := freeAddress(t)
	b := newBench(t, vaultAt(address))
	ca := newAuthority(t)
	expired := ca.issue(t, -time.Minute)
	b.source.put(expired, nil)
	if err := b.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.wantPublished(t, expired)
	b.startServer(t, address, "reload")
	if err := b.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.wantFindings(t, "certificate-not-trusted warning")

	renewed := ca.issue(t, time.Hour)
	b.source.put(renewed, nil)
	if err := b.Once(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.wantFindings(t)
	if m := b.metric(t, address); m != "1" {
		t.Errorf("certificate_served is %q, want 1", m)
	}
}

// A listener that stops answering is unknown, not served and not unserved.
func TestServerGoesAway(t *testing.T) {
	address := freeAddress(t)
	b := newBench(t, vaultAt(address))
	_, server := b.begin(t, address, "reload")
	_ = server.Process.Kill()
	_ = server.Wait()
	b.skew = 2 * time.Minute
	if err := b.Once(t.Context()); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("Once = %v", err)
	}
	b.wantFindings(t, "certificate-not-served unknown")
	if m := b.metric(t, address); m != "" {
		t.Errorf("certificate_served is %s while unknown", m)
	}
	b.startServer(t, address, "reload")
	if err := b.Once(t.Context()); err != nil {
		t.Error(err)
	}
	b.wantFindings(t)
}

func TestNewRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"no name":        {func(o *Options) { o.Certificate = "" }, "want a certificate's name"},
		"no source":      {func(o *Options) { o.Source = nil }, "and a source"},
		"timeout":        {func(o *Options) { o.Timeout = -1 }, "want timeout and interval >= 0"},
		"mode alone":     {func(o *Options) { o.Files = Files{Mode: 0o600} }, "no directory"},
		"mode":           {func(o *Options) { o.Files = Files{Directory: "/x", Mode: 0o040} }, "files' mode is 040"},
		"signal":         {func(o *Options) { o.Reload = Reload{Signal: "KILL", Process: "vault"} }, `reload.signal is "KILL": want HUP, USR1 or USR2`},
		"no process":     {func(o *Options) { o.Reload = Reload{Signal: "HUP"} }, "want the base name"},
		"process's path": {func(o *Options) { o.Reload = Reload{Signal: "HUP", Process: "/bin/vault"} }, "want the base name"},
		"two reloads":    {func(o *Options) { o.Reload = Reload{Signal: "HUP", Process: "vault", Consul: &agent{}} }, "choose one"},
		"address":        {func(o *Options) { o.Verify = []Address{{Address: "vault"}} }, "want host:port"},
	} {
		o := Options{Certificate: "vault-server", Source: &store{}}
		tc.change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), tc.want) || !strings.HasPrefix(err.Error(), "delivering certificate") {
			t.Errorf("%s: New says %v, want %q", name, err, tc.want)
		}
	}
}

func TestSeveralShareOneMetric(t *testing.T) {
	registry := prometheus.NewRegistry()
	for _, name := range []string{"one", "two"} {
		if _, err := New(Options{Certificate: name, Source: &store{}, Registerer: registry}); err != nil {
			t.Error(err)
		}
	}
}

// Run looks often until the first pair exists, calmly afterwards, and logs a
// lasting failure once.
func TestRunSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(o *Options) { o.Files = Files{} })
		pair := newAuthority(t).issue(t, 100*365*24*time.Hour) // the bubble's clock starts in 2000
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.Run(ctx) }()
		time.Sleep(21 * time.Second)
		synctest.Wait()
		if n := len(b.source.taken()); n != 11 {
			t.Errorf("%d reads in the first 21s, want one every 2s", n)
		}
		b.source.put(pair, nil)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		b.source.taken()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		pauses := map[time.Duration]bool{}
		reads := b.source.taken()
		for i, at := range reads[1:] {
			pause := at.Sub(reads[i])
			pauses[pause] = true
			if pause < 12*time.Second || pause > 18*time.Second {
				t.Errorf("a pause of %s, want 15s give or take a fifth", pause)
			}
		}
		if len(pauses) < 10 {
			t.Errorf("only %d different pauses: no jitter", len(pauses))
		}
		b.source.put(Pair{}, errors.New("connection refused"))
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := strings.Count(b.log.String(), "connection refused"); n != 1 {
			t.Errorf("a lasting failure was logged %d times:\n%s", n, b.log)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	})
}
