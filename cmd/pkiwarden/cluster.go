package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/config"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/consul"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/kube"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/leader"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/loop"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/ops"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/spool"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/state"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/vault"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/wire"
	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/crl/watch"
	"github.com/pkiwarden/pkiwarden/k8scsr/issuer"
	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier"
	"github.com/pkiwarden/pkiwarden/pki/vaultpki"
)

const (
	// tidyInterval is how often the leader decides; it costs Vault a few small
	// reads.
	tidyInterval = time.Minute
	// readShare is what looking at all certificates may take of the requests
	// that kubernetes.qps allows.
	readShare = 0.1
	// loginWithin is how long a one-shot command waits for Vault.
	loginWithin = 30 * time.Second
)

// errStateless is why tidy cannot run: without a record, two instances could
// run it twice.
var errStateless = &exitError{
	code:  exitUsage,
	err:   errors.New("tidy needs a place for its record, and there is none: no Kubernetes cluster is configured"),
	hints: []string{`outside Kubernetes set state: {backend: file, path: /var/lib/pkiwarden}, or {backend: consul}`, "or look only, with --dry-run"},
}

// errNoVault is what a command says that needs one.
var errNoVault = &exitError{
	code:  exitUsage,
	err:   errors.New("no Vault is configured"),
	hints: []string{"set vault.address, or VAULT_ADDR"},
}

// errNoLogin is what a command says that has nothing to log in with.
var errNoLogin = &exitError{
	code: exitUsage,
	err:  fmt.Errorf("no way to log in to Vault: VAULT_TOKEN is not set, and vault.auth names no other; a pod's own token, %s, is not there either", config.ServiceAccountTokenFile),
	hints: []string{
		"set VAULT_TOKEN, or in the configuration vault.auth: {method: tokenFile, tokenFile: …}",
		"or vault.auth: {method: kubernetes, role: …, tokenFile: …} with a service account's token",
	},
}

// Why a command could not log in: the reason is in the log, which is stderr.
var (
	errLogin        = fmt.Errorf("logging in to Vault: not within %s; the reason is above", loginWithin)
	errLoginRefused = errors.New("logging in to Vault: refused; the reason is above")
)

// cluster is what an instance is connected to. Nothing is opened before it is
// used.
type cluster struct {
	cfg       *config.Config
	kube      *kube.Cluster // nil without Kubernetes
	namespace string        // of the Lease and the state
	state     tidier.State  // nil without a place for it
	consul    *consul.Client
	identity  string // of this instance, in the Lease and in records
}

func newCluster(a *app, log *slog.Logger, cfg *config.Config) (*cluster, error) {
	c := &cluster{cfg: cfg, namespace: cfg.LeaderElection.Namespace}
	var err error
	if c.identity, err = leader.Identity(); err != nil {
		return nil, err
	}
	if cfg.Kubernetes.Present {
		c.kube, err = kube.New(kube.Options{
			Kubeconfig: cfg.Kubernetes.Kubeconfig, QPS: float32(cfg.Kubernetes.QPS), Burst: cfg.Kubernetes.Burst, Version: readBuild().Version,
		})
		if err != nil {
			return nil, err
		}
		c.namespace = c.namespaceOf(c.namespace)
		if err := apart(cfg, c.kube.Namespace); err != nil {
			return nil, err
		}
	}
	if cfg.Consul.Address != "" {
		c.consul, err = consul.New(consul.Options{
			Address: consulAddress(cfg.Consul.Address), CAFile: cfg.Consul.CAFile, TokenFile: cfg.Consul.TokenFile, Token: wire.Secret(cfg.Consul.Token.Reveal()), Log: log,
		})
		if err != nil {
			return nil, err
		}
	}
	switch {
	case cfg.State.Backend == config.BackendFile:
		c.state, err = state.NewFiles(cfg.State.Path)
	case cfg.State.Backend == config.BackendConsul:
		c.state, err = state.NewConsul(c.consul, cfg.State.Path)
	case c.kube != nil:
		c.state, err = state.NewConfigMaps(c.kube.Client, c.namespace)
	}
	return c, err
}

