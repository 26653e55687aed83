package main

import (
	"context"
	"errors"
	"io"
	stdlog "log"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/config"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/kube"
)

func newRunCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Run beside Vault or Consul, or as the controller, until stopped",
		Long: `Run delivers this pod's certificates, and, while it leads, does the cluster's
work: it renews the declared certificates, measures every CRL of Vault, and runs
tidy where that is enabled. What it may change is said in the configuration;
without one it only measures and reports.

It ends on SIGTERM or SIGINT: work under way is joined first, then the Lease is
released. A changed configuration file is read again within 10 seconds, or at
once on SIGHUP; a wrong one is refused and the last good one stays in force.` + codes{
			0: "ended by a signal", exitCritical: "could not start: a port that is taken, a file that cannot be read",
			exitUsage: "wrong usage or configuration",
		}.help(),
		Example: `  pkiwarden run
  pkiwarden run --config /etc/pkiwarden/config.yaml
  VAULT_ADDR=https://127.0.0.1:8200 VAULT_TOKEN=… pkiwarden run`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runForever(cmd.Context(), a) },
	}
}

// gcPercent trades processor time, of which a sidecar takes next to none, for
// memory, which it holds all day: about 4 MiB less than with Go's default.
// With many certificates it trades more. GOGC overrides it.
const (
	gcPercent     = 40
	gcPercentMany = 20
	many          = 1000
)

func collect(a *app, certificates int) {
	switch {
	case a.env("GOGC") != "":
	case certificates > many:
		debug.SetGCPercent(gcPercentMany)
	default:
		debug.SetGCPercent(gcPercent)
	}
}

// runForever runs one instance after another: each configuration that is
// accepted gets its own, and the former one has ended before the next begins.
func runForever(ctx context.Context, a *app) error {
	collect(a, 0)
	file, err := a.watchConfig()
	if err != nil {
		return err
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	file.hup = hup
	cfg, last := file.current, (*config.Config)(nil)
	for {
		log := newLogger(a.stderr, cfg.Log)
		kube.BridgeLog(log)
		bridgeStdLog(log)
		file.log = log
		collect(a, len(cfg.Certificates))
		next, err := runOne(ctx, a, log, cfg, file, func() {
			// There is no going back from here: a third configuration would be
			// in memory when the next one is read.
			if last != nil {
				last = nil
				debug.FreeOSMemory()
			}
		})
		switch {
		case err != nil && last != nil && errors.As(err, new(*startError)):
			// The new one decodes and cannot be run: its port is taken, say.
			log.Error("configuration refused, going back to the last good one", "error", err)
			file.refuse()
			cfg, last = last, nil
		case err != nil:
			return err
		case next == nil:
			log.Info("stopped")
			return nil
		default:
			log.Info("configuration changed, starting anew with it", "file", next.File)
			cfg, last = next, cfg
		}
	}
}

// settledAfter is when an instance has done once what it does all day.
const settledAfter = 30 * time.Second

// startError is why an instance never ran.
type startError struct{ error }

func (e *startError) Unwrap() error { return e.error }

// runOne runs until ctx ends, and returns nil, or until another configuration
// is to take its place. It calls started when nothing can be wrong any more with
// the configuration itself.
func runOne(ctx context.Context, a *app, log *slog.Logger, cfg *config.Config, file *configFile, started func()) (*config.Config, error) {
	i, err := newInstance(a, log, cfg)
	if err != nil {
		return nil, &startError{err}
	}
	i.started = started
	settled := time.AfterFunc(settledAfter, func() {
		if err := forgetPages(); err != nil {
			log.Debug("the program's pages stay in memory", "error", err)
		}
	})
	defer settled.Stop()
	ctx, cancel := context.WithCancel(ctx)
	var next *config.Config
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if next = file.watch(ctx, i.setConfig); next != nil {
			a.held = i.findings.Held() // before those who look are ended
			cancel()
		}
	}()
	err = i.run(ctx)
	cancel()
	<-watched
	return next, err
}

// newLogger is text on a terminal, else JSON, unless the configuration says.
func newLogger(w io.Writer, c config.Log) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		level = slog.LevelInfo
	}
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: durationsAsText}
	if c.Format == "text" || c.Format == "" && isTerminal(w) {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

// durationsAsText shows a duration as 24h0m0s in JSON too, where it would be a
// number of nanoseconds.
func durationsAsText(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

// bridgeStdLog gives what Go's own packages tell package log (net/http about
// servers that break the rules, for instance) to our log at debug level, or to
// nobody: on stderr it would stand between the lines of JSON, or before a
// command's one line.
func bridgeStdLog(to *slog.Logger) {
	stdlog.SetFlags(0)
	if to == nil {
		stdlog.SetOutput(io.Discard)
		return
	}
	stdlog.SetOutput(slog.NewLogLogger(to.With("component", "go").Handler(), slog.LevelDebug).Writer())
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
