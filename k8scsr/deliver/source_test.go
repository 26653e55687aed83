package deliver

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// secrets is one namespace of an API server.
type secrets struct {
	data map[string]map[string][]byte
	err  error
	gets []string
}

func (s *secrets) Get(ctx context.Context, name string, _ metav1.GetOptions) (*corev1.Secret, error) {
	if _, ok := ctx.Deadline(); !ok {
		return nil, errors.New("a request without a deadline")
	}
	s.gets = append(s.gets, name)
	if s.err != nil {
		return nil, s.err
	}
	data, ok := s.data[name]
	if !ok {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name)
	}
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}, nil
}

func TestSecretSource(t *testing.T) {
	certificate, key, ca := []byte("certificate"), []byte("hunter2"), []byte("ca")
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, "vault-server-tls", errors.New("no"))
	for _, tc := range []struct {
		name   string
		data   map[string][]byte // nil: no Secret
		err    error
		keys   Keys
		notYet bool
		want   string // in the error, "" for none
	}{
		{name: "whole", data: map[string][]byte{"tls.crt": certificate, "tls.key": key, "ca.crt": ca}},
		{name: "mapped", data: map[string][]byte{"c": certificate, "k": key, "a": ca}, keys: Keys{"c", "k", "a"}},
		{name: "absent", notYet: true, want: "secret vault/vault-server-tls does not exist: no certificate yet"},
		{name: "empty", data: map[string][]byte{}, notYet: true, want: "secret vault/vault-server-tls is empty"},
		{name: "blank", data: map[string][]byte{"tls.crt": {}, "tls.key": {}}, notYet: true, want: "has neither tls.crt nor tls.key"},
		{name: "wrong keys", data: map[string][]byte{"server.key": key, "server.crt": certificate}, notYet: true, want: "(it has server.crt, server.key)"},
		{name: "no key", data: map[string][]byte{"tls.crt": certificate}, want: "has tls.crt but no tls.key"},
		{name: "no certificate", data: map[string][]byte{"tls.key": key}, want: "has tls.key but no tls.crt"},
		{name: "forbidden", err: forbidden, want: `permission denied: needs verb "get" on resource secrets, name "vault-server-tls", in namespace "vault"`},
		{name: "unreachable", err: errors.New("connection refused"), want: "getting secret vault/vault-server-tls: connection refused"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			api := &secrets{err: tc.err, data: map[string]map[string][]byte{"another": {}}}
			if tc.data != nil {
				api.data["vault-server-tls"] = tc.data
			}
			source, err := NewSecretSource(api, "vault", "vault-server-tls", tc.keys)
			if err != nil {
				t.Fatal(err)
			}
			pair, err := source.Pair(t.Context())
			if tc.want == "" {
				if err != nil || string(pair.Certificate) != "certificate" || string(pair.Key.PEM()) != "hunter2" || string(pair.CA) != "ca" {
					t.Errorf("Pair = %s %s, %v", pair.Certificate, pair.CA, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) || errors.Is(err, ErrNotYet) != tc.notYet {
				t.Errorf("Pair says %v, want %q, not yet %t", err, tc.want, tc.notYet)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("the error holds the key")
			}
		})
	}
}

// rotate puts a generation in place as the kubelet does.
func rotate(t *testing.T, directory, generation string, files map[string][]byte) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(directory, generation), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(directory, generation, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		_ = os.Symlink("..data/"+name, filepath.Join(directory, name))
	}
	temporary := filepath.Join(directory, "..data_tmp")
	if err := errors.Join(os.Symlink(generation, temporary), os.Rename(temporary, filepath.Join(directory, "..data"))); err != nil {
		t.Fatal(err)
	}
}

