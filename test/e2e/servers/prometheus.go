package servers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"time"
)

// PrometheusOptions describe one Prometheus server.
type PrometheusOptions struct {
	// ConfigFile is a Prometheus configuration; relative rule files are
	// relative to it.
	ConfigFile string
}

// Prometheus is one Prometheus server without its web interface.
type Prometheus struct {
	*Program
	// Address is the API's URL.
	Address string
}

// StartPrometheus starts a Prometheus and waits until it is ready to answer.
func (s *Set) StartPrometheus(ctx context.Context, o PrometheusOptions) (*Prometheus, error) {
	if o.ConfigFile == "" {
		return nil, errors.New("starting prometheus: PrometheusOptions.ConfigFile is not set")
	}
	paths, err := s.find(ctx, "prometheus")
	if err != nil {
		return nil, err
	}
	p := &Prometheus{}
	p.Program, err = s.launch(ctx, "prometheus", 1, func(dir string, ports []int) (ProgramOptions, error) {
		p.Address = "http://" + loopback(ports[0])
		return ProgramOptions{
			Path: paths["prometheus"],
			Args: []string{
				"--config.file=" + o.ConfigFile,
				"--storage.tsdb.path=" + filepath.Join(dir, "data"),
				"--web.listen-address=" + loopback(ports[0]),
				"--web.enable-lifecycle",
			},
			Ready: httpReady(&http.Transport{DisableKeepAlives: true}, p.Address+"/-/ready"),
		}, nil
	})
	return p, err
}

// Promtool is the path of promtool.
func (s *Set) Promtool(ctx context.Context) (string, error) {
	paths, err := s.find(ctx, "promtool")
	return paths["promtool"], err
}

// Reload makes Prometheus read its configuration and rules again. A file that
// it refuses is an error with its reason.
func (p *Prometheus) Reload(ctx context.Context) error {
	_, err := p.ask(ctx, http.MethodPost, "/-/reload")
	return err
}

// PrometheusSample is one series of an instant query's result.
type PrometheusSample struct {
	Labels map[string]string
	Value  float64
}

// Query evaluates a PromQL expression now. The result must be a vector.
func (p *Prometheus) Query(ctx context.Context, expression string) ([]PrometheusSample, error) {
	body, err := p.ask(ctx, http.MethodGet, "/api/v1/query?query="+url.QueryEscape(expression))
	if err != nil {
		return nil, err
	}
	var answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string `json:"metric"`
				Value  [2]any            `json:"value"`
			} `json:"result"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("querying prometheus for %q: %w", expression, err)
	}
	var samples []PrometheusSample
	for _, r := range answer.Data.Result {
		text, _ := r.Value[1].(string)
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, fmt.Errorf("querying prometheus for %q: %w", expression, err)
		}
		samples = append(samples, PrometheusSample{Labels: r.Metric, Value: value})
	}
	return samples, nil
}

func (p *Prometheus) ask(ctx context.Context, method, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, p.Address+path, nil)
	if err != nil {
		return nil, fmt.Errorf("asking prometheus: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("asking prometheus: %w", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 16<<20))
	if err != nil {
		return nil, fmt.Errorf("asking prometheus: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("asking prometheus for %s: %s: %s", path, response.Status, body)
	}
	return body, nil
}
