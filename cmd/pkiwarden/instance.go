package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/config"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/leader"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/loop"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/ops"
	"github.com/pkiwarden/pkiwarden/k8scsr"
	"github.com/pkiwarden/pkiwarden/k8scsr/deliver"
	"github.com/pkiwarden/pkiwarden/k8scsr/issuer"
)

const metricPrefix = "pkiwarden_"

// counts go on from one instance of the process to the next.
type counts struct {
	counters *ops.Counters
	loops    *loop.Metrics
}

// counts are made when they are first asked for.
func (a *app) counts() (*counts, error) {
	if a.counted == nil {
		loops, err := loop.NewMetrics(nil)
		if err != nil {
			return nil, err
		}
		a.counted = &counts{counters: new(ops.Counters), loops: loops}
	}
	return a.counted, nil
}

// instance is one running pkiwarden under one configuration.
type instance struct {
	started  func() // called once it serves; nil: nobody wants to know
	cfg      *config.Config
	log      *slog.Logger
	build    buildInfo
	cluster  *cluster
	registry *ops.Registry
	loops    *loop.Metrics
	metrics  *ops.Metrics
	ops      *ops.Server
	findings *ops.Findings
	elector  leader.Elector // nil: this one never leads
	memory   *issuer.Memory // of the certificates, from one instance to the next

	deliveries []delivery // this pod's own work
	now        func() time.Time
	known      known
}

// delivery is one certificate on its way to this pod's processes.
type delivery struct {
	certificate string
	deliverer   *deliver.Deliverer
	loop        *loop.Loop
}

// newInstance makes everything that does not depend on leading. It opens no
// connection and starts nothing.
func newInstance(a *app, log *slog.Logger, cfg *config.Config) (*instance, error) {
	i := &instance{cfg: cfg, log: log, build: readBuild(), now: a.now, memory: &a.memory}
	counts, err := a.counts()
	if err != nil {
		return nil, err
	}
	registry := counts.counters.Registry()
	// These are of the whole process already.
	registry.Registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	i.registry, i.loops = registry, counts.loops
	if err := prometheus.WrapRegistererWithPrefix(metricPrefix, registry.Registry).Register(i.loops); err != nil {
		return nil, err
	}
	// The domains' series carry their full names; the machinery's get theirs here.
	own := prometheus.WrapRegistererWithPrefix(metricPrefix, registry)
	if i.metrics, err = ops.NewMetrics(own, i.build.Version, i.build.Commit); err != nil {
		return nil, err
	}
	if i.findings, err = ops.NewFindings(own, log); err != nil {
		return nil, err
	}
	i.findings.Continue(a.held)
	if i.cluster, err = newCluster(a, log, cfg); err != nil {
		return nil, err
	}
	if i.cluster.state == nil && tidies(cfg) {
		return nil, errStateless
	}
	checks, err := i.addDeliveries()
	if err != nil {
		return nil, err
	}
	i.ops, err = ops.NewServer(ops.ServerOptions{Address: cfg.Listen.Address, Gatherer: registry, Many: registry.Many, Checks: checks, Status: i.status, Log: log})
	if err != nil {
		return nil, err
	}
	i.elector, err = i.newElector()
	return i, err
}

// addDeliveries makes this pod's own work, one loop for each delivery, and what
// must have happened before the pod counts as ready.
func (i *instance) addDeliveries() ([]ops.Check, error) {
	var checks []ops.Check
	for _, d := range i.cfg.Deliver {
		deliverer, err := i.newDeliverer(d)
		if err != nil {
			return nil, err
		}
		l, err := loop.New(loop.Options{
			Name: "deliver-" + d.Certificate, Interval: 15 * time.Second, Jitter: 3 * time.Second, OnceUntil: deliverer.OnceUntil, Eager: true,
			Log: i.log, Metrics: i.loops,
		})
		if err != nil {
			return nil, err
		}
		i.deliveries = append(i.deliveries, delivery{d.Certificate, deliverer, l})
		checks = append(checks, ops.Check{Name: "delivered-" + d.Certificate, Ready: func() error {
			if !deliverer.Delivered() {
				return errors.New("no pair has been delivered yet")
			}
			return nil
		}})
	}
	return checks, nil
}

// published lets this pod deliver a certificate at once that it has just
// published itself. What another pod published is found by looking.
func (i *instance) published(certificate string) {
	for _, d := range i.deliveries {
		if d.certificate == certificate {
			d.loop.Wake()
		}
	}
}