func TestMountedSource(t *testing.T) {
	whole := map[string][]byte{"tls.crt": []byte("certificate"), "tls.key": []byte("hunter2"), "ca.crt": []byte("ca")}
	for _, tc := range []struct {
		name   string
		lay    func(t *testing.T, directory string)
		notYet bool
		want   string
	}{
		{name: "whole", lay: func(t *testing.T, d string) { rotate(t, d, "..1", whole) }},
		{name: "empty volume", lay: func(t *testing.T, d string) { rotate(t, d, "..1", nil) }, notYet: true, want: "is empty"},
		{name: "empty directory", lay: func(*testing.T, string) {}, notYet: true, want: "is empty"},
		{name: "no key", lay: func(t *testing.T, d string) { rotate(t, d, "..1", map[string][]byte{"tls.crt": whole["tls.crt"]}) }, want: "has tls.crt but no tls.key"},
		{name: "subPath", lay: func(t *testing.T, d string) { writeDirectory(t, d, Pair{Certificate: []byte("x")}) }, want: "a subPath mount never updates"},
		{name: "huge", lay: func(t *testing.T, d string) {
			rotate(t, d, "..1", map[string][]byte{"tls.crt": whole["tls.crt"], "tls.key": make([]byte, 13_001)})
		}, want: "tls.key has more than the 13000 bytes allowed"},
		{name: "..data leads away", lay: func(t *testing.T, d string) {
			if err := os.Symlink("/etc", filepath.Join(d, "..data")); err != nil {
				t.Fatal(err)
			}
		}, want: "not to a directory beside it"},
		{name: "a file leads away", lay: func(t *testing.T, d string) {
			rotate(t, d, "..1", map[string][]byte{"tls.crt": whole["tls.crt"]})
			if err := os.Symlink("/etc/hostname", filepath.Join(d, "..1", "tls.key")); err != nil {
				t.Fatal(err)
			}
		}, want: "escapes from parent"},
		{name: "a directory in place of a file", lay: func(t *testing.T, d string) {
			rotate(t, d, "..1", map[string][]byte{"tls.crt": whole["tls.crt"]})
			if err := os.Mkdir(filepath.Join(d, "..1", "tls.key"), 0o755); err != nil {
				t.Fatal(err)
			}
		}, want: "tls.key is not a regular file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			directory := t.TempDir()
			tc.lay(t, directory)
			source, err := NewMountedSource(directory, Keys{})
			if err != nil {
				t.Fatal(err)
			}
			pair, err := source.Pair(t.Context())
			if tc.want == "" {
				if err != nil || string(pair.Certificate) != "certificate" || string(pair.Key.PEM()) != "hunter2" || string(pair.CA) != "ca" {
					t.Errorf("Pair = %s %s, %v", pair.Certificate, pair.CA, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) || errors.Is(err, ErrNotYet) != tc.notYet {
				t.Errorf("Pair says %v, want %q, not yet %t", err, tc.want, tc.notYet)
			}
		})
	}
}

// However the kubelet rotates, both files are of one generation.
func TestMountedSourceWhileRotating(t *testing.T) {
	directory := fastDirectory(t)
	ca := newAuthority(t)
	pairs := []Pair{ca.issue(t, time.Hour), ca.issue(t, time.Hour)}
	put := func(i int) {
		p := pairs[i%2]
		rotate(t, directory, "..gen"+string(rune('a'+i%26))+string(rune('a'+i/26%26)), map[string][]byte{"tls.crt": p.Certificate, "tls.key": p.Key.PEM()})
	}
	put(0)
	source, err := NewMountedSource(directory, Keys{})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var reads, rotations atomic.Int64
	var wrong error
	go func() {
		defer close(done)
		for ; t.Context().Err() == nil && (reads.Load() < 200 || rotations.Load() < 400); reads.Add(1) {
			pair, err := source.Pair(context.Background())
			if err == nil {
				_, err = serialOf(pair)
			}
			if err != nil && !errors.Is(err, errRotated) {
				wrong = err
				return
			}
		}
	}()
	for i := 1; ; i++ {
		select {
		case <-done:
			if wrong != nil {
				t.Errorf("after %d reads and %d rotations: %v", reads.Load(), rotations.Load(), wrong)
			}
			return
		default:
		}
		old, _ := os.Readlink(filepath.Join(directory, "..data"))
		put(i)
		if err := os.RemoveAll(filepath.Join(directory, old)); err != nil { // at once, as the kubelet does
			t.Fatal(err)
		}
		rotations.Add(1)
		time.Sleep(time.Millisecond)
	}
}
