// Command demo runs pkiwarden's main job on real servers of this machine and
// tells what happens, line by line. What a line says was seen by a client of
// Vault, Kubernetes or the metrics page, never read from pkiwarden's log.
//
// It ends by itself with a summary; with KEEP=1 it runs on until Ctrl-C. It
// leaves no process and no folder behind.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// The story's settings: a CRL limit that is reached in a minute instead of in
// years, and certificates that live for seconds.
const (
	maxEntrySize = 32 << 10               // of Vault's raft storage; the default is 1 MiB
	podTTL       = 15 * time.Second       // of the workload's certificates
	podEvery     = 100 * time.Millisecond // one issued and revoked
	servingLife  = 90 * time.Second       // left of Vault's certificate when the story begins
	servingAge   = 60 * time.Second       // already behind it
	storyWithin  = 170 * time.Second      // or the story has failed
	lookEvery    = 500 * time.Millisecond // how often each observer looks
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx)
	switch {
	case err != nil && ctx.Err() != nil:
		fmt.Println("\ninterrupted; every process has ended and the folder is gone")
		os.Exit(130)
	case err != nil:
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		os.Exit(1)
	case ctx.Err() != nil: // Ctrl-C after KEEP
		fmt.Println("\nended; every process has ended and the folder is gone")
	}
}

func run(ctx context.Context) (err error) {
	fmt.Println("pkiwarden demo: real etcd, kube-apiserver, kube-controller-manager and Vault on this machine")
	if _, err := servers.Find(ctx, servers.Options{Progress: os.Stdout}, "etcd", "kube-apiserver", "kube-controller-manager", "kubectl", "vault"); err != nil {
		return err
	}
	set, err := servers.New(servers.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, set.Close()) }()

	s := newStory()
	if err := s.prepare(ctx, set); err != nil {
		return err
	}
	if err := s.observe(ctx); err != nil {
		return err
	}
	s.summary()
	if os.Getenv("KEEP") != "" {
		s.tell("demo", "KEEP is set: running on until Ctrl-C. Metrics: http://%s/metrics", s.pod.Address)
		s.tell("demo", "vault: VAULT_ADDR=https://%s VAULT_CACERT=%s; kubectl: --kubeconfig %s", s.world.VaultAddress(), s.world.CAFile, s.world.Kubernetes.AdminConfig)
		s.keep(ctx)
	}
	return nil
}

// prepare brings up the world: a Vault that serves a certificate which is
// about to expire, and pkiwarden beside it.
func (s *story) prepare(ctx context.Context, set *servers.Set) error {
	s.tell("demo", "starting the cluster, with the shipped RBAC applied")
	w, err := world.New(ctx, set, world.Options{})
	if err != nil {
		return err
	}
	s.world = w
	w.Setting("crl.interval", "5s")
	w.Setting("tidy.enabled", true)
	w.Setting("tidy.safetyBuffer", "1s")
	w.Setting("tidy.allowShortSafetyBuffer", true)
	w.Setting("tidy.minInterval", "45s")
	// The pause that is chosen by itself is longer the slower the machine is, and
	// the fleet here revokes certificates all the while.
	w.Setting("tidy.pause", "10ms")
	// Only the size of the list decides here, to show it grow.
	w.Setting("tidy.trigger", map[string]any{"limitShare": 0.5, "reclaimableShare": 1, "reclaimableEntries": 1000000})

	now := time.Now()
	old, err := w.IssueServing(ctx, now.Add(-servingAge), now.Add(servingLife))
	if err != nil {
		return err
	}
	s.old = old.Certificate
	if err := w.PutSecret(ctx, old); err != nil {
		return err
	}
	s.tell("demo", "starting pkiwarden beside Vault, as pod vault-0 with the shipped rights")
	if s.pod, err = w.StartPod(ctx, world.PodOptions{Name: "vault-0"}); err != nil {
		return err
	}
	if err := w.Delivered(ctx); err != nil {
		return err
	}
	s.tell("demo", "starting Vault with TLS on raft storage, max_entry_size %s", bytes(maxEntrySize))
	if err := w.StartVault(ctx, servers.VaultOptions{Storage: servers.RaftStorage{MaxEntrySize: maxEntrySize}}); err != nil {
		return err
	}
	if s.pki, err = w.EnablePKI(ctx, world.PKIOptions{MaxTTL: podTTL}); err != nil {
		return err
	}
	return nil
}
