package servers

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
)

func TestVaultOnConsul(t *testing.T) {
	t.Parallel()
	s := newSet(t)
	ctx := within(t, time.Minute)
	start := time.Now()
	c, err := s.StartConsul(ctx, ConsulOptions{KVMaxValueSize: 64 << 10, TxnMaxReqLen: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("consul started in %s", time.Since(start))
	kv := c.Client().KV()
	if _, err := kv.Put(&api.KVPair{Key: "fits", Value: bytes.Repeat([]byte("x"), 64<<10)}, nil); err != nil {
		t.Error(err)
	}
	_, err = kv.Put(&api.KVPair{Key: "too-big", Value: bytes.Repeat([]byte("x"), 64<<10+1)}, nil)
	if err == nil || !strings.Contains(err.Error(), "413") {
		t.Errorf("one byte above kv_max_value_size: %v, want 413", err)
	}

	first, err := s.StartVault(ctx, VaultOptions{Storage: ConsulStorage{Consul: c, Path: "secrets/"}})
	if err != nil {
		t.Fatal(err)
	}
	if keys, _, err := kv.Keys("secrets/core/", "", nil); err != nil || len(keys) == 0 {
		t.Errorf("Vault's keys in Consul: %d, %v", len(keys), err)
	}
	if err := writeSecret(ctx, first, 100<<10); err == nil {
		t.Error("Vault stores 100 KiB in a Consul that takes 64 KiB")
	}
	second, err := s.StartVault(ctx, VaultOptions{Storage: ConsulStorage{Consul: c, Path: "secrets/"}, Peer: first})
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Stop(ctx); err != nil {
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

func TestConsulReloadsTLS(t *testing.T) {
	t.Parallel()
	s := newSet(t)
	ctx := within(t, time.Minute)
	ca, files := serving(t, s)
	c, err := s.StartConsul(ctx, ConsulOptions{TLS: &files})
	if err != nil {
		t.Fatal(err)
	}
	second, err := ca.IssueLoopback("second")
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Write(files.CertFile, files.KeyFile); err != nil {
		t.Fatal(err)
	}
	if err := c.Client().Agent().Reload(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		conn, err := tls.Dial("tcp", c.ListenAddress, &tls.Config{RootCAs: ca.Pool(), ServerName: "localhost"})
		if err != nil {
			return err
		}
		defer conn.Close()
		if got := conn.ConnectionState().PeerCertificates[0].Subject.CommonName; got != "second" {
			return fmt.Errorf("served %q after reload, want second", got)
		}
		return nil
	})
}
