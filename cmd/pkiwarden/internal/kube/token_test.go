package kube

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A token that was replaced is known by the request after the one that the API
// server refused, not a minute later.
func TestTokenIsReadAgain(t *testing.T) {
	clearEnvironment(t)
	valid := "first"
	server := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		if r.Header.Get("Authorization") != "Bearer "+valid {
			rw.WriteHeader(http.StatusUnauthorized)
			_, _ = rw.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Unauthorized","code":401}`))
			return
		}
		_, _ = rw.Write([]byte(`{"kind":"Secret","apiVersion":"v1","metadata":{"name":"s"}}`))
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path := kubeconfig(t, server, "vault", "")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(text), "token: canary-token", "tokenFile: "+file, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	write("first")
	c, err := New(Options{Kubeconfig: path})
	if err != nil {
		t.Fatal(err)
	}
	get := func() error {
		_, err := c.Client.CoreV1().Secrets("vault").Get(t.Context(), "s", metav1.GetOptions{})
		return err
	}
	if err := get(); err != nil {
		t.Fatal(err)
	}
	valid = "second"
	if err := get(); !apierrors.IsUnauthorized(err) {
		t.Fatalf("with the token that was replaced: %v, want unauthorized", err)
	}
	if err := get(); !apierrors.IsUnauthorized(err) {
		t.Errorf("the file still has the old one: %v, want unauthorized", err)
	}
	write("second")
	if err := get(); err != nil && !apierrors.IsUnauthorized(err) {
		t.Error(err)
	}
	if err := get(); err != nil {
		t.Errorf("the file has the new one: %v", err)
	}
}