// namespaceOf is the namespace given, else the pod's own.
func (c *cluster) namespaceOf(namespace string) string {
	if namespace == "" && c.kube != nil {
		return c.kube.Namespace
	}
	return namespace
}

// newSession makes the one Vault client. One that gives up is for commands; see
// [vault.Options]. They are told at once where there is nothing to log in with:
// the token that Kubernetes gives a pod is there from the beginning. Other files
// may still come.
func (c *cluster) newSession(log *slog.Logger, metrics *loop.Metrics, giveUp bool) (*vault.Session, error) {
	v := c.cfg.Vault
	if giveUp && v.Auth.Method == config.AuthKubernetes && v.Auth.TokenFile == config.ServiceAccountTokenFile {
		if _, err := os.Stat(v.Auth.TokenFile); errors.Is(err, fs.ErrNotExist) {
			return nil, errNoLogin
		}
	}
	namespace := v.Namespace
	if namespace == config.AllNamespaces {
		namespace = "" // the login is at the root
	}
	return vault.New(vault.Options{
		Address: v.Address, CAFile: v.CAFile, ServerName: v.ServerName, Namespace: namespace,
		Auth: vault.Auth{
			Method: v.Auth.Method, Mount: v.Auth.Mount, Role: v.Auth.Role,
			TokenFile: v.Auth.TokenFile, Token: wire.Secret(v.Auth.Token.Reveal()),
		},
		GiveUp: giveUp, Log: log, Metrics: metrics,
	})
}

// vaultWork is what is done with one Vault.
type vaultWork struct {
	pki    *vaultpki.Vault
	watch  *watch.Watch
	tidier *tidier.Tidier
	wake   func() // its loops, see loops
}

type vaultWorkOptions struct {
	log       *slog.Logger
	registry  prometheus.Registerer // nil for one-shot commands
	reportCRL func([]crl.Finding)
	reportPKI func([]pki.Finding)
	loggedOut func() bool // see watch.Options

	watchTidy     func(pki.Mount, pki.TidyStatus) // nil for nobody, as the next
	watchSampling func(m pki.Mount, read, of int64)
}

func (c *cluster) vaultWork(session *vault.Session, o vaultWorkOptions) (*vaultWork, error) {
	return c.workOn(session.Client(), o)
}

func (c *cluster) workOn(client *api.Client, o vaultWorkOptions) (*vaultWork, error) {
	w := &vaultWork{}
	var err error
	w.pki, err = vaultpki.New(vaultpki.Options{
		Client: client, AllNamespaces: c.cfg.Vault.Namespace == config.AllNamespaces, Log: o.log,
	})
	if err != nil {
		return nil, err
	}
	limits, err := watch.NewLimits(c.limitOptions(w.pki))
	if err != nil {
		return nil, err
	}
	watching := watch.Options{
		Vault: w.pki, Limits: limits, Mounts: c.cfg.CRL.Mounts, Interval: c.cfg.CRL.Interval, Fetch: c.cfg.CRL.Fetch, MaxBytes: c.cfg.CRL.MaxBytes,
		Thresholds: thresholds(c.cfg),
		Spool:      newSpool(c.cfg.CRL.MaxBytes), Log: o.log, Registerer: o.registry, Report: o.reportCRL,
		LoggedOut: o.loggedOut,
	}
	if o.registry != nil { // a command sees one moment, which is no history
		watching.State = c.state
		if c.cfg.Tidy.Enabled {
			watching.Tidy = watch.Tidying{SafetyBuffer: c.cfg.Tidy.SafetyBuffer, Every: c.cfg.Tidy.Trigger.AtLeastEvery}
		}
		watching.Fleet, err = watch.NewFleets(watch.FleetOptions{
			Configured: c.cfg.CRL.FleetSize, Certs: w.pki, Counts: w.pki, SafetyBuffer: c.cfg.Tidy.SafetyBuffer, Log: o.log,
		})
		if err != nil {
			return nil, err
		}
	}
	w.watch, err = watch.New(watching)
	if err != nil {
		return nil, err
	}
	tidyState := c.state
	if tidyState == nil {
		tidyState = nowhere{}
	}
	w.tidier, err = tidier.New(tidier.Options{
		Vault: rotating{w.pki, w.watch}, CRLs: w.watch, State: tidyState, Policy: tidyPolicy(c.cfg), Mounts: c.cfg.Tidy.Mounts, Watched: c.cfg.CRL.Mounts,
		AutoPause: c.cfg.Tidy.Pause == nil, Interval: min(tidyInterval, c.cfg.CRL.Interval),
		Identity: c.identity, Log: o.log, Registerer: o.registry, Report: o.reportPKI,
		Watch: o.watchTidy, Sampling: o.watchSampling,
	})
	if err != nil {
		w.watch.Unregister() // or it could not be made again
		return nil, err
	}
	return w, nil
}

