package issuer

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
)

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		s := c.process("pod-a").issuer(vaultTLS())
		s.now = time.Now
		woken := 0
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Watch(ctx, func() { woken++ }) }()
		synctest.Wait()
		c.watchers[0].Modify(&certificatesv1.CertificateSigningRequest{})
		c.watchers[0].Modify(&certificatesv1.CertificateSigningRequest{})
		synctest.Wait()
		if woken != 2 {
			t.Errorf("woken %d times", woken)
		}
		// The server ends it: it is opened again.
		c.watchers[0].Stop()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if len(c.watchers) != 2 {
			t.Fatalf("%d watches", len(c.watchers))
		}
		// It becomes forbidden: said once, tried less and less often.
		c.denied["watch certificatesigningrequests"] = true
		c.watchers[1].Stop()
		time.Sleep(time.Hour)
		if n := strings.Count(s.log.String(), "looking by time instead"); n != 1 || !strings.Contains(s.log.String(), "needs verb") {
			t.Errorf("said %d times:\n%s", n, &s.log)
		}
		clear(c.denied)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		c.watchers[len(c.watchers)-1].Add(&certificatesv1.CertificateSigningRequest{})
		synctest.Wait()
		if woken != 3 {
			t.Errorf("woken %d times after it was allowed again", woken)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
