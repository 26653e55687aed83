package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/pkiwarden/pkiwarden/pki"
)

// api keeps ConfigMaps and enforces resource versions, as an API server does.
type api struct {
	mu      sync.Mutex
	maps    map[string]*corev1.ConfigMap
	version int
	err     map[string]error // by verb
}

func newAPI() (*api, *fake.Clientset) {
	a := &api{maps: map[string]*corev1.ConfigMap{}, err: map[string]error{}}
	c := fake.NewClientset()
	c.PrependReactor("*", "configmaps", a.react)
	return a, c
}

func (a *api) react(action clienttesting.Action) (bool, runtime.Object, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.err[action.GetVerb()]; err != nil {
		return true, nil, err
	}
	resource := schema.GroupResource{Resource: "configmaps"}
	switch action := action.(type) {
	case clienttesting.GetActionImpl:
		if m := a.maps[action.Name]; m != nil {
			return true, m.DeepCopy(), nil
		}
		return true, nil, apierrors.NewNotFound(resource, action.Name)
	case clienttesting.UpdateActionImpl: // before Create, whose interface it fulfils
		m := action.Object.(*corev1.ConfigMap)
		old := a.maps[m.Name]
		if old == nil {
			return true, nil, apierrors.NewNotFound(resource, m.Name)
		}
		if old.ResourceVersion != m.ResourceVersion {
			return true, nil, apierrors.NewConflict(resource, m.Name, errors.New("the object has been modified"))
		}
		return true, a.store(m), nil
	case clienttesting.CreateActionImpl:
		m := action.Object.(*corev1.ConfigMap)
		if a.maps[m.Name] != nil {
			return true, nil, apierrors.NewAlreadyExists(resource, m.Name)
		}
		return true, a.store(m), nil
	}
	return true, nil, fmt.Errorf("unexpected %s", action.GetVerb())
}

func (a *api) store(m *corev1.ConfigMap) *corev1.ConfigMap {
	a.version++
	m = m.DeepCopy()
	m.ResourceVersion = strconv.Itoa(a.version)
	a.maps[m.Name] = m
	return m.DeepCopy()
}

func stores(t *testing.T) map[string]Store {
	_, client := newAPI()
	maps, err := NewConfigMaps(client, "vault")
	if err != nil {
		t.Fatal(err)
	}
	files, err := NewFiles(filepath.Join(t.TempDir(), "made", "by", "put"))
	if err != nil {
		t.Fatal(err)
	}
	_, address := newAgent(t)
	return map[string]Store{"configmaps": maps, "files": files, "consul": newConsul(t, address, "writer", "pkiwarden/")}
}

func TestStoreContract(t *testing.T) {
	const key = "tidy/0f6c/pki@Ünïcode"
	for name, s := range stores(t) {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			expect := func(wantData, wantVersion string) {
				t.Helper()
				data, version, err := s.Get(ctx, key)
				if err != nil || string(data) != wantData || version != wantVersion {
					t.Fatalf("Get = %q, %q, %v, want %q, %q", data, version, err, wantData, wantVersion)
				}
			}
			put := func(data, version string) (string, error) { return s.Put(ctx, key, []byte(data), version) }
			expect("", "")
			if _, err := put("x", "17"); !errors.Is(err, pki.ErrConflict) {
				t.Fatalf("replacing what is absent: %v, want a conflict", err)
			}
			v1, err := put("one", "")
			if err != nil {
				t.Fatal(err)
			}
			expect("one", v1)
			if _, err := put("other", ""); !errors.Is(err, pki.ErrConflict) {
				t.Fatalf("creating what is there: %v, want a conflict", err)
			}
			v2, err := put("two", v1)
			if err != nil || v2 == v1 {
				t.Fatalf("Put = %q, %v, want another version than %q", v2, err, v1)
			}
			if _, err := put("three", v1); !errors.Is(err, pki.ErrConflict) || !strings.Contains(err.Error(), key) {
				t.Fatalf("an old version: %v, want a conflict that names the key", err)
			}
			expect("two", v2)

			for what, data := range map[string]string{"0 bytes": "", "too many": strings.Repeat("x", MaxBytes+1)} {
				if _, err := put(data, v2); err == nil || errors.Is(err, pki.ErrConflict) {
					t.Errorf("%s: %v, want an error that is no conflict", what, err)
				}
			}
			v3, err := put(strings.Repeat("x", MaxBytes), v2)
			if err != nil {
				t.Errorf("the largest record: %v", err)
			}
			expect(strings.Repeat("x", MaxBytes), v3)
		})
	}
}

