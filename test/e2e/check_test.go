package e2e

import (
	"bytes"
	"context"
	"os"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// leaseIsFree checks that a stopped leader has given up its Lease, so that the
// next one need not wait for it to run out.
func leaseIsFree(t *testing.T, ctx context.Context, w *world.World) {
	t.Helper()
	lease, err := w.Client.CoordinationV1().Leases(world.ControllerNamespace).Get(ctx, world.LeaseName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if holder := lease.Spec.HolderIdentity; holder != nil && *holder != "" {
		t.Errorf("the Lease is still held by %q after the end of its holder", *holder)
	}
}

// noSecrets checks that nothing which pkiwarden was trusted with stands in what
// it wrote: keys in any encoding of the stored one, and its tokens.
func noSecrets(t *testing.T, ctx context.Context, w *world.World, pods ...*world.Pod) {
	t.Helper()
	secrets, err := w.Client.CoreV1().Secrets(world.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	words := map[string]string{}
	for _, s := range secrets.Items {
		for line := range strings.Lines(string(s.Data[corev1.TLSPrivateKeyKey])) {
			if line = strings.TrimSpace(line); len(line) > 40 {
				words["the private key in "+s.Name] = line
			}
		}
	}
	for _, pod := range pods {
		for _, file := range []string{pod.Identity.TokenFile, pod.VaultToken} {
			token, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			words["the token in "+file] = string(token)
		}
	}
	words["a Vault token"] = "hvs."
	if len(words) < 3 {
		t.Fatalf("only %d secrets to look for: the check would pass by itself", len(words))
	}
	for _, pod := range pods {
		written, err := os.ReadFile(pod.LogPath())
		if err != nil {
			t.Fatal(err)
		}
		for what, word := range words {
			if strings.Contains(string(written), word) {
				t.Errorf("the log of %s holds %s", pod.Name(), what)
			}
		}
		if strings.Contains(string(written), "PRIVATE KEY") {
			t.Errorf("the log of %s holds a private key", pod.Name())
		}
	}
}

// lockedBuffer may be written by a process while a test reads it.
type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}
