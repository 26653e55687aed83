//go:build servers

// Package prometheus pins the Prometheus server and promtool of the end-to-end
// tests in a module of its own, so that none of their dependencies reaches the
// product's go.mod.
package prometheus

import (
	_ "github.com/prometheus/prometheus/cmd/prometheus"
	_ "github.com/prometheus/prometheus/cmd/promtool"
)
