package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	consulapi "github.com/hashicorp/consul/api"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/consul"
	"github.com/pkiwarden/pkiwarden/pki"
)

// agent keeps keys and answers as Consul 1.21 does: the token "writer" may read
// and write below pkiwarden/, "reader" may read.
type agent struct {
	mu    sync.Mutex
	keys  map[string]*consulapi.KVPair
	index uint64
	slow  time.Duration
	reads []string // queries of reads
}

func (a *agent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case <-time.After(a.slow):
	case <-r.Context().Done():
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	token := r.Header.Get("X-Consul-Token")
	denied := func(right, key string) string {
		return fmt.Sprintf("Permission denied: token with AccessorID '3dfe72d8' lacks permission '%s' on %q", right, key)
	}
	switch key, isKey := strings.CutPrefix(r.URL.Path, "/v1/kv/"); {
	case isKey && r.Method == http.MethodGet:
		a.reads = append(a.reads, r.URL.RawQuery)
		pair := a.keys[key]
		switch {
		case token != "reader" && token != "writer":
			http.Error(w, denied("key:read", key), http.StatusForbidden)
		case pair == nil:
			w.WriteHeader(http.StatusNotFound)
		default:
			_ = json.NewEncoder(w).Encode([]*consulapi.KVPair{pair})
		}
	case r.URL.Path == "/v1/txn" && r.Method == http.MethodPut:
		var ops []struct{ KV consulapi.KVTxnOp }
		if err := json.NewDecoder(r.Body).Decode(&ops); err != nil || len(ops) != 1 || ops[0].KV.Verb != consulapi.KVCAS {
			http.Error(w, "not understood", http.StatusBadRequest)
			return
		}
		op := ops[0].KV
		if token == "" {
			http.Error(w, "ACL not found", http.StatusForbidden)
			return
		}
		if token != "writer" || !strings.HasPrefix(op.Key, "pkiwarden/") {
			rollBack(w, denied("key:write", op.Key))
			return
		}
		old := a.keys[op.Key]
		if old == nil && op.Index != 0 || old != nil && old.ModifyIndex != op.Index {
			rollBack(w, fmt.Sprintf("failed to set key %q, index is stale", op.Key))
			return
		}
		if old == nil || string(old.Value) != string(op.Value) { // otherwise Consul leaves the index
			a.index++
			a.keys[op.Key] = &consulapi.KVPair{Key: op.Key, Value: op.Value, ModifyIndex: a.index}
		}
		_ = json.NewEncoder(w).Encode(consulapi.TxnResponse{Results: consulapi.TxnResults{{KV: &consulapi.KVPair{Key: op.Key, ModifyIndex: a.keys[op.Key].ModifyIndex}}}})
	default:
		http.NotFound(w, r)
	}
}

func rollBack(w http.ResponseWriter, what string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusConflict)
	_ = json.NewEncoder(w).Encode(consulapi.TxnResponse{Errors: consulapi.TxnErrors{{What: what}}})
}

func newAgent(t *testing.T) (*agent, string) {
	t.Helper()
	a := &agent{keys: map[string]*consulapi.KVPair{}, index: 20}
	s := httptest.NewServer(a)
	t.Cleanup(s.Close)
	return a, s.URL
}

func newConsul(t *testing.T, address, token, prefix string) *Consul {
	t.Helper()
	file := t.TempDir() + "/token"
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	client, err := consul.New(consul.Options{Address: address, TokenFile: file})
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewConsul(client, prefix)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConsulKeys(t *testing.T) {
	a, address := newAgent(t)
	ctx := t.Context()
	s := newConsul(t, address, "writer", "pkiwarden/")
	version, err := s.Put(ctx, "certificates", []byte("{}"), "")
	if err != nil || version != "21" {
		t.Fatalf("version %q, %v, want 21", version, err)
	}
	for prefix, want := range map[string]string{"/pkiwarden/east": "pkiwarden/east/", "pkiwarden/east/": "pkiwarden/east/"} {
		if _, err := newConsul(t, address, "writer", prefix).Put(ctx, "Tidy/1", []byte(prefix), ""); err != nil && !errors.Is(err, pki.ErrConflict) {
			t.Error(err)
		}
		if key := want + safeName("Tidy/1"); a.keys[key] == nil {
			t.Errorf("prefix %q: no key %s", prefix, key)
		}
	}
	if len(a.keys) != 2 || string(a.keys["pkiwarden/certificates"].Value) != "{}" {
		t.Errorf("keys %v", a.keys)
	}
	if _, _, err := s.Get(ctx, "certificates"); err != nil {
		t.Error(err)
	}
	for _, query := range a.reads {
		if query != "consistent=" {
			t.Errorf("read with %q, want a consistent one", query)
		}
	}
	for _, prefix := range []string{"", "/", "a//b", "../vault", "a/./b"} {
		if _, err := NewConsul(s.kv, prefix); err == nil || !strings.Contains(err.Error(), "state.path") {
			t.Errorf("prefix %q: %v", prefix, err)
		}
	}
	if _, err := NewConsul(nil, ""); err == nil || !strings.Contains(err.Error(), "consul.address") {
		t.Errorf("no client: %v", err)
	}
}

func TestConsulErrors(t *testing.T) {
	a, address := newAgent(t)
	ctx := t.Context()
	for _, tc := range []struct{ token, get, put string }{
		{"writer", "", ""},
		{"reader", "", `key_prefix "pkiwarden/" { policy = "write" }`},
		{"nobody", `key_prefix "pkiwarden/" { policy = "write" }`, `key_prefix "pkiwarden/" { policy = "write" }`},
	} {
		s := newConsul(t, address, tc.token, "pkiwarden/")
		_, _, getErr := s.Get(ctx, "k-"+tc.token)
		_, putErr := s.Put(ctx, "k-"+tc.token, []byte("x"), "")
		for _, check := range []struct {
			err  error
			want string
		}{{getErr, tc.get}, {putErr, tc.put}} {
			if (check.err == nil) != (check.want == "") || check.err != nil && !strings.Contains(check.err.Error(), check.want) || errors.Is(check.err, pki.ErrConflict) {
				t.Errorf("token %s: %v, want %q", tc.token, check.err, check.want)
			}
		}
	}
	s := newConsul(t, address, "writer", "pkiwarden/")
	for want, value := range map[string]string{"is empty": "", "holds 65537 bytes": strings.Repeat("x", MaxBytes+1)} {
		a.keys["pkiwarden/bad"] = &consulapi.KVPair{Key: "pkiwarden/bad", Value: []byte(value), ModifyIndex: 7}
		if _, _, err := s.Get(ctx, "bad"); err == nil || !strings.Contains(err.Error(), "Consul's key pkiwarden/bad "+want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := s.Put(ctx, "k", []byte("x"), "0f6c"); err == nil || errors.Is(err, pki.ErrConflict) {
		t.Errorf("a version of another store: %v", err)
	}
	a.slow = time.Minute
	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, _, err := s.Get(ctx, "k"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a slow agent: %v", err)
	}
}
