package servers

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"time"
)

// Etcd is one etcd member without TLS on loopback. It does not wait for the
// disk, so its data survives a killed process and not a crashed machine.
type Etcd struct {
	*Program
	// URL is the client address.
	URL string
}

// StartEtcd starts etcd.
func (s *Set) StartEtcd(ctx context.Context) (*Etcd, error) {
	paths, err := s.find(ctx, "etcd")
	if err != nil {
		return nil, err
	}
	e := &Etcd{}
	e.Program, err = s.launch(ctx, "etcd", 2, func(dir string, ports []int) (ProgramOptions, error) {
		peer := "http://" + loopback(ports[1])
		e.URL = "http://" + loopback(ports[0])
		return ProgramOptions{
			Path: paths["etcd"],
			Args: []string{
				"--data-dir=" + filepath.Join(dir, "data"),
				"--listen-client-urls=" + e.URL,
				"--advertise-client-urls=" + e.URL,
				"--listen-peer-urls=" + peer,
				"--initial-advertise-peer-urls=" + peer,
				"--initial-cluster=default=" + peer,
				"--unsafe-no-fsync",
				// An election of one need not wait the usual second.
				"--heartbeat-interval=20",
				"--election-timeout=200",
			},
			Ready: httpReady(http.DefaultTransport, e.URL+"/health"),
		}, nil
	})
	if err != nil {
		return nil, err
	}
	return e, nil
}

// httpReady asks a URL until it answers 200.
func httpReady(transport http.RoundTripper, url string) func(context.Context) error {
	client := &http.Client{Transport: transport, Timeout: 5 * time.Second}
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s", url, response.Status)
		}
		return nil
	}
}
