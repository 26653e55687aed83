package issuer

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	clienttesting "k8s.io/client-go/testing"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// outsider is a server that is no peer of ours, whatever its address says. It
// counts what is read of it.
type outsider struct {
	address string
	sent    atomic.Int64
}

func (c *cluster) outsider(serve func(io.ReadWriter)) *outsider {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { tcp.Close() })
	o := &outsider{address: tcp.Addr().String()}
	go func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				serve(&counted{conn, &o.sent})
			}()
		}
	}()
	return o
}

type counted struct {
	net.Conn
	sent *atomic.Int64
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.sent.Add(int64(n))
	return n, err
}

// presents is a TLS server with that chain.
func presents(chain [][]byte, key crypto.PrivateKey) func(io.ReadWriter) {
	return func(conn io.ReadWriter) {
		config := &tls.Config{Certificates: []tls.Certificate{{Certificate: chain, PrivateKey: key}}}
		_ = tls.Server(conn.(net.Conn), config).Handshake() // the client ends it
	}
}

// pretended has the public key that a certificate is for, and signs nothing.
type pretended struct{ public crypto.PublicKey }

func (p pretended) Public() crypto.PublicKey { return p.public }
func (p pretended) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return make([]byte, 2048), nil
}

// TestPeersThatAreHostile: whatever answers at a peer's address, the old CA stays,
// it is said why, and next to nothing is read or kept of it.
func TestPeersThatAreHostile(t *testing.T) {
	c := newCluster(t)
	der := func(chain []byte) []byte {
		block, _ := pem.Decode(chain)
		return block.Bytes
	}
	stranger := newAuthority(t)
	leaf := func(public crypto.PublicKey, extra int) []byte {
		return der(stranger.sign(t, &x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: c.now, NotAfter: c.now.Add(time.Hour), DNSNames: []string{strings.Repeat("x", extra) + ".example"}}, public))
	}
	huge := &rsa.PublicKey{N: new(big.Int).SetBit(new(big.Int).SetBit(new(big.Int), 16383, 1), 0, 1), E: 65537}
	until := func(text string) func(io.ReadWriter) {
		return func(conn io.ReadWriter) {
			for {
				if _, err := io.WriteString(conn, text); err != nil {
					return
				}
			}
		}
	}
	hello := "\x16\x03\x03\x40\x00" + strings.Repeat("\x02\x00\x00\x00", 4096) // records of ServerHellos without content
	chain := func(n int) [][]byte {
		return append([][]byte{leaf(stranger.key.Public(), 1)}, slices.Repeat([][]byte{leaf(stranger.key.Public(), 1)}, n-1)...)
	}
	for name, tc := range map[string]struct {
		serve func(io.ReadWriter)
		want  string
	}{
		"noise":                  {until(strings.Repeat("\x99noise", 1000)), "first record does not look like a TLS handshake"},
		"handshakes without end": {until(hello), "handshaking: "},
		"closes at once":         {func(io.ReadWriter) {}, "handshaking: "},
		"speaks first": {func(conn io.ReadWriter) {
			io.WriteString(conn, "220 mail.example ESMTP STARTTLS\r\n")
			io.Copy(io.Discard, conn)
		}, "first record does not look like a TLS handshake"},
		"redirects": {func(conn io.ReadWriter) {
			io.WriteString(conn, "HTTP/1.1 301 x\r\nLocation: https://127.0.0.1/\r\n\r\n")
		}, "first record does not look like a TLS handshake"},
		"an RSA key of 16384 bits": {presents([][]byte{leaf(huge, 1)}, pretended{huge}), "RSA"},
		"10,000 certificates":      {presents(chain(10_000), stranger.key), "handshaking: "},
		"one of 96 kB":             {presents([][]byte{leaf(stranger.key.Public(), 96_000)}, stranger.key), "it presents 96"},
		"500 certificates":         {presents(chain(500), stranger.key), "its chain has more than two certificates of one name and key"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			c := newCluster(t)
			peer := c.outsider(tc.serve)
			s := c.process("pod-a").issuer(changing(peer.address))
			s.once(t)
			old, next := c.ca, newAuthority(t)
			c.ca = next
			c.trusts(next)
			s.once(t)
			c.now = c.now.Add(5 * time.Minute)
			s.once(t)
			c.now = c.now.Add(5 * time.Minute)
			s.waits(t, k8scsr.ChangePeers, "waiting for peer "+peer.address, tc.want)
			if !c.publishes(next, old) {
				t.Error("the old CA is gone")
			}
			if reason := s.only(t).Trust.Reason; len(reason) > 2*maxMessage {
				t.Errorf("%d octets of reason", len(reason))
			}
			// What the system buffers for us is read by nobody.
			if sent := peer.sent.Load(); sent > maxPeerBytes+16<<20 {
				t.Errorf("%d octets were sent", sent)
			}
			for _, peer := range s.rounds["vault_vault-tls"].peers {
				if len(peer.Chain) > 10 || cap(peer.Chain) > 20 {
					t.Errorf("%d certificates of a peer are kept, in a list of %d", len(peer.Chain), cap(peer.Chain))
				}
			}
		})
	}
}

