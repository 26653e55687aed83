package deliver

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// store is a source that holds what a test puts there.
type store struct {
	mu    sync.Mutex
	pair  Pair
	err   error
	reads []time.Time
}

func (s *store) Pair(context.Context) (Pair, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads = append(s.reads, time.Now())
	return s.pair, s.err
}

func (s *store) put(p Pair, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pair, s.err = p, err
}

// taken returns the reads since it was last called.
func (s *store) taken() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	reads := s.reads
	s.reads = nil
	return reads
}

// bench is a Deliverer with everything around it.
type bench struct {
	*Deliverer
	source    *store
	directory string
	process   string // the server's executable
	registry  *prometheus.Registry
	found     []k8scsr.Finding
	log       *bytes.Buffer
	skew      time.Duration // moves the Deliverer's clock
}

func newBench(t *testing.T, change func(*Options)) *bench {
	t.Helper()
	b := &bench{source: &store{err: ErrNotYet}, directory: fastDirectory(t), process: uniqueName(), registry: prometheus.NewRegistry(), log: new(bytes.Buffer)}
	b.restart(t, change)
	return b
}

// restart makes a new Deliverer over the same surroundings, as a new process does.
func (b *bench) restart(t *testing.T, change func(*Options)) {
	t.Helper()
	b.registry = prometheus.NewRegistry()
	o := Options{
		Certificate: "vault-server",
		Source:      b.source,
		Files:       Files{Directory: b.directory},
		Timeout:     3 * time.Second,
		Log: slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}})),
		Registerer: b.registry,
		Now:        func() time.Time { return time.Now().Add(b.skew) },
		Report:     func(found []k8scsr.Finding) { b.found = found },
	}
	change(&o)
	if o.Reload.Process != "" {
		o.Reload.Process = b.process
	}
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	b.Deliverer = d
}

// metric returns certificate_served of an address, "" where it is absent.
func (b *bench) metric(t *testing.T, address string) string {
	t.Helper()
	families, err := b.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			labels := m.GetLabel()
			if f.GetName() != "pkiwarden_certificate_served" || labels[1].GetValue() != "vault-server" {
				t.Fatalf("unexpected metric %s %v", f.GetName(), labels)
			}
			if labels[0].GetValue() == address {
				return fmt.Sprint(m.GetGauge().GetValue())
			}
		}
	}
	return ""
}

func (b *bench) wantFindings(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for _, f := range b.found {
		got = append(got, f.Rule+" "+string(f.Severity))
		if f.Subject == "" || f.Summary == "" || f.Evidence == "" || f.Remedy == "" || f.Citation == "" {
			t.Errorf("an empty field in %+v", f)
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("findings %v, want %v", got, want)
	}
}

func (b *bench) wantPublished(t *testing.T, want Pair) {
	t.Helper()
	if got, err := readDirectory(b.directory); err != nil || !got.equal(want) {
		t.Errorf("the files are not the pair that was stored: %v", err)
	}
}

func (b *bench) generations(t *testing.T) (n int) {
	t.Helper()
	for _, name := range names(t, b.directory) {
		if name == "..pkiwarden-" {
			n++
		}
	}
	return n
}

// startServer starts a server on the files that were delivered.
func (b *bench) startServer(t *testing.T, address, how string) *child {
	t.Helper()
	return start(t, b.process, roleServer, filepath.Join(b.directory, "tls.crt"), filepath.Join(b.directory, "tls.key"), address, how)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func vaultAt(address string) func(*Options) {
	return func(o *Options) {
		o.Reload = Reload{Signal: "HUP", Process: "vault"}
		o.Verify = []Address{{Address: address, ServerName: "vault.test"}}
	}
}
