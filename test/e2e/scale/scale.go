// Package scale measures pkiwarden with many certificates, on real servers: how
// long it takes and how much it asks of the API server until all are there, while
// nothing is due, while all are renewed at once, and after it was killed; and how
// much memory that takes.
//
// Requests are counted by the API server, in its audit log, and certificates are
// judged by a watch of the harness itself: nothing that pkiwarden says of itself
// is believed but for when it knows all certificates again.
package scale

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// The goals, at every size. Missing one is told, and fails nothing.
const (
	GoalCalls  = 6 // of the API for each renewal, on average
	GoalTook   = 20 * time.Minute
	GoalMemory = 64 << 20
)

// Options say what is measured.
type Options struct {
	Sizes    []int
	Steady   time.Duration // how long nothing is due; default two minutes
	Patience time.Duration // without any progress before it gives up; default five minutes
	// Baseline is the largest size at which the same renewals are also made by
	// the least calls that do it; 0 for none.
	Baseline int
	// Pkiwarden is the program; by default it is built from this checkout.
	Pkiwarden string
	// NewSet makes the servers' set of one size. Whoever makes it closes it.
	NewSet   func() (*servers.Set, error)
	Progress io.Writer // default: nobody is told
}

// Phase is what one phase took.
type Phase struct {
	Took  time.Duration // until the last certificate was right
	Calls Calls         // until nothing was left to do
	Usage Usage
	Over  time.Duration // in which Calls were counted
}

// Each is how many calls there were for each of n certificates, without those
// that do not depend on them.
func (p *Phase) Each(n int) float64 { return float64(p.Calls.Counted()) / float64(n) }

// PerMinute is how many calls there were a minute, all of them.
func (p *Phase) PerMinute() float64 { return float64(p.Calls.Total()) / p.Over.Minutes() }

// Result is what was measured at one size. Phases that were not reached are nil.
type Result struct {
	Size    int
	Birth   *Phase // from no certificate at all
	Steady  *Phase
	Renewal *Phase // of all at once, because their names change
	Restart *Phase // after a SIGKILL, until all certificates are known again
	Leading time.Duration
	Again   int // certificates that were renewed more often than once

	Peak                 int64 // RSS, at any time
	ConfigBytes          int64
	MetricsBytes, Status int64 // of /metrics and /status.json, in steady state
	Baseline             *Phase
	Wrong                []string // what was not as it must be
	Err                  error    // why it ended early
}

// Complete tells whether every phase was measured.
func (r Result) Complete() bool { return r.Err == nil && r.Restart != nil }