// TestWatchIsHostile: events that are giant, out of order, or older than those
// before, wake nobody who does not wait, and are not kept; bookmarks and errors
// without end are no storm of calls.
func TestWatchIsHostile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		cs := c.process("pod-a").client()
		var calls atomic.Int32
		cs.PrependReactor("list", "certificatesigningrequests", func(clienttesting.Action) (bool, runtime.Object, error) {
			calls.Add(1)
			return true, &certificatesv1.CertificateSigningRequestList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}}, nil
		})
		s := c.process("pod-a").issuer(vaultTLS())
		c.sign = nil
		s.once(t)
		s.now, s.client = time.Now, cs
		ours := c.csrs()[0]
		var woken atomic.Int32
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Watch(ctx, func() { woken.Add(1) }) }()
		synctest.Wait()
		w, _ := c.watcher()
		kept := func() *certificatesv1.CertificateSigningRequest {
			s.watched.Lock()
			defer s.watched.Unlock()
			return s.awaited["vault_vault-tls"].csr
		}
		for name, edit := range map[string]func(*certificatesv1.CertificateSigningRequest){
			"annotations": func(r *certificatesv1.CertificateSigningRequest) {
				r.Annotations = map[string]string{"x": strings.Repeat("x", 10<<20)}
			},
			"a certificate": func(r *certificatesv1.CertificateSigningRequest) {
				r.Status.Certificate = bytes.Repeat([]byte("x"), 10<<20)
			},
			"a message": func(r *certificatesv1.CertificateSigningRequest) {
				r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Message: strings.Repeat("x", 10<<20)})
			},
			"who asked": func(r *certificatesv1.CertificateSigningRequest) {
				r.Spec.Extra = map[string]certificatesv1.ExtraValue{"x": slices.Repeat([]string{"x"}, 1<<20)}
			},
		} {
			r := ours.DeepCopy()
			edit(r)
			w.Modify(r)
			synctest.Wait()
			if kept() != nil {
				t.Errorf("a request of 10 MiB of %s is kept", name)
			}
		}
		for n := range 10_000 {
			w.Action(watch.Bookmark, &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{ResourceVersion: fmt.Sprint(10_000 - n)}})
			other := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "other", ResourceVersion: "0", Labels: ours.Labels}}
			w.Action([]watch.EventType{watch.Added, watch.Modified, watch.Deleted, "STRANGE"}[n%4], other)
		}
		w.Add(&certificatesv1.CertificateSigningRequest{})
		w.Modify(&corev1.Secret{})
		synctest.Wait()
		if n := woken.Load(); n != 4 {
			t.Errorf("woken %d times", n)
		}
		// 410 in each event, for an hour: a call a minute, and one line in the log.
		before := calls.Load()
		_, opened := c.watcher()
		opened-- // this one too
		for end := time.Now().Add(time.Hour); time.Now().Before(end); {
			if last, n := c.watcher(); n > opened {
				opened = n
				last.Error(&metav1.Status{Status: metav1.StatusFailure, Code: http.StatusGone, Reason: metav1.StatusReasonExpired, Message: "too old resource version"})
			}
			time.Sleep(time.Second)
			synctest.Wait()
		}
		if n := calls.Load() - before; n < 30 || n > 80 {
			t.Errorf("%d lists in an hour of 410", n)
		}
		if n := strings.Count(s.log.String(), "looking by time instead"); n != 1 {
			t.Errorf("said %d times", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// snapshot is what a backup of the cluster's store has.
type snapshot struct {
	objects  map[string]metav1.Object
	version  int
	keysUsed map[string]string
	lastEnd  time.Time
}

func (c *cluster) backup() snapshot {
	objects := map[string]metav1.Object{}
	for key, obj := range c.objects {
		objects[key] = obj.(runtime.Object).DeepCopyObject().(metav1.Object)
	}
	return snapshot{objects, c.version, maps.Clone(c.keysUsed), c.lastEnd}
}

// restore brings everything back as it was, versions and UIDs too.
func (c *cluster) restore(s snapshot) {
	c.objects, c.version, c.keysUsed, c.lastEnd = s.objects, s.version, s.keysUsed, s.lastEnd
}

// TestBackupIsRestored: the cluster's store jumps back, to after each of the
// writes of a renewal, under an issuer that goes on, and under one that begins
// anew. What was published since is lost; in the end there is a good certificate,
// from no more than one request more, and nothing is said that is not so.
func TestBackupIsRestored(t *testing.T) {
	for cut := range 7 {
		for _, goesOn := range []bool{true, false} {
			t.Run(fmt.Sprintf("%d_%t", cut, goesOn), func(t *testing.T) {
				c := newCluster(t)
				s := c.process("pod-a").issuer(vaultTLS())
				s.once(t)
				first := len(c.keysUsed)
				c.now = c.now.Add(17 * time.Hour) // its renewal is due
				p := c.process("pod-b")
				p.killAfter = cut
				var saved snapshot
				if cut == 0 {
					saved = c.backup()
				} else {
					_, _ = p.issuer(vaultTLS()).Once(t.Context()) // it is killed
					saved = c.backup()
				}
				s.once(t)
				if c.leaf().NotAfter.Sub(c.now) < 23*time.Hour {
					t.Fatal("it was not renewed")
				}
				c.now = c.now.Add(time.Hour)
				s.once(t)
				c.restore(saved)
				if !goesOn {
					s = c.process("pod-c").issuer(vaultTLS())
				}
				for end := c.now.Add(3 * time.Hour); c.now.Before(end); {
					next, err := s.OnceUntil(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					if st := s.only(t); end.Sub(c.now) < 3*time.Hour-2*time.Minute && !st.NotAfter.Equal(c.leaf().NotAfter) {
						t.Fatalf("the status tells of a certificate until %v, and there is one until %v", st.NotAfter, c.leaf().NotAfter)
					}
					c.now = maxTime(next, c.now.Add(time.Second))
				}
				if left := c.leaf().NotAfter.Sub(c.now); left < 19*time.Hour {
					t.Errorf("%v are left", left)
				}
				if n := len(c.keysUsed) - first; n > 2 {
					t.Errorf("%d requests were made", n)
				}
				if s.rules() != "" {
					t.Errorf("findings %s", s.rules())
				}
				if _, left := c.objects["secrets/vault/vault-tls-next"].(*corev1.Secret); left {
					if key := c.objects["secrets/vault/vault-tls-next"].(*corev1.Secret).Data["tls.key"]; len(key) > 0 {
						t.Error("the next key stays")
					}
				}
			})
		}
	}
}

// TestAnotherClusterUnderTheSameName: everything is there again with other UIDs,
// as a tool restores it that makes objects anew. Nothing is taken for ours that is
// not, and the certificate stays good.
func TestAnotherClusterUnderTheSameName(t *testing.T) {
	c := newCluster(t)
	s := c.process("pod-a").issuer(vaultTLS())
	s.once(t)
	c.now = c.now.Add(17 * time.Hour)
	c.sign = nil
	s.once(t) // a request is under way
	for key, obj := range c.objects {
		again := obj.(runtime.Object).DeepCopyObject().(metav1.Object)
		c.version++
		again.SetUID(types.UID(fmt.Sprintf("other-%d", c.version)))
		again.SetResourceVersion(fmt.Sprint(c.version))
		c.objects[key] = again
	}
	c.sign, c.mayOpen = c.issue, 2 // the one that is not ours stays open
	for end := c.now.Add(2 * time.Hour); c.now.Before(end); {
		next, err := s.OnceUntil(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c.now = maxTime(next, c.now.Add(time.Second))
	}
	if left := c.leaf().NotAfter.Sub(c.now); left < 20*time.Hour {
		t.Errorf("%v are left; findings %s", left, s.rules())
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
