package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// story is what has been seen so far.
type story struct {
	start time.Time
	world *world.World
	pod   *world.Pod
	pki   *world.PKI
	old   *x509.Certificate // Vault's at the beginning

	mu   sync.Mutex // guards what follows, and the output
	seen seen
}

// seen is what the summary tells.
type seen struct {
	renewed     time.Time // a client was served another leaf
	newLeaf     *x509.Certificate
	failed      int // handshakes of a client that verifies
	handshakes  int
	revoked     int
	peakBytes   int
	peakEntries int
	tidied      bool
	deleted     string
	afterBytes  int
	afterCount  int
	metrics     bool
}

func newStory() *story { return &story{start: time.Now()} }

// tell prints one line: when, who has seen it, and what.
func (s *story) tell(who, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Printf("%6.1fs  %-9s %s\n", time.Since(s.start).Seconds(), who, fmt.Sprintf(format, args...))
}

func (s *story) note(change func(*seen)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.seen)
}

func (s *story) read() seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen
}

// observe runs the workload and the observers until the story is told.
func (s *story) observe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storyWithin)
	defer cancel()
	var wg sync.WaitGroup
	errs := make(chan error, 4)
	for _, part := range []func(context.Context) error{s.workload, s.watchTLS, s.watchCRL, s.watchTidy} {
		wg.Go(func() {
			if err := part(ctx); err != nil && ctx.Err() == nil {
				errs <- err
				cancel()
			}
		})
	}
	err := world.Eventually(ctx, storyWithin, s.missing)
	if err == nil {
		err = s.scrape(ctx)
	}
	cancel()
	wg.Wait()
	select {
	case failed := <-errs:
		return failed
	default:
	}
	if err != nil {
		return fmt.Errorf("the story was not told: %w; the end of pkiwarden's log:\n%s", err, s.pod.LogTail(20))
	}
	return nil
}

// missing is what has not been seen yet.
func (s *story) missing(context.Context) error {
	now := s.read()
	switch {
	case now.renewed.IsZero():
		return errors.New("vault still serves its old certificate")
	case !now.tidied:
		return errors.New("vault has not finished a tidy")
	case now.afterCount == 0:
		return errors.New("the CRL has not shrunk")
	}
	return nil
}

