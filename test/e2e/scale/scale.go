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

	ConfigBytes  int64
	MetricsBytes int64
	StatusBytes  int64 // of /status.json
	StatusPeak   int64 // RSS at most while that was asked for
	Baseline     *Phase
	Wrong        []string // what was not as it must be
	Err          error    // why it ended early
}

// Peak is the largest RSS at any time but while /status.json was asked for.
func (r Result) Peak() int64 {
	var most int64
	for _, p := range []*Phase{r.Birth, r.Steady, r.Renewal, r.Restart} {
		if p != nil {
			most = max(most, p.Usage.Most)
		}
	}
	return most
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
		s.result.Again = s.witness.renewedAgain()
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
		Set: map[string]any{"vault": nil, "tidy": nil, "certificates": nil, "kubernetes.qps": birthQPS, "kubernetes.burst": burst},
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
