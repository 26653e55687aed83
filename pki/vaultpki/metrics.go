package vaultpki

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/pkiwarden/pkiwarden/pki"
)

// The gauges of Vault's expiration manager (vault/expiration.go, emitMetrics).
// What stands before them is configuration: the prefix (telemetry's
// metrics_prefix, "vault" by default) and, unless disable_hostname is set, the
// host's name.
const (
	numLeases            = "expire.num_leases"
	numIrrevocableLeases = "expire.num_irrevocable_leases"
)

// Leases are Vault's own counts of its leases, from its telemetry in memory
// (sys/metrics, as JSON): a few seconds old, and of the active node only, which
// has to be the one that is asked. The right to read sys/metrics is optional:
// without it the error is a [pki.PermissionError]. Counts that telemetry filters
// out (prefix_filter) are an error. The answer is read as it comes, up to 8 MiB,
// and no further than its gauges.
func (v *Vault) Leases(ctx context.Context) (pki.Leases, error) {
	r := request{method: http.MethodGet, path: "sys/metrics", system: true}
	ctx, cancel := v.deadline(ctx, r)
	defer cancel()
	resp, err := v.send(ctx, r)
	if err != nil {
		return pki.Leases{}, fmt.Errorf("counting leases: %w", err)
	}
	defer resp.Body.Close()
	in := &io.LimitedReader{R: resp.Body, N: maxAnswer}
	leases, err := countLeases(in)
	if err != nil && in.N <= 0 {
		return pki.Leases{}, fmt.Errorf("counting leases: %s is longer than %d bytes", r.path, maxAnswer)
	}
	if err != nil {
		return pki.Leases{}, fmt.Errorf("counting leases: reading %s: %w", r.path, err)
	}
	return leases, nil
}

func countLeases(r io.Reader) (pki.Leases, error) {
	in := json.NewDecoder(r)
	if err := enterGauges(in); err != nil {
		return pki.Leases{}, err
	}
	var leases pki.Leases
	var total, irrevocable bool
	for in.More() && !(total && irrevocable) {
		var gauge struct {
			Name  string
			Value float64
		}
		if err := in.Decode(&gauge); err != nil {
			return pki.Leases{}, fmt.Errorf("decoding a gauge: %w", err)
		}
		switch {
		case isGauge(gauge.Name, numLeases):
			leases.Total, total = int64(gauge.Value), true
		case isGauge(gauge.Name, numIrrevocableLeases):
			leases.Irrevocable, irrevocable = int64(gauge.Value), true
		}
	}
	switch {
	case !total:
		return pki.Leases{}, errors.New("it has no gauge " + numLeases + ": see prefix_filter in Vault's telemetry, and whether the active node was asked")
	case !irrevocable:
		return pki.Leases{}, errors.New("it has no gauge " + numIrrevocableLeases + ": see prefix_filter in Vault's telemetry")
	}
	return leases, nil
}

// isGauge tells whether a name is that of a gauge, whatever stands before it.
func isGauge(name, gauge string) bool {
	return name == gauge || strings.HasSuffix(name, "."+gauge)
}

// enterGauges reads up to the first element of the array "Gauges".
func enterGauges(in *json.Decoder) error {
	if t, err := in.Token(); err != nil || t != json.Delim('{') {
		return errors.Join(errors.New("it is not an object"), err)
	}
	for in.More() {
		key, err := in.Token()
		if err != nil {
			return err
		}
		if key != "Gauges" {
			var other json.RawMessage
			if err := in.Decode(&other); err != nil {
				return fmt.Errorf("decoding %v: %w", key, err)
			}
			continue
		}
		if t, err := in.Token(); err != nil || t != json.Delim('[') {
			return errors.Join(errors.New("its gauges are not a list"), err)
		}
		return nil
	}
	return errors.New("it has no gauges")
}
