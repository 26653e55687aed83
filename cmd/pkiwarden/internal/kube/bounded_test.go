package kube

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestPagesAreBounded: a page is read up to 4 MiB, and up to 10 MiB where it is
// of one object, which may be as large as that; the error says which it was.
func TestPagesAreBounded(t *testing.T) {
	clearEnvironment(t)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		size, err := strconv.Atoi(r.URL.Query().Get("labelSelector")[len("mib="):])
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write([]byte(`{"kind":"CertificateSigningRequestList","apiVersion":"certificates.k8s.io/v1","items":[]`))
		w.Write(bytes.Repeat([]byte(" "), size<<20-1024))
		w.Write([]byte("}"))
	}))
	defer server.Close()
	c, err := New(Options{Kubeconfig: kubeconfig(t, server, "vault", "")})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		limit int64
		mib   int
		read  bool
	}{{4, 4, true}, {4, 5, false}, {64, 5, false}, {1, 5, true}, {1, 10, true}, {1, 11, false}, {0, 11, true}} {
		_, err := c.Client.CertificatesV1().CertificateSigningRequests().List(t.Context(), metav1.ListOptions{LabelSelector: fmt.Sprintf("mib=%d", tc.mib), Limit: tc.limit})
		var refused *http.MaxBytesError
		if tc.read && err != nil || !tc.read && !errors.As(err, &refused) {
			t.Errorf("%d MiB with limit %d: %v", tc.mib, tc.limit, err)
		}
	}
}