// every calls look again and again until ctx ends or look fails.
func every(ctx context.Context, pause time.Duration, look func(context.Context) error) error {
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		if err := look(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// workload is a fleet of short-lived pods.
func (s *story) workload(ctx context.Context) error {
	s.tell("workload", "issues and revokes a certificate every %s, each valid for %s", podEvery, podTTL)
	return every(ctx, podEvery, func(ctx context.Context) error {
		n := s.read().revoked
		if err := s.pki.IssueAndRevoke(ctx, fmt.Sprintf("pod-%d.example.internal", n)); err != nil {
			return err
		}
		s.note(func(x *seen) { x.revoked++ })
		return nil
	})
}

// watchTLS is a client of Vault that verifies its certificate.
func (s *story) watchTLS(ctx context.Context) error {
	s.tell("client", "vault serves leaf %s, signed by %q, which ends in %.0f s", world.Fingerprint(s.old), s.old.Issuer.CommonName, time.Until(s.old.NotAfter).Seconds())
	return every(ctx, lookEvery, func(ctx context.Context) error {
		trusted := s.world.TrustedHandshake(ctx)
		served, err := s.world.ServedLeaf(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("shaking hands with vault: %w", err)
		}
		first := s.read().renewed.IsZero() && !served.Equal(s.old)
		s.note(func(x *seen) {
			x.handshakes++
			if trusted != nil {
				x.failed++
			}
			if first {
				x.renewed, x.newLeaf = time.Now(), served
			}
		})
		if first {
			s.tell("client", "vault now serves leaf %s, which ends in %.0f s; the old one had %.0f s left", world.Fingerprint(served),
				time.Until(served.NotAfter).Seconds(), time.Until(s.old.NotAfter).Seconds())
		}
		return nil
	})
}

// watchCRL is a client that downloads the CRL and parses it.
func (s *story) watchCRL(ctx context.Context) error {
	told := 0 // tenths of the limit
	return every(ctx, lookEvery, func(ctx context.Context) error {
		list, err := s.pki.CRL(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		size, entries := len(list.Raw), len(list.RevokedCertificateEntries)
		before := s.read()
		switch {
		case before.afterCount > 0:
			return nil
		case before.tidied && entries < before.peakEntries*9/10:
			s.tell("client", "the CRL has shrunk to %s, %d entries", bytes(size), entries)
			s.note(func(x *seen) { x.afterBytes, x.afterCount = size, entries })
			return nil
		}
		s.note(func(x *seen) {
			if entries > x.peakEntries {
				x.peakBytes, x.peakEntries = size, entries
			}
		})
		if tenths := size * 10 / maxEntrySize; tenths > told {
			told = tenths
			s.tell("client", "the CRL is %s, %d entries: %d %% of what the storage takes", bytes(size), entries, size*100/maxEntrySize)
		}
		return nil
	})
}

// watchTidy is an administrator who asks Vault how its tidy is doing.
func (s *story) watchTidy(ctx context.Context) error {
	last := "Inactive"
	return every(ctx, lookEvery, func(ctx context.Context) error {
		status, err := s.pki.TidyStatus(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading tidy-status: %w", err)
		}
		state := fmt.Sprint(status["state"])
		if state == last {
			return nil
		}
		last = state
		if state != "Finished" {
			s.tell("vault", "tidy: %s", state)
			return nil
		}
		deleted := fmt.Sprint(status["revoked_cert_deleted_count"])
		s.tell("vault", "tidy: %s, %s expired revocations deleted", state, deleted)
		s.note(func(x *seen) {
			if !x.tidied {
				x.tidied, x.deleted = true, deleted
			}
		})
		return nil
	})
}

// scrape reads pkiwarden's own figures and holds them against what the
// observers saw.
func (s *story) scrape(ctx context.Context) error {
	const series = `{issuer="root",mount="pki"}`
	size, err := s.pod.Metric(ctx, "pkiwarden_crl_bytes"+series)
	if err != nil {
		return err
	}
	limit, err := s.pod.Metric(ctx, "pkiwarden_crl_limit_bytes"+series)
	if err != nil {
		return err
	}
	s.tell("scraper", "http://%s/metrics: pkiwarden_crl_bytes %.0f, pkiwarden_crl_limit_bytes %.0f", s.pod.Address, size, limit)
	s.note(func(x *seen) { x.metrics = true })
	return nil
}

func (s *story) summary() {
	x := s.read()
	fmt.Printf("\nSummary, after %.0f s\n", time.Since(s.start).Seconds())
	fmt.Printf("  certificate  renewed and served %.0f s before the old one ended; %d of %d handshakes of a verifying client failed\n",
		s.old.NotAfter.Sub(x.renewed).Seconds(), x.failed, x.handshakes)
	fmt.Printf("  CRL          grew to %s (%d entries), %d %% of the limit, and shrank to %s (%d entries)\n",
		bytes(x.peakBytes), x.peakEntries, x.peakBytes*100/maxEntrySize, bytes(x.afterBytes), x.afterCount)
	fmt.Printf("  tidy         deleted %s of %d revocations, while the workload went on\n", x.deleted, x.revoked)
}

// keep lets the workload go on, and says when the CRL or the certificate
// change, until ctx ends.
func (s *story) keep(ctx context.Context) {
	var wg sync.WaitGroup
	for _, part := range []func(context.Context) error{s.workload, s.watchTidy} {
		wg.Go(func() {
			if err := part(ctx); err != nil && ctx.Err() == nil {
				s.tell("demo", "%v", err)
			}
		})
	}
	<-ctx.Done()
	wg.Wait()
}

func bytes(n int) string {
	return fmt.Sprintf("%.1f KiB", float64(n)/1024)
}
