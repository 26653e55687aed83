package matrix

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

const (
	hitWithin      = 45 * time.Second
	convergeWithin = time.Minute // after the last fault
	leaseDuration  = 3 * time.Second
)

// Outcome is how a trial ended.
type Outcome struct {
	Case       string
	Seed       uint64
	Hit        bool          // the point was reached, or the fault took place
	Violations []string      // what was promised and not kept
	Point      string        // where the fault began
	Converged  time.Duration // from the end of the fault until all was as wanted
	Took       time.Duration // the whole trial
	Again      bool          // killed a second time
	Err        error         // the harness itself failed
	Logs       string        // the ends of the processes' logs, where it failed
}

// trial is one renewal under one fault.
type trial struct {
	*watched
	lane   *lane
	name   string
	random *rand.Rand
	marker string // a name that only the certificate wanted now has
	set    map[string]any
	leases bool // a Lease says who leads; else everybody does
	first  atomic.Pointer[process]

	processes []*process
	drawing   sync.Mutex // random is drawn from by several
}

// run makes one trial. Its outcome depends on name, seed and the servers' own
// timing.
func (l *lane) run(ctx context.Context, name string, seed uint64) Outcome {
	l.count++
	t := &trial{
		watched: newWatched(), lane: l, name: name, random: rand.New(rand.NewPCG(seed, 77)),
		marker: fmt.Sprintf("trial-%d-%d.vault.svc", l.count, seed),
	}
	began := time.Now()
	t.behind, l.ahead = l.ahead, 0
	o := Outcome{Case: name, Seed: seed}
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	o.Err = t.run(ctx, &o)
	t.end()
	t.checkLogs()
	t.mu.Lock()
	defer t.mu.Unlock()
	o.Violations = t.violations
	o.Took = time.Since(began)
	if o.Failed() != "" {
		for _, p := range t.processes {
			o.Logs += fmt.Sprintf("the end of %s:\n%s\n", p.LogPath(), p.LogTail(25))
		}
	}
	return o
}

func (t *trial) run(ctx context.Context, o *Outcome) error {
	if err := t.prepare(ctx); err != nil {
		return err
	}
	t.check(ctx, "at the start")
	first, err := t.process(ctx, podNames[0])
	if err != nil {
		return err
	}
	t.first.Store(first)
	reading, stop := context.WithCancel(ctx)
	defer stop()
	reached := t.points(ctx)
	var readers sync.WaitGroup
	readers.Go(func() { t.reader(reading, reached) })
	readers.Go(func() { t.serving(reading, reached) })
	t.lane.proof.tell(reached)
	defer t.lane.proof.tell(func(string) {})

	if point, ok := strings.CutPrefix(t.name, killed); ok {
		o.Point = point
		err = t.kill(ctx, o, point)
	} else {
		err = t.disturb(ctx, o)
	}
	if err != nil || !o.Hit {
		return err
	}
	began := time.Now()
	if err := world.Eventually(ctx, convergeWithin, t.converged); err != nil {
		t.violate("does not converge: %v", err)
	}
	o.Converged = time.Since(began)
	t.check(ctx, "at the end")
	t.mu.Lock()
	if n := len(t.created); n > 3 {
		t.mu.Unlock()
		t.violate("I5: %d requests for one renewal", n)
	} else {
		t.mu.Unlock()
	}
	stop()
	readers.Wait()
	return nil
}