// rotating tells the watch how rebuilding lists ended: whether Vault can still
// store them is known to who asks it to.
type rotating struct {
	*vaultpki.Vault
	watch *watch.Watch
}

func (r rotating) Rotate(ctx context.Context, m pki.Mount) error {
	err := r.Vault.Rotate(ctx, m)
	r.watch.NoteRefused(m, err)
	return err
}

// newSpool makes what keeps a list whose signature needs it whole.
func newSpool(maxBytes int64) func() (crl.Spool, func()) {
	return func() (crl.Spool, func()) {
		s := spool.New(spool.Options{MaxBytes: maxBytes})
		return s, func() { _ = s.Close() } // nothing is lost with it
	}
}

// limitOptions: what is configured, else what the running system says.
func (c *cluster) limitOptions(v *vaultpki.Vault) watch.LimitOptions {
	o := watch.LimitOptions{Bytes: c.cfg.CRL.Limit.Bytes, Vault: v, ConsulPath: c.cfg.Consul.StoragePath}
	if c.cfg.CRL.Limit.Backend != "" {
		o.Storage = storage(c.cfg)
	}
	if c.consul != nil {
		o.Consul = c.consul
	}
	return o
}

// consulAddress adds the scheme that Consul's own clients take for granted.
func consulAddress(address string) string {
	if strings.Contains(address, "://") {
		return address
	}
	return "http://" + address
}

// nowhere is the state of an instance that has none and changes nothing.
type nowhere struct{}

func (nowhere) Get(context.Context, string) ([]byte, string, error) { return nil, "", nil }
func (nowhere) Put(context.Context, string, []byte, string) (string, error) {
	return "", errStateless
}

// issuing keeps the declared certificates.
func (i *instance) issuing() (work []func(context.Context) error, end func(), err error) {
	if i.cluster.kube == nil {
		return nil, nil, errors.New("certificates are declared, and there is no cluster: set kubernetes.kubeconfig or KUBECONFIG")
	}
	const source = certificatesSource
	certs, err := issuer.New(issuer.Options{
		Client: i.cluster.kube.Client, Certificates: issued(i.cfg.Certificates), Namespace: i.cluster.kube.Namespace, State: i.cluster.state, Memory: i.memory,
		Reads: readShare * i.cfg.Kubernetes.QPS,
		Log:   i.log, Registerer: i.registry, Report: i.reportCertificates(source),
		Published: i.published,
	})
	if err != nil {
		return nil, nil, err
	}
	i.known.change(func() { i.known.certificates = certs.Statuses })
	end = func() {
		i.known.change(func() { i.known.certificates = nil })
		certs.Unregister()
		i.findings.Forget(source)
	}
	l, err := loop.New(loop.Options{
		Name: "certificates", Interval: time.Minute, OnceUntil: certs.OnceUntil, OwnPace: true, Log: i.log, Metrics: i.loops,
	})
	if err != nil {
		end()
		return nil, nil, err
	}
	return []func(context.Context) error{
		l.Run, certs.Events, func(ctx context.Context) error { return certs.Watch(ctx, l.Wake) },
	}, end, nil
}

