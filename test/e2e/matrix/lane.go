package matrix

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// lane is one cluster and one Vault, in which trials follow each other.
type lane struct {
	world *world.World
	proof *proofs
	count int
	ahead time.Duration // of the clock by which the certificate in use was signed
}

// newLane starts the servers, lets pkiwarden bear the first certificate, and
// ends it.
func newLane(ctx context.Context, newSet func() (*servers.Set, error)) (*lane, error) {
	set, err := newSet()
	if err != nil {
		return nil, err
	}
	w, err := world.New(ctx, set, world.Options{SigningDuration: time.Hour})
	if err != nil {
		return nil, err
	}
	l := &lane{world: w}
	w.Setting("leaderElection.backend", "none")
	w.Setting("crl.interval", "1m")
	pod, err := w.StartPod(ctx, world.PodOptions{Name: podNames[0]})
	if err != nil {
		return nil, err
	}
	if err := w.Delivered(ctx); err != nil {
		return nil, fmt.Errorf("waiting for the first certificate: %w; the end of the log:\n%s", err, pod.LogTail(20))
	}
	if err := w.StartVault(ctx, servers.VaultOptions{}); err != nil {
		return nil, err
	}
	if err := pod.Stop(ctx); err != nil {
		return nil, err
	}
	l.proof, err = newProofs(w.VaultAddress())
	return l, err
}

func (l *lane) close() { l.proof.close() }

// podNames are the two pods that a lane's processes are.
var podNames = [2]string{"vault-0", "vault-1"}

// process is one pkiwarden and its way to the API server.
type process struct {
	*world.Pod
	gate *gate
	made time.Time
}

// newProcess prepares the process of a pod with the wanted names.
func (l *lane) newProcess(ctx context.Context, pod string, set map[string]any) (*process, error) {
	g, err := newGate(l.world)
	if err != nil {
		return nil, err
	}
	set["deliver.0.verify"] = []any{
		map[string]any{"address": l.world.VaultAddress(), "serverName": world.ServerName, "protocol": "tls"},
		map[string]any{"address": l.proof.address(), "serverName": world.ServerName, "protocol": "tls"},
	}
	p, err := l.world.NewPod(ctx, world.PodOptions{Name: pod, Set: set})
	if err != nil {
		g.Close()
		return nil, err
	}
	text, err := os.ReadFile(p.Identity.Kubeconfig)
	if err != nil {
		return nil, err
	}
	through := strings.ReplaceAll(string(text), l.world.Kubernetes.URL, g.URL)
	if through == string(text) {
		return nil, errors.New("the kubeconfig does not name the API server's address")
	}
	return &process{p, g, time.Now()}, os.WriteFile(p.Identity.Kubeconfig, []byte(through), 0o600)
}

func (p *process) close() {
	p.gate.set(func(g *gate) { g.closed = true })
	p.gate.CloseClientConnections()
	p.gate.Close()
}

// proofs is a second way to Vault's listener, on which handshakes are seen.
type proofs struct {
	listener net.Listener
	target   string
	points   chan func(string) // the one who is told, taken and put back
}

func newProofs(target string) (*proofs, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("making the way on which proofs are seen: %w", err)
	}
	p := &proofs{listener, target, make(chan func(string), 1)}
	p.points <- func(string) {}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			go p.pass(conn)
		}
	}()
	return p, nil
}

func (p *proofs) address() string { return p.listener.Addr().String() }

func (p *proofs) close() { _ = p.listener.Close() }

// tell changes who is told of handshakes.
func (p *proofs) tell(reached func(point string)) {
	<-p.points
	p.points <- reached
}

func (p *proofs) reached(point string) {
	f := <-p.points
	p.points <- f
	f(point)
}

func (p *proofs) pass(conn net.Conn) {
	defer conn.Close()
	p.reached(proofBegun)
	vault, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer vault.Close()
	go func() { _, _ = io.Copy(vault, conn); _ = vault.Close() }()
	_, _ = io.Copy(conn, vault)
	p.reached(proofDone)
}