// Run measures one size after the other. A size that cannot be measured to its
// end carries its error; Run itself fails only where ctx ends.
func Run(ctx context.Context, o Options) ([]Result, error) {
	if o.Steady == 0 {
		o.Steady = 2 * time.Minute
	}
	if o.Patience == 0 {
		o.Patience = 5 * time.Minute
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	var results []Result
	for _, size := range o.Sizes {
		s := &scene{o: o, fleet: &fleet{size: size}, result: Result{Size: size}}
		s.result.Err = s.play(ctx)
		if s.witness != nil {
			s.result.Wrong, _ = s.witness.failures()
		}
		results = append(results, s.result)
		if ctx.Err() != nil {
			return results, context.Cause(ctx)
		}
		if s.result.Err != nil {
			s.tell("gave up: %v", s.result.Err)
		}
	}
	return results, nil
}

const (
	controller = "system:serviceaccount:" + world.ControllerNamespace + ":pkiwarden"
	tokenLife  = 24 * time.Hour
	// startWithin bounds how long a start may take until /healthz answers; what
	// takes long is reading the configuration.
	startWithin = 10 * time.Minute
)

// scene is the measuring of one size.
type scene struct {
	o       Options
	fleet   *fleet
	result  Result
	world   *world.World
	pod     *world.Pod
	base    []byte // the configuration without certificates
	audit   *auditLog
	witness *witness
	monitor *monitor
}

func (s *scene) tell(format string, args ...any) {
	fmt.Fprintf(s.o.Progress, "%s certificates: %s\n", grouped(s.fleet.size), fmt.Sprintf(format, args...))
}

// play measures all phases in turn.
func (s *scene) play(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	set, err := s.o.NewSet()
	if err != nil {
		return err
	}
	// The next size needs the memory and the processors.
	defer func() {
		for _, p := range set.Programs() {
			_ = p.Kill()
		}
	}()
	if err := s.prepare(ctx, set); err != nil {
		return err
	}
	go s.audit.follow(ctx, filepath.Join(set.Dir(), auditFile))
	go s.witness.follow(ctx, s.world.Client)
	go s.monitor.run(ctx)
	for _, phase := range []struct {
		name    string
		measure func(context.Context) error
	}{
		{"birth", s.birth}, {"nothing is due", s.steady}, {"renewal", s.renewal}, {"restart", s.restart}, {"baseline", s.baseline},
	} {
		if err := phase.measure(ctx); err != nil {
			return fmt.Errorf("%s: %w", phase.name, err)
		}
		s.result.Again, s.result.Peak = s.witness.renewedAgain(), s.monitor.highest()
	}
	return nil
}

const (
	auditFile   = "audit.log"
	auditConfig = "audit-policy.yaml"
)

// prepare starts the servers and prepares the product, which it does not start.
func (s *scene) prepare(ctx context.Context, set *servers.Set) error {
	policy := filepath.Join(set.Dir(), auditConfig)
	if err := os.WriteFile(policy, []byte(auditPolicy(controller, baselineUser)), 0o600); err != nil {
		return fmt.Errorf("writing the audit policy: %w", err)
	}
	log := filepath.Join(set.Dir(), auditFile)
	if err := os.WriteFile(log, nil, 0o600); err != nil {
		return fmt.Errorf("making the audit log: %w", err)
	}
	var err error
	s.world, err = world.New(ctx, set, world.Options{
		Shape: world.Controller, SigningDuration: lifetime,
		Kubernetes: servers.KubernetesOptions{
			APIServerArgs: []string{
				"--audit-policy-file=" + policy, "--audit-log-path=" + log, "--audit-log-maxsize=0", // is never rotated
				"--max-requests-inflight=4000", "--max-mutating-requests-inflight=2000",
			},
			ControllerManagerArgs: []string{"--kube-api-qps=1000", "--kube-api-burst=2000"},
			Env:                   []string{"GOMEMLIMIT=2GiB"},
		},
	})
	if err != nil {
		return err
	}
	if s.o.Pkiwarden != "" {
		s.world.Pkiwarden = s.o.Pkiwarden
	}
	if err := allowAnyName(ctx, s.world.Client); err != nil {
		return err
	}
	s.pod, err = s.world.NewPod(ctx, world.PodOptions{
		Name: "pkiwarden-0", Config: "controller/config.yaml", Namespace: world.ControllerNamespace, ServiceAccount: "pkiwarden", ReadyWithin: startWithin,
		Set: map[string]any{"vault": nil, "tidy": nil, "certificates": nil, "kubernetes.qps": qps, "kubernetes.burst": burst},
	})
	if err != nil {
		return err
	}
	if err := s.pod.Identity.Refresh(ctx, tokenLife); err != nil {
		return err
	}
	if s.base, err = os.ReadFile(s.pod.ConfigFile); err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	s.audit, s.monitor = newAuditLog(controller, baselineUser), &monitor{address: s.pod.Address}
	s.witness, err = newWitness(s.fleet, s.world.Kubernetes.CA.PEM)
	return err
}

// configure writes the configuration of a generation.
func (s *scene) configure(generation int) error {
	s.witness.expect(generation)
	text := s.fleet.declare(s.base)
	s.result.ConfigBytes = int64(len(text))
	return replace(s.pod.ConfigFile, text)
}

// begin starts a phase; what it returns ends it, with the time at which the last
// certificate was right.
func (s *scene) begin(user string) func(right time.Time) *Phase {
	began, calls := time.Now(), s.audit.calls(user)
	return func(right time.Time) *Phase {
		now := time.Now()
		return &Phase{Took: right.Sub(began), Calls: s.audit.calls(user).Since(calls), Usage: s.monitor.usage(began, now), Over: now.Sub(began)}
	}
}

func (s *scene) start(ctx context.Context) error {
	began := time.Now()
	if err := s.pod.Start(ctx); err != nil {
		return err
	}
	s.monitor.of(s.pod.PID())
	s.tell("pkiwarden answers after %s, its configuration has %s bytes", took(time.Since(began)), grouped(int(s.result.ConfigBytes)))
	return nil
}

func (s *scene) birth(ctx context.Context) error {
	if err := s.configure(0); err != nil {
		return err
	}
	end := s.begin(controller)
	if err := s.start(ctx); err != nil {
		return err
	}
	var err error
	s.result.Birth, err = s.converge(ctx, "birth", end)
	return err
}

func (s *scene) renewal(ctx context.Context) error {
	before := s.witness.all()
	end := s.begin(controller)
	if err := s.configure(1); err != nil {
		return err
	}
	if err := s.pod.Signal(syscall.SIGHUP); err != nil {
		return err
	}
	var err error
	if s.result.Renewal, err = s.converge(ctx, "renewal", end); err != nil {
		return err
	}
	return s.witness.check(ctx, s.world.Client, before)
}

// converge waits until all certificates are of the wanted generation, then until
// nothing is left of the requests, and until pkiwarden writes nothing more.
func (s *scene) converge(ctx context.Context, phase string, end func(time.Time) *Phase) (*Phase, error) {
	err := s.await(ctx, phase+", valid", func() (int, string) {
		done, pending := s.witness.done()
		return done, fmt.Sprintf("%s keys of requests under way", grouped(pending))
	}, s.fleet.size)
	right := time.Now()
	if err == nil {
		err = s.await(ctx, phase+", finished", func() (int, string) {
			_, pending := s.witness.done()
			return s.fleet.size - pending, ""
		}, s.fleet.size)
	}
	if err == nil {
		err = s.quiet(ctx)
	}
	p := end(right)
	if err == nil {
		s.tell("%s: all after %s, %.1f calls each", phase, took(p.Took), p.Each(s.fleet.size))
	}
	return p, err
}

const (
	quietFor    = 2 * time.Second
	quietWithin = time.Minute
)

// quiet waits until nothing was written for some seconds: Events, for instance,
// come beside.
func (s *scene) quiet(ctx context.Context) error {
	last, since := -1, time.Now()
	for began := time.Now(); time.Since(began) < quietWithin; {
		if now := s.audit.calls(controller).Writes(); now != last {
			last, since = now, time.Now()
		} else if time.Since(since) >= quietFor {
			return nil
		}
		if err := pause(ctx, look); err != nil {
			return err
		}
	}
	return nil // it goes on writing, which the figures show
}

func (s *scene) steady(ctx context.Context) error {
	before := s.witness.all()
	end := s.begin(controller)
	began := time.Now()
	for time.Since(began) < s.o.Steady {
		if err := pause(ctx, min(5*time.Second, s.o.Steady)); err != nil {
			return err
		}
		if err := s.well(); err != nil {
			return err
		}
		s.tell("nothing is due, %s of %s", took(time.Since(began)), took(s.o.Steady))
	}
	s.result.Steady = end(time.Now())
	for name, p := range s.witness.all() {
		if before[name] != p {
			s.witness.blame("%s: another certificate while none was due", name)
		}
	}
	m, err := s.monitor.scrape(ctx)
	if err != nil {
		return err
	}
	s.result.MetricsBytes = m.bytes
	s.result.Status, err = s.monitor.size(ctx, "/status.json")
	return err
}

func (s *scene) restart(ctx context.Context) error {
	before := s.witness.all()
	if err := s.pod.Kill(); err != nil {
		return err
	}
	end := s.begin(controller)
	began := time.Now()
	if err := s.start(ctx); err != nil {
		return err
	}
	var leads time.Duration
	err := s.await(ctx, "restart, known", func() (int, string) {
		m, err := s.monitor.scrape(ctx)
		if err != nil {
			return 0, err.Error()
		}
		if m.leading && leads == 0 {
			leads = time.Since(began)
		}
		return m.renewals, fmt.Sprintf("leading %t", m.leading)
	}, s.fleet.size)
	if err != nil {
		return err
	}
	known := time.Now()
	if err := s.quiet(ctx); err != nil {
		return err
	}
	s.result.Restart, s.result.Leading = end(known), leads
	for name, p := range s.witness.all() {
		if before[name] != p {
			s.witness.blame("%s: another certificate after a restart", name)
		}
	}
	s.tell("restart: all known after %s, %s calls", took(s.result.Restart.Took), grouped(s.result.Restart.Calls.Total()))
	return nil
}

// look is the time between two looks of the harness at what it has counted.
const look = 250 * time.Millisecond

// tellEvery is the time between two lines of progress.
const tellEvery = 5 * time.Second

// await asks how many are done until all are. It gives up where that number does
// not change for the patience.
func (s *scene) await(ctx context.Context, what string, ask func() (done int, detail string), all int) error {
	began := time.Now()
	last, changed, told := -1, began, began
	for {
		done, detail := ask()
		now := time.Now()
		switch {
		case done == all:
			return nil
		case done != last:
			last, changed = done, now
		case now.Sub(changed) > s.o.Patience:
			return fmt.Errorf("%s: no progress for %s, %s of %s done after %s (%s); the end of the log:\n%s",
				what, took(s.o.Patience), grouped(done), grouped(all), took(now.Sub(began)), detail, s.pod.LogTail(10))
		}
		if err := s.well(); err != nil {
			return err
		}
		if now.Sub(told) >= tellEvery {
			told = now
			s.tell("%s: %s of %s after %s, %s calls; %s", what, grouped(done), grouped(all), took(now.Sub(began)), grouped(s.audit.calls(controller).Total()), detail)
		}
		if err := pause(ctx, look); err != nil {
			return err
		}
	}
}

// well tells why what is measured means nothing any more.
func (s *scene) well() error {
	if !s.pod.Running() {
		return fmt.Errorf("pkiwarden ended; the end of its log:\n%s", s.pod.LogTail(20))
	}
	if err := s.audit.problem(); err != nil {
		return err
	}
	for _, p := range []*servers.Program{s.world.Kubernetes.Etcd.Program, s.world.Kubernetes.APIServer, s.world.Kubernetes.ControllerManager} {
		if !p.Running() {
			return fmt.Errorf("%s ended; the end of its log:\n%s", p.Name(), p.LogTail(20))
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
