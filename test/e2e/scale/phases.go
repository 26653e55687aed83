package scale

import (
	"bytes"
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
)

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
	s.monitor.forgetPeak()
	return func(right time.Time) *Phase {
		now := time.Now()
		p := &Phase{Took: right.Sub(began), Calls: s.audit.calls(user).Since(calls), Usage: s.monitor.usage(began, now), Over: now.Sub(began)}
		p.Usage.Most = max(p.Usage.Most, s.monitor.peak())
		return p
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
	if s.result.Birth, err = s.converge(ctx, "birth", end); err != nil {
		return err
	}
	return s.slow(ctx)
}

// slow gives pkiwarden the rate that is measured.
func (s *scene) slow(ctx context.Context) error {
	fast, slow := fmt.Sprintf("qps: %d\n", birthQPS), fmt.Sprintf("qps: %d\n", qps)
	if n := bytes.Count(s.base, []byte(fast)); n != 1 {
		return fmt.Errorf("setting the rate: the configuration has %q %d times, want once", fast, n)
	}
	s.base = bytes.Replace(s.base, []byte(fast), []byte(slow), 1)
	if err := s.configure(0); err != nil {
		return err
	}
	if err := s.pod.Signal(syscall.SIGHUP); err != nil {
		return err
	}
	const reloaded = 20 * time.Second // and every certificate looked at once, from what is remembered
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(reloaded):
	}
	return s.quiet(ctx)
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
	s.tell("%s begins", phase)
	err := s.await(ctx, "valid", func() (int, string) {
		done, pending := s.witness.done()
		return done, fmt.Sprintf("%s keys of requests under way", grouped(pending))
	}, s.fleet.size)
	right := time.Now()
	if err == nil {
		err = s.await(ctx, "finished", func() (int, string) {
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
	s.monitor.forgetPeak()
	s.result.StatusBytes, err = s.monitor.size(ctx, "/status.json")
	s.result.StatusPeak = s.monitor.peak()
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
	var (
		leads   time.Duration
		m       scrape
		refused error
	)
	err := s.await(ctx, "known again", func() (int, string) {
		// A page of many certificates is large, and costs who makes it.
		if time.Since(m.at) >= askEvery {
			m, refused = s.monitor.scrape(ctx)
			if m.leading && leads == 0 {
				leads = time.Since(began)
			}
		}
		if refused != nil {
			return 0, refused.Error()
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

// askEvery is the time between two questions to pkiwarden itself.
const askEvery = time.Second

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
			return fmt.Errorf("%s of %s (%s) after %s, and no progress for %s; %s; the end of the log:\n%s",
				grouped(done), grouped(all), what, took(now.Sub(began)), took(s.o.Patience), detail, s.pod.LogTail(10))
		}
		if err := s.well(); err != nil {
			return err
		}
		if now.Sub(told) >= tellEvery {
			told = now
			s.tell("%s: %s of %s after %s, %s calls; %s", what, grouped(done), grouped(all), took(now.Sub(began)), grouped(s.audit.calls(controller).Total()), detail)
		}
		if err := pause(ctx, look); err != nil {
			return fmt.Errorf("%s of %s (%s) after %s: %w", grouped(done), grouped(all), what, took(now.Sub(began)), err)
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
