package issuer

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/watch"
)

func (c *cluster) denyWatch(denied bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watchDenied = denied
}

// watcher is the watch opened last, and how many there were.
func (c *cluster) watcher() (*watch.FakeWatcher, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.watchers[len(c.watchers)-1], len(c.watchers)
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		s := c.process("pod-a").issuer(vaultTLS())
		c.sign = nil
		s.once(t)
		awaited := func() *certificatesv1.CertificateSigningRequest { return c.csrs()[0].DeepCopy() }
		s.now = time.Now
		var woken atomic.Int32
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Watch(ctx, func() { woken.Add(1) }) }()
		synctest.Wait()
		w, _ := c.watcher()
		w.Modify(awaited())
		w.Modify(awaited())
		synctest.Wait()
		if n := woken.Load(); n != 2 {
			t.Errorf("woken %d times", n)
		}
		// Anybody can make requests with our label: they wake nobody.
		forged := awaited()
		forged.Name = "pkiwarden-vault-tls-aaaaaaaaaaaaaaaa"
		w.Add(forged)
		w.Add(&certificatesv1.CertificateSigningRequest{})
		synctest.Wait()
		if n := woken.Load(); n != 2 {
			t.Errorf("woken %d times by requests that nobody waits for", n)
		}
		// The server ends it: it is opened again.
		w.Stop()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		w, n := c.watcher()
		if n != 2 {
			t.Fatalf("%d watches", n)
		}
		// It becomes forbidden: said once, however long that lasts.
		c.denyWatch(true)
		w.Stop()
		time.Sleep(time.Hour)
		c.denyWatch(false)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		w, _ = c.watcher()
		w.Add(awaited())
		synctest.Wait()
		if n := woken.Load(); n != 3 {
			t.Errorf("woken %d times after it was allowed again", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := strings.Count(s.log.String(), "looking by time instead"); n != 1 || !strings.Contains(s.log.String(), `needs verb \"watch\"`) {
			t.Errorf("said %d times:\n%s", n, &s.log)
		}
	})
}