func (i *instance) newDeliverer(d config.Deliver) (*deliver.Deliverer, error) {
	c, err := declared(i.cfg.Certificates, d.Certificate)
	if err != nil {
		return nil, err
	}
	keys := deliver.Keys(c.SecretKeys)
	o := deliver.Options{
		Certificate: d.Certificate, Verify: listeners(d.Verify), Timeout: d.Timeout,
		Log: i.log, Registerer: i.registry, Report: i.reportCertificates(delivering(d)),
	}
	if d.From.Mounted != "" {
		o.Source, err = deliver.NewMountedSource(d.From.Mounted, keys)
	} else {
		if i.cluster.kube == nil {
			return nil, fmt.Errorf("deliver: certificate %q comes through the Kubernetes API, and there is no cluster: set kubernetes.kubeconfig or KUBECONFIG, or deliver from a mounted Secret", d.Certificate)
		}
		owner, err := deliver.ParseOwner(d.Files.Owner)
		if err != nil {
			return nil, err
		}
		o.Files = deliver.Files{Directory: d.Files.Directory, Mode: d.Files.Mode, Owner: owner}
		secrets := i.cluster.kube.Client.CoreV1().Secrets(i.cluster.namespaceOf(c.Secret.Namespace))
		o.Source, err = deliver.NewSecretSource(secrets, i.cluster.namespaceOf(c.Secret.Namespace), c.Secret.Name, keys)
		if err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, err
	}
	switch {
	case d.Reload.Signal != "":
		o.Reload = deliver.Reload{Signal: d.Reload.Signal, Process: d.Reload.Process}
	case d.Reload.Consul:
		if i.cluster.consul == nil {
			return nil, fmt.Errorf("deliver: certificate %q is reloaded through Consul: set consul.address or CONSUL_HTTP_ADDR", d.Certificate)
		}
		o.Reload = deliver.Reload{Consul: i.cluster.consul}
	}
	return deliver.New(o)
}

// newElector is nil for the role local.
func (i *instance) newElector() (leader.Elector, error) {
	election := i.cfg.LeaderElection
	if election.Role == config.RoleLocal {
		return nil, nil
	}
	if election.Backend == config.BackendNone {
		return leader.Alone{OnChange: i.setLeader}, nil
	}
	if i.cluster.kube == nil {
		return nil, errors.New("leaderElection.backend is kubernetes, and there is no cluster: set kubernetes.kubeconfig or KUBECONFIG, or backend none for a single instance")
	}
	return leader.NewLease(leader.LeaseOptions{
		Client: i.cluster.kube.Client, Namespace: i.cluster.namespace, Name: election.Name, Identity: i.cluster.identity,
		LeaseDuration: election.LeaseDuration, RenewDeadline: election.RenewDeadline, RetryPeriod: election.RetryPeriod,
		Log: i.log, OnChange: i.setLeader,
	})
}

// run works until ctx ends. Workers are joined first, then the Lease is
// released, and the metrics page goes last.
func (i *instance) run(ctx context.Context) error {
	defer i.registry.End()
	address, err := i.ops.Listen(ctx)
	if err != nil {
		return &startError{err}
	}
	if i.started != nil {
		i.started()
	}
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	served := make(chan error, 1)
	go func() { served <- i.ops.Run(serving) }()
	i.log.Info("running", "version", i.build.Version, "role", i.cfg.LeaderElection.Role, "listen", address.String(), "config", i.cfg.File)

	i.findings.SettleBut(i.sources())
	var work []func(context.Context) error
	for _, d := range i.deliveries {
		work = append(work, d.loop.Run)
	}
	if i.elector != nil {
		work = append(work, func(ctx context.Context) error { return i.elector.Run(ctx, i.lead) })
	}
	// With nothing to do locally and no leading either, it still serves.
	work = append(work, func(ctx context.Context) error { <-ctx.Done(); return nil })
	err = loop.Group(ctx, work...)
	stopServing()
	return errors.Join(err, <-served)
}

func (i *instance) reportCertificates(source string) func([]k8scsr.Finding) {
	return func(list []k8scsr.Finding) {
		i.findings.Set(source, certificateFindings(list))
		i.findings.Settle(source)
	}
}

const (
	certificatesSource = "certificates"
	signerSource       = "signer"
)

func delivering(d config.Deliver) string { return "deliver " + d.Certificate }