// prepare forgets earlier trials, whose requests would count against this one's,
// and draws what is to happen.
func (t *trial) prepare(ctx context.Context) error {
	w := t.lane.world
	err := w.Client.CoreV1().Secrets(world.Namespace).Delete(ctx, nextName, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	err = w.Client.CertificatesV1().CertificateSigningRequests().DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return err
	}
	// The issuance budget is kept there.
	list, err := w.Client.CoreV1().ConfigMaps(world.ControllerNamespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, c := range list.Items {
		if c.Name == "kube-root-ca.crt" {
			continue
		}
		if err := w.Client.CoreV1().ConfigMaps(world.ControllerNamespace).Delete(ctx, c.Name, metav1.DeleteOptions{}); err != nil {
			return err
		}
	}
	err = w.Client.CoordinationV1().Leases(world.ControllerNamespace).Delete(ctx, world.LeaseName, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	t.set = map[string]any{"certificates.0.lifetime": "1h"}
	switch {
	case t.name == standby:
		t.leases = true
	case strings.HasPrefix(t.name, killed):
		t.leases = t.chance(5) == 0
	default:
		t.leases = t.chance(2) == 0
	}
	if t.leases {
		t.set["leaderElection.backend"] = "kubernetes"
		t.set["leaderElection.leaseDuration"] = leaseDuration.String()
		t.set["leaderElection.renewDeadline"] = "1500ms"
		t.set["leaderElection.retryPeriod"] = "400ms"
	}
	switch t.random.IntN(4) {
	case 0: // a birth, as far as the cluster is concerned
		err := w.Client.CoreV1().Secrets(world.Namespace).Delete(ctx, world.SecretName, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	case 1:
		t.set["certificates.0.key"] = map[string]any{"algorithm": "RSA", "size": 2048}
	}
	return nil
}

// process prepares a pkiwarden whose writes are checked and whose requests take
// their time.
func (t *trial) process(ctx context.Context, pod string) (*process, error) {
	set := maps.Clone(t.set)
	set["certificates.0.dnsNames"] = []any{t.marker, world.ServerName}
	p, err := t.lane.newProcess(ctx, pod, set)
	if err != nil {
		return nil, err
	}
	p.gate.set(func(g *gate) {
		g.delay = func() time.Duration { return t.draw(20 * time.Millisecond) }
		g.wrote = func(s step) { t.check(context.WithoutCancel(ctx), "after "+string(s)) }
	})
	t.processes = append(t.processes, p)
	return p, nil
}

// draw is a random time below most.
func (t *trial) draw(most time.Duration) time.Duration {
	t.drawing.Lock()
	defer t.drawing.Unlock()
	return time.Duration(t.random.Int64N(int64(most)))
}

func (t *trial) chance(n int) int { return int(t.draw(time.Duration(n))) }

// points is called with each point beyond the API server. The handshakes count
// from the new pair on.
func (t *trial) points(ctx context.Context) func(string) {
	var mu sync.Mutex
	delivered := false
	return func(point string) {
		mu.Lock()
		if point == filesDone {
			delivered = true
		}
		counts := delivered || point == filesBegun
		mu.Unlock()
		p := t.first.Load()
		if !counts || p == nil {
			return
		}
		p.gate.mu.Lock()
		hit := p.gate.hit
		if p.gate.point != point {
			hit = nil
		} else {
			p.gate.hit = nil
		}
		p.gate.mu.Unlock()
		if hit != nil {
			hit()
		}
	}
}

// serving holds that Vault answers all the time, and tells when it presents
// another leaf than at the start.
func (t *trial) serving(ctx context.Context, reached func(string)) {
	const now, then = 10 * time.Millisecond, 250 * time.Millisecond
	w := t.lane.world
	before, err := w.ServedLeaf(ctx)
	if err != nil {
		t.violate("vault does not answer at the start: %v", err)
		return
	}
	files := target(w.TLSDir)
	refused, told, asked := 0, false, time.Now()
	for ctx.Err() == nil {
		// Other files must be there before another leaf can be.
		if waiting := !told && target(w.TLSDir) != files; waiting || time.Since(asked) > then {
			asked = time.Now()
			leaf, err := w.ServedLeaf(ctx)
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				if refused++; refused == 3 {
					t.violate("vault does not answer: %v", err)
				}
			case !told && !leaf.Equal(before):
				told = true
				reached(reloaded)
				fallthrough
			default:
				refused = 0
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(now):
		}
	}
}

// kill ends the process at the point, for one in three trials the next process
// too at another point, and lets the next one go on: of the same pod or of
// another.
func (t *trial) kill(ctx context.Context, o *Outcome, point string) error {
	if err := t.killAt(ctx, t.first.Load(), point); err != nil {
		if errors.Is(err, errNotHit) {
			return nil
		}
		return err
	}
	o.Hit = true
	t.check(ctx, "after the kill")
	if t.chance(3) == 0 {
		all := killPoints()
		p, err := t.process(ctx, podNames[t.chance(2)])
		if err != nil {
			return err
		}
		again := all[t.chance(len(all))]
		// Much is done already, so the point may never come.
		t.first.Store(p)
		struck := make(chan struct{})
		p.gate.at(again, func() { t.end9(p); close(struck) })
		if err := p.Start(ctx); err != nil && p.Running() {
			return err
		}
		select {
		case <-struck:
		case <-ctx.Done():
		case <-time.After(t.draw(3 * time.Second)): // a renewal takes less than two
		}
		p.gate.at("", nil)
		o.Again = !p.Running()
		t.end9(p)
		t.check(ctx, "after the second kill")
	}
	p, err := t.process(ctx, podNames[t.chance(2)])
	if err != nil {
		return err
	}
	t.first.Store(p)
	return p.Start(ctx)
}

var errNotHit = errors.New("the point was not reached")

// killAt starts a process that is killed at a point.
func (t *trial) killAt(ctx context.Context, p *process, point string) error {
	struck := make(chan struct{})
	p.gate.at(point, func() { t.end9(p); close(struck) })
	if err := p.Start(ctx); err != nil {
		select {
		case <-struck: // before it was ready
		case <-time.After(time.Second):
			return err
		}
	}
	select {
	case <-struck:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(hitWithin):
		return errNotHit
	}
	code, err := p.Wait(ctx)
	if err == nil && code != -int(syscall.SIGKILL) {
		err = fmt.Errorf("the process ended with %d, not by SIGKILL", code)
	}
	return err
}

// end9 kills a process and lets nothing of it through any more.
func (t *trial) end9(p *process) {
	p.gate.set(func(g *gate) { g.closed = true })
	if err := p.Kill(); err != nil {
		t.violate("killing: %v", err)
	}
}

// end stops what still runs, as an administrator does, and closes its ways.
func (t *trial) end() {
	for _, p := range t.processes {
		t.checkAsked(p)
		if p.Running() {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			if err := p.Stop(ctx); err != nil {
				t.violate("stopping: %v", err)
			}
			if code, err := p.Wait(ctx); err != nil || code != 0 && code != 130 && code != 143 {
				t.violate("it ended with %d after SIGTERM, %v", code, err)
			}
			cancel()
		}
		p.close()
	}
}

// checkAsked: nobody hurries in vain. A renewal takes about forty requests, and
// the most that a fault was seen to add are twenty.
func (t *trial) checkAsked(p *process) {
	asked := 0
	p.gate.set(func(g *gate) { asked = g.asked })
	if most := 100 + int(5*time.Since(p.made).Seconds()); asked > most {
		t.violate("I7: %d requests in %s, more than %d", asked, time.Since(p.made).Round(time.Second), most)
	}
}

// checkLogs: no key and no token stands in what was printed.
func (t *trial) checkLogs() {
	for _, p := range t.processes {
		text, err := os.ReadFile(p.LogPath())
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.violate("reading the log: %v", err)
			continue
		}
		words := []string{"PRIVATE KEY", "hvs."}
		t.mu.Lock()
		for line := range t.keyLines {
			words = append(words, line)
		}
		t.mu.Unlock()
		if token, err := os.ReadFile(p.Identity.TokenFile); err == nil {
			words = append(words, string(token))
		}
		for _, w := range words {
			if strings.Contains(string(text), w) {
				t.violate("I3: the log holds a key or a token")
			}
		}
		if strings.Contains(string(text), "panic") {
			t.violate("a panic: %s", p.LogPath())
		}
	}
}