func TestStoreIsAtomic(t *testing.T) {
	for name, s := range stores(t) {
		t.Run(name, func(t *testing.T) {
			// Each of 8 writers counts to 20: no step may be lost.
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for done := 0; done < 20; {
						data, version, err := s.Get(t.Context(), "counter")
						if err != nil {
							t.Error(err)
							return
						}
						n, _ := strconv.Atoi(string(data))
						_, err = s.Put(t.Context(), "counter", []byte(strconv.Itoa(n+1)), version)
						switch {
						case err == nil:
							done++
						case !errors.Is(err, pki.ErrConflict):
							t.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			if data, _, err := s.Get(t.Context(), "counter"); string(data) != "160" || err != nil {
				t.Errorf("counted to %q, %v, want 160", data, err)
			}
		})
	}
}

func TestConfigMapShapeAndErrors(t *testing.T) {
	a, client := newAPI()
	s, err := NewConfigMaps(client, "vault")
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if _, err := s.Put(ctx, "certificates", []byte("{}"), ""); err != nil {
		t.Fatal(err)
	}
	m := a.maps["pkiwarden-state-certificates"]
	if m == nil || m.Labels["app.kubernetes.io/managed-by"] != "pkiwarden" || m.Data["state"] != "{}" {
		t.Fatalf("stored %+v", a.maps)
	}
	for want, spoil := range map[string]func(*corev1.ConfigMap){
		"holds nothing":            func(m *corev1.ConfigMap) { m.Data = nil },
		"holds 65537 bytes":        func(m *corev1.ConfigMap) { m.Data["state"] = strings.Repeat("x", MaxBytes+1) },
		`belongs to key "another"`: func(m *corev1.ConfigMap) { m.Annotations["pkiwarden.io/state-key"] = "another" },
	} {
		bad := m.DeepCopy()
		spoil(bad)
		a.store(bad)
		_, _, err := s.Get(ctx, "certificates")
		if err == nil || !strings.Contains(err.Error(), "vault/pkiwarden-state-certificates "+want) {
			t.Errorf("%v, want %q", err, want)
		}
	}

	resource := schema.GroupResource{Resource: "configmaps"}
	forbidden := apierrors.NewForbidden(resource, "x", errors.New("no"))
	a.err["get"] = forbidden
	if _, _, err := s.Get(ctx, "k"); err == nil || !strings.Contains(err.Error(), `needs verb "get" on resource "configmaps" in namespace vault`) {
		t.Errorf("get forbidden: %v", err)
	}
	a.err["create"] = &apierrors.StatusError{ErrStatus: metav1.Status{Reason: metav1.StatusReasonNotFound, Code: 404,
		Message: `namespaces "vault" not found`, Details: &metav1.StatusDetails{Name: "vault", Kind: "namespaces"}}}
	if _, err := s.Put(ctx, "k", []byte("x"), ""); err == nil || !strings.Contains(err.Error(), `namespace "vault" does not exist`) {
		t.Errorf("no namespace: %v", err)
	}
	a.err["update"] = forbidden
	if _, err := s.Put(ctx, "k", []byte("x"), "1"); err == nil || !strings.Contains(err.Error(), `needs verb "update"`) {
		t.Errorf("update forbidden: %v", err)
	}
}

func TestFilesSurviveTrouble(t *testing.T) {
	dir := t.TempDir()
	s, err := NewFiles(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	version, err := s.Put(ctx, "k", []byte("one"), "")
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "k.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}

	// What a crash left behind, and even a link elsewhere, is no obstacle.
	elsewhere := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(elsewhere, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, filepath.Join(dir, ".k.tmp")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Put(ctx, "k", []byte("two"), version); err != nil {
		t.Errorf("with a stale temporary file: %v", err)
	}
	if b, err := os.ReadFile(elsewhere); string(b) != "untouched" || err != nil {
		t.Errorf("wrote through a link: %q, %v", b, err)
	}

	for want, content := range map[string][]byte{"is empty": {}, "has more than": bytes.Repeat([]byte("x"), MaxBytes+1)} {
		if err := os.WriteFile(filepath.Join(dir, "k.json"), content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Get(ctx, "k"); err == nil || !strings.Contains(err.Error(), "k.json "+want) {
			t.Errorf("Get: %v, want %q", err, want)
		}
		if _, err := s.Put(ctx, "k", []byte("x"), ""); err == nil || !strings.Contains(err.Error(), "k.json "+want) {
			t.Errorf("Put over a corrupt record: %v, want %q", err, want)
		}
	}
}

func TestFilesLockWaitsForTheContext(t *testing.T) {
	s, err := NewFiles(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := s.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Put(ctx, "k", []byte("x"), ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Put beside another writer: %v, want the deadline", err)
	}
	unlock()
	if _, err := s.Put(t.Context(), "k", []byte("x"), ""); err != nil {
		t.Errorf("Put after the other writer: %v", err)
	}
}

func TestSafeName(t *testing.T) {
	seen := map[string]string{}
	for _, tc := range []struct{ key, want string }{
		{"certificates", "certificates"},
		{"tidy-3c9b-pki", "tidy-3c9b-pki"},
		{"tidy/a", "tidy-a-"}, {"tidy.a", "tidy-a-"}, {"Tidy-a", "tidy-a-"}, {"-tidy-a", "tidy-a-"}, {"tidy--a", "tidy-a-"},
		{"../../etc/passwd", "etc-passwd-"}, {"Ünï", "n-"}, {"___", ""},
		{strings.Repeat("a", 300), strings.Repeat("a", 183) + "-"}, {strings.Repeat("a", 301), strings.Repeat("a", 183) + "-"},
	} {
		got := safeName(tc.key)
		if !strings.HasPrefix(got, tc.want) || len(got) > maxName || strings.ContainsAny(got, "./_") {
			t.Errorf("safeName(%q) = %q, want %q…", tc.key, got, tc.want)
		}
		if other, twice := seen[got]; twice {
			t.Errorf("%q and %q share the name %q", tc.key, other, got)
		}
		seen[got] = tc.key
	}
	if got := safeName("certificates"); got != "certificates" {
		t.Errorf("a plain key becomes %q", got)
	}
}
