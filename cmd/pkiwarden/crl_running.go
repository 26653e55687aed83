package main

import (
	"context"
	"errors"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/config"
	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/crl/watch"
	"github.com/pkiwarden/pkiwarden/pki/vaultpki"
)

// runningLimit is the limit that a running instance would go by: the configured
// one, else that of the running Vault and, below it, Consul. Not to know it is
// exit code 3.
func runningLimit(ctx context.Context, a *app) (crl.Limit, error) {
	cfg, err := a.config()
	if err != nil {
		return crl.Limit{}, err
	}
	limit, err := readLimit(ctx, a, cfg)
	var exit *exitError
	if err != nil && ctx.Err() == nil && !errors.As(err, &exit) {
		err = &exitError{code: exitUnknown, err: err}
	}
	return limit, err
}

func readLimit(ctx context.Context, a *app, cfg *config.Config) (crl.Limit, error) {
	log := newLogger(a.stderr, config.Log{Level: "warn", Format: cfg.Log.Format})
	cluster, err := newCluster(a, log, cfg)
	if err != nil {
		return crl.Limit{}, err
	}
	if !cfg.CRL.Limit.IsAuto() {
		limits, err := watch.NewLimits(cluster.limitOptions(nil))
		if err != nil {
			return crl.Limit{}, err
		}
		return limits.Limit(ctx), nil
	}
	if cfg.Vault.Address == "" {
		return crl.Limit{}, &exitError{code: exitUsage, err: errNoVault.err, hints: append(errNoVault.hints, "or name the storage with --backend")}
	}
	session, err := cluster.newSession(log, nil, true)
	if err != nil {
		return crl.Limit{}, err
	}
	v, err := vaultpki.New(vaultpki.Options{Client: session.Client(), Log: log})
	if err != nil {
		return crl.Limit{}, err
	}
	limits, err := watch.NewLimits(cluster.limitOptions(v))
	if err != nil {
		return crl.Limit{}, err
	}
	var storage crl.Storage
	err = oneSession(ctx, session, func(ctx context.Context) (err error) {
		storage, err = limits.Storage(ctx)
		return err
	})
	if err != nil {
		return crl.Limit{}, err
	}
	return storage.Limit(), nil
}
