package servers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
)

// The versions that a catalog's name has are those that run.
func TestVaultVersions(t *testing.T) {
	t.Parallel()
	s := newSet(t)
	ctx := within(t, 10*time.Minute) // for the first build
	for version, want := range map[string]string{"": "1.21.1", "1.13": "1.13.0", "1.17": "1.17.6"} {
		v, err := s.StartVault(ctx, VaultOptions{Version: version, Storage: RaftStorage{}})
		if err != nil {
			t.Fatal(err)
		}
		health, err := v.Client().Sys().HealthWithContext(ctx)
		if err != nil || health.Version != want || health.Sealed || health.Standby {
			t.Errorf("version %q: %+v, %v; want an active %s", version, health, err, want)
		}
		if err := v.Stop(ctx); err != nil {
			t.Error(err)
		}
	}
}

func TestVaultRaftWithTLS(t *testing.T) {
	t.Parallel()
	s := newSet(t)
	ctx := within(t, 2*time.Minute)
	ca, files := serving(t, s)
	start := time.Now()
	v, err := s.StartVault(ctx, VaultOptions{
		Storage: RaftStorage{MaxEntrySize: 64 << 10},
		TLS:     &files,
		Audit:   true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("vault started in %s", time.Since(start))
	t.Run("revokes", func(t *testing.T) { testRevokes(ctx, t, v) })
	t.Run("limits entries", func(t *testing.T) {
		err := writeSecret(ctx, v, 100<<10)
		if err == nil || !strings.Contains(err.Error(), "exceeds") && !strings.Contains(err.Error(), "too large") {
			t.Errorf("writing 100 KiB with max_entry_size of 64 KiB: %v", err)
		}
	})
	t.Run("audits", func(t *testing.T) {
		content, err := os.ReadFile(v.AuditPath)
		if err != nil || !strings.Contains(string(content), "pki/revoke") {
			t.Errorf("audit log of %d bytes without the revocation: %v", len(content), err)
		}
	})
	t.Run("reloads", func(t *testing.T) { testReloads(t, v, ca, files) })
	t.Run("seals", func(t *testing.T) {
		if err := v.Seal(ctx); err != nil {
			t.Fatal(err)
		}
		status, err := v.Client().Sys().SealStatus()
		if err != nil || !status.Sealed {
			t.Fatalf("after Seal: %+v, %v", status, err)
		}
		if err := v.Unseal(ctx); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("restarts", func(t *testing.T) {
		before := v.PID()
		if err := v.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := v.Restart(ctx); err != nil {
			t.Fatal(err)
		}
		if v.PID() == before {
			t.Error("the same process after Restart")
		}
		if n := revocations(ctx, t, v); n != 1 {
			t.Errorf("%d revocations after Restart, want 1", n)
		}
	})
	t.Run("standby", func(t *testing.T) { testStandby(ctx, t, s, v, &files) })
}

func serving(t *testing.T, s *Set) (*CA, TLSFiles) {
	t.Helper()
	ca, err := NewCA("test CA")
	if err != nil {
		t.Fatal(err)
	}
	files := TLSFiles{CertFile: filepath.Join(s.Dir(), "tls.crt"), KeyFile: filepath.Join(s.Dir(), "tls.key"), CA: ca.PEM}
	leaf, err := ca.IssueLoopback("first")
	if err != nil {
		t.Fatal(err)
	}
	if err := leaf.Write(files.CertFile, files.KeyFile); err != nil {
		t.Fatal(err)
	}
	return ca, files
}

// testRevokes mounts a PKI, issues a certificate and finds it in the CRL once
// it is revoked.
func testRevokes(ctx context.Context, t *testing.T, v *Vault) {
	t.Helper()
	c := v.Client()
	if err := c.Sys().MountWithContext(ctx, "pki", &api.MountInput{Type: "pki"}); err != nil {
		t.Fatal(err)
	}
	write := func(path string, data map[string]any) *api.Secret {
		t.Helper()
		answer, err := c.Logical().WriteWithContext(ctx, path, data)
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	write("pki/root/generate/internal", map[string]any{"common_name": "root", "key_type": "ec", "ttl": "100h"})
	write("pki/roles/pod", map[string]any{"allow_any_name": true, "key_type": "ec"})
	issued := write("pki/issue/pod", map[string]any{"common_name": "pod", "ttl": "1h"})
	if n := revocations(ctx, t, v); n != 0 {
		t.Errorf("%d revocations before any", n)
	}
	write("pki/revoke", map[string]any{"serial_number": issued.Data["serial_number"]})
	if n := revocations(ctx, t, v); n != 1 {
		t.Errorf("%d revocations, want 1", n)
	}
}

func revocations(ctx context.Context, t *testing.T, v *Vault) int {
	t.Helper()
	answer, err := v.Client().Logical().ReadWithContext(ctx, "pki/cert/crl")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(answer.Data["certificate"].(string)))
	list, err := x509.ParseRevocationList(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return len(list.RevokedCertificateEntries)
}

func writeSecret(ctx context.Context, v *Vault, size int) error {
	_, err := v.Client().Logical().WriteWithContext(ctx, "cubbyhole/big", map[string]any{"value": strings.Repeat("x", size)})
	return err
}

// testReloads replaces the files of a running server and finds the new
// certificate on its port after SIGHUP, not before.
func testReloads(t *testing.T, v *Vault, ca *CA, files TLSFiles) {
	second, err := ca.IssueLoopback("second")
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Write(files.CertFile, files.KeyFile); err != nil {
		t.Fatal(err)
	}
	served := func() string {
		conn, err := tls.Dial("tcp", v.ListenAddress, &tls.Config{RootCAs: ca.Pool(), ServerName: "localhost"})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	if got := served(); got != "first" {
		t.Fatalf("served %q before SIGHUP, want first", got)
	}
	if err := v.Reload(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if got := served(); got != "second" {
			return fmt.Errorf("served %q after SIGHUP, want second", got)
		}
		return nil
	})
}

// testStandby adds a second server, which takes over from the first.
func testStandby(ctx context.Context, t *testing.T, s *Set, v *Vault, files *TLSFiles) {
	second, err := s.StartVault(ctx, VaultOptions{Storage: RaftStorage{}, TLS: files, Peer: v})
	if err != nil {
		t.Fatal(err)
	}
	leader, err := second.Client().Sys().LeaderWithContext(ctx)
	if err != nil || leader.IsSelf || leader.LeaderAddress != v.Address {
		t.Fatalf("the second server says of its leader %+v, %v", leader, err)
	}
	if _, err := v.Client().Logical().WriteWithContext(ctx, "sys/step-down", nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		leader, err := second.Client().Sys().LeaderWithContext(ctx)
		if err == nil && !leader.IsSelf {
			err = fmt.Errorf("the leader is %q", leader.LeaderAddress)
		}
		return err
	})
}

func TestVaultSealed(t *testing.T) {
	t.Parallel()
	s := newSet(t)
	ctx := within(t, time.Minute)
	v, err := s.StartVault(ctx, VaultOptions{Storage: InmemStorage{}, Sealed: true})
	if err != nil {
		t.Fatal(err)
	}
	health, err := v.Client().Sys().HealthWithContext(ctx)
	if err != nil || health.Initialized || !health.Sealed {
		t.Fatalf("health %+v, %v; want sealed and not initialised", health, err)
	}
	if err := v.Init(ctx); err != nil {
		t.Fatal(err)
	}
	if err := v.Unseal(ctx); err != nil {
		t.Fatal(err)
	}
	shown := fmt.Sprintf("%v %+v %#v %s %x", v.RootToken(), v.keys, v.keys, v.UnsealKey(), v.RootToken())
	if token := v.RootToken().Reveal(); token == "" || strings.Contains(shown, token) || strings.Contains(shown, fmt.Sprintf("%x", token)) {
		t.Errorf("the root token shows, or is empty, in %q", shown)
	}
}
