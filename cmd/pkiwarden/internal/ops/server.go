// Package ops shows the process from outside: metrics, health, and what it has
// found.
//
// Metric names here carry no prefix, as in every package of this program: the
// registerer that is passed in adds "pkiwarden_"
// (prometheus.WrapRegistererWithPrefix).
package ops

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Check is something of this pod alone that must have happened once before the
// process counts as ready: its first certificate delivered. It must not ask
// Kubernetes, Vault, Consul or the leader: what is down there must not take
// this pod down too.
type Check struct {
	Name string
	// Ready is nil when it has happened, else says what is missing. It returns
	// at once and holds no secret.
	Ready func() error
}

// ServerOptions describe the HTTP server.
type ServerOptions struct {
	Address  string // HOST:PORT; port 0 picks a free one
	Gatherer prometheus.Gatherer
	// Many are families of which each can be large. None of them is Gatherer's.
	// nil: there are none.
	Many   func() []prometheus.Gatherer
	Checks []Check
	// Status makes the document of /status.json from what is known already: it
	// asks nobody, and waits for nothing. nil: there is no such page.
	Status func() Status
	Log    *slog.Logger // default: slog.Default()
}

// Server answers
//
//   - GET /metrics with the metrics
//   - GET /healthz with 200 as long as the process serves
//   - GET /readyz with 200 when every check has passed, else with 503 and one
//     line per check; with 503 once the process is ending
//   - GET /status.json with a [Status]
//
// and nothing else: no profiles, and no address that a request could name.
type Server struct {
	o        ServerOptions
	http     *http.Server
	listener net.Listener
	stopping atomic.Bool
	asked    atomic.Int32 // for the status, at this moment
	scraped  atomic.Int32 // so too
}

// The bounds of one request and of the end.
const (
	maxScrapes   = 4
	scrapeWithin = 20 * time.Second
	drainWithin  = 5 * time.Second
)

// NewServer makes a server that listens to nothing yet.
func NewServer(o ServerOptions) (*Server, error) {
	if o.Gatherer == nil {
		return nil, errors.New("making ops server: it has no metrics to show")
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	s := &Server{o: o}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", s.scrape)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", s.readyz)
	if o.Status != nil {
		mux.HandleFunc("GET /status.json", s.status)
	}
	s.http = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug), // clients' mistakes
	}
	return s, nil
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text))
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	if s.stopping.Load() {
		answer(w, http.StatusServiceUnavailable, "the process is ending\n")
		return
	}
	status, text := http.StatusOK, ""
	for _, c := range s.o.Checks {
		if err := c.Ready(); err != nil {
			status = http.StatusServiceUnavailable
			text += fmt.Sprintf("%s: %v\n", c.Name, err)
			continue
		}
		text += c.Name + ": ok\n"
	}
	if text == "" {
		text = "ok\n"
	}
	answer(w, status, text)
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request) {
	defer s.asked.Add(-1)
	if s.asked.Add(1) > maxScrapes {
		answer(w, http.StatusServiceUnavailable, "too many ask for the status at once\n")
		return
	}
	data, err := s.o.Status().encode()
	if err != nil {
		s.o.Log.Warn("the status cannot be shown", "error", err)
		answer(w, http.StatusInternalServerError, "the status cannot be shown\n")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(data)
}

// Listen takes the address, so that one that is in use is known at start, and
// returns the one it got. Run does it where it was not done.
func (s *Server) Listen(ctx context.Context) (net.Addr, error) {
	if s.listener == nil {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.o.Address)
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("listening on %s: another process listens there, set listen.address: %w", s.o.Address, err)
		}
		if err != nil {
			return nil, fmt.Errorf("listening on %s (listen.address): %w", s.o.Address, err)
		}
		s.listener = l
	}
	return s.listener.Addr(), nil
}

// Run serves until ctx ends; then it lets requests finish for up to five
// seconds and returns nil. It returns an error when it cannot serve.
func (s *Server) Run(ctx context.Context) error {
	addr, err := s.Listen(ctx)
	if err != nil {
		return err
	}
	s.o.Log.Info("serving metrics and health", "address", addr.String())
	served := make(chan error, 1)
	go func() { served <- s.http.Serve(s.listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serving on %s: %w", addr, err)
	case <-ctx.Done():
	}
	s.stopping.Store(true)
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainWithin)
	defer cancel()
	if err := s.http.Shutdown(drain); err != nil {
		_ = s.http.Close()
	}
	<-served
	return nil
}
