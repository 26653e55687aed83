// Command footprint measures what pkiwarden costs while nothing happens: the
// size of the stripped binary, and the memory of a leader that watches a
// cluster and a Vault with one PKI mount, half a minute after it has settled.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// The goals.
const (
	goalBinary = 45_000_000
	goalRSS    = 32 << 20
)

const idle = 30 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	set, err := servers.New(servers.Options{Progress: os.Stderr})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, set.Close()) }()
	w, err := world.New(ctx, set, world.Options{SigningDuration: 24 * time.Hour})
	if err != nil {
		return err
	}
	if len(os.Args) > 1 {
		w.Pkiwarden = os.Args[1]
	}
	binary, err := os.Stat(w.Pkiwarden)
	if err != nil {
		return err
	}
	pod, err := w.StartPod(ctx, world.PodOptions{Name: "vault-0", Set: map[string]any{"crl.interval": "10s"}})
	if err != nil {
		return err
	}
	if err := w.Delivered(ctx); err != nil {
		return err
	}
	if err := w.StartVault(ctx, servers.VaultOptions{}); err != nil {
		return err
	}
	if _, err := w.EnablePKI(ctx, world.PKIOptions{}); err != nil {
		return err
	}
	err = world.Eventually(ctx, 2*time.Minute, func(ctx context.Context) error {
		_, err := pod.Metric(ctx, `pkiwarden_crl_bytes{issuer="root",mount="pki"}`)
		return err
	})
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(idle):
	}
	rss, err := resident(pod.PID())
	if err != nil {
		return err
	}
	fmt.Printf("binary    %5.1f MB  goal %.1f MB\n", float64(binary.Size())/1e6, float64(goalBinary)/1e6)
	fmt.Printf("idle RSS  %5.1f MiB  goal %d MiB (leader: cluster, Vault, one mount, one certificate)\n", float64(rss)/(1<<20), goalRSS>>20)
	if binary.Size() > goalBinary || rss > goalRSS {
		return errors.New("over the goal")
	}
	return nil
}

// resident is VmRSS of a process, in bytes.
func resident(pid int) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("measuring memory: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("measuring memory: no VmRSS")
}