// watching measures the CRLs of Vault and tidies.
func (i *instance) watching() (work []func(context.Context) error, end func(), err error) {
	session, err := i.cluster.newSession(i.log, i.loops, false)
	if err != nil {
		return nil, nil, err
	}
	login := &login{findings: i.findings}
	var w *vaultWork
	w, err = i.cluster.vaultWork(session, vaultWorkOptions{
		log: i.log, registry: i.registry,
		reportCRL: func(list []crl.Finding) {
			i.findings.Set(crlSource, crlFindings(list))
			if w.watch.Complete() {
				i.findings.Settle(crlSource)
			}
		},
		reportPKI: func(list []pki.Finding) { login.reportTidy(pkiFindings(list)) },
		loggedOut: login.out.Load,
	})
	if err != nil {
		return nil, nil, err
	}
	login.crl = func() []ops.Finding { return crlFindings(w.watch.Findings()) }
	login.mended = func() { w.watch.Again(); w.wake() }
	session.Tell(login.told)
	i.known.change(func() { i.known.vault = w })
	end = func() {
		i.known.change(func() { i.known.vault = nil })
		w.watch.Unregister()
		w.tidier.Unregister()
		login.forget()
	}
	run, err := w.loops(i.cfg.CRL.Interval, i.log, i.loops)
	if err != nil {
		end()
		return nil, nil, err
	}
	return []func(context.Context) error{func(ctx context.Context) error { return withSession(ctx, session, run) }}, end, nil
}

// loops makes what watches and tidies until its context ends.
func (w *vaultWork) loops(interval time.Duration, log *slog.Logger, metrics *loop.Metrics) (func(context.Context) error, error) {
	watchLoop, err := loop.New(loop.Options{Name: "crl", Interval: interval, OnceUntil: w.watch.OnceUntil, Eager: true, Log: log, Metrics: metrics})
	if err != nil {
		return nil, err
	}
	tidyEvery := min(tidyInterval, interval)
	tidyLoop, err := loop.New(loop.Options{Name: "tidy", Interval: tidyEvery, Jitter: tidyEvery / 10, Once: w.tidier.Once, Eager: true, Log: log, Metrics: metrics})
	if err != nil {
		return nil, err
	}
	w.wake = func() { watchLoop.Wake(); tidyLoop.Wake() }
	return func(ctx context.Context) error {
		defer w.watch.Flush(ctx) // the next leader counts from there
		return loop.Group(ctx, watchLoop.Run, tidyLoop.Run)
	}, nil
}

// withSession runs work once the session has logged in, and ends the session
// after the work.
func withSession(ctx context.Context, session *vault.Session, work func(context.Context) error) error {
	held, release := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = session.Run(held) // returns nil
	}()
	defer func() { release(); <-ended }()
	switch err := session.Ready(ctx); {
	case errors.Is(err, vault.ErrRefused):
		return errLoginRefused
	case err != nil:
		return nil // ctx has ended: there is nothing to do any more
	}
	return work(ctx)
}

// oneSession is withSession for commands: it gives up when Vault refuses the
// login, or does not let it in within loginWithin.
func oneSession(ctx context.Context, session *vault.Session, work func(context.Context) error) error {
	var called bool
	login, cancel := context.WithTimeout(ctx, loginWithin)
	defer cancel()
	err := withSession(login, session, func(context.Context) error {
		called = true
		return work(ctx)
	})
	switch {
	case called || errors.Is(err, errLoginRefused):
		return err
	case ctx.Err() != nil:
		return ctx.Err() // interrupted while it waited: nothing was done
	}
	return errLogin
}
