package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"syscall"
	"time"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/config"
)

// reloadInterval is how often a running instance looks whether its
// configuration file has changed: a mounted ConfigMap changes without a signal.
const reloadInterval = 10 * time.Second

// reloadState is what the metrics say about the configuration.
type reloadState struct {
	ok     bool
	goodAt time.Time
}

// configFile is the configuration on disk and what became of it.
type configFile struct {
	app      *app
	log      *slog.Logger
	hup      <-chan os.Signal // SIGHUP: look at once
	current  *config.Config   // the last that was accepted
	good     string           // fingerprint of the file as it is in force
	fallback string           // good before that
	seen     string           // fingerprint of the file, good or bad
	looked   look             // what seen was read from
	state    reloadState
	former   reloadState // the one before state
}

// watchConfig loads the configuration for the first time: a wrong one is the
// end.
func (a *app) watchConfig() (*configFile, error) {
	name, _ := config.File(a.configFile, a.env)
	f := &configFile{app: a}
	// Before it is loaded: what changes meanwhile is then found later.
	f.seen, f.looked = fingerprint(name, a.now())
	cfg, err := a.config()
	if err != nil {
		return nil, err
	}
	if cfg.File == "" {
		f.seen, f.looked = "", look{}
	}
	f.current, f.good = cfg, f.seen
	f.state = reloadState{ok: true, goodAt: a.now()}
	return f, nil
}

// look is what a file looked like when it was read.
type look struct {
	info os.FileInfo // nil: it could not be read
	at   time.Time
}

// settled is how much older than a reading a file's last change has to be for
// the reading to have seen all of it: file systems keep times as rough as two
// seconds, and clocks differ.
const settled = 5 * time.Second

// rereadInterval is for changes that keep a file's time, as some tools can.
const rereadInterval = 10 * time.Minute

// still tells whether the file cannot have changed since: it is the same one,
// of the same size and time, and that time had passed when it was read. A
// mounted ConfigMap is another file after each change.
func (l look) still(name string, now time.Time) bool {
	if l.info == nil || l.at.Sub(l.info.ModTime()) < settled || now.Sub(l.at) >= rereadInterval {
		return false
	}
	info, err := os.Stat(name)
	return err == nil && os.SameFile(info, l.info) && info.Size() == l.info.Size() && info.ModTime().Equal(l.info.ModTime())
}

// fingerprint changes with the file's content. A file that cannot be read has
// one too: that it is gone is also a change.
func fingerprint(name string, now time.Time) (string, look) {
	sum, info, err := digest(name)
	if err != nil {
		return "unreadable: " + err.Error(), look{}
	}
	return sum, look{info, now}
}

// digest is the SHA-256 of the file, as much as config.Load would read of it.
func digest(name string) (string, os.FileInfo, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", nil, err
	}
	if !info.Mode().IsRegular() {
		return "", nil, fmt.Errorf("%s is not a regular file", name)
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, config.MaxFileBytes+1)); err != nil {
		return "", nil, err
	}
	return string(h.Sum(nil)), info, nil
}

// look reads the file again, unless it cannot have changed, and tells whether it
// has.
func (f *configFile) look() (seen string, changed bool) {
	now := f.app.now()
	if f.current.File == "" || f.looked.still(f.current.File, now) {
		return f.seen, false
	}
	before := f.seen
	f.seen, f.looked = fingerprint(f.current.File, now)
	return f.seen, f.seen != before
}

// refuse marks the current file as bad, after it was tried.
func (f *configFile) refuse() {
	f.state = reloadState{goodAt: f.former.goodAt}
	f.good = f.fallback
}

// watch reports the state at once and after each change, until it finds a
// changed configuration that is good, which it returns, or until ctx ends.
func (f *configFile) watch(ctx context.Context, report func(ok bool, goodAt time.Time)) *config.Config {
	report(f.state.ok, f.state.goodAt)
	ticker := time.NewTicker(reloadInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.hup:
			f.looked = look{}
		case <-ticker.C:
		}
		seen, changed := f.look()
		if !changed {
			continue
		}
		if seen == f.good { // undone: what is in force needs no new instance
			f.state = reloadState{ok: true, goodAt: f.app.now()}
			report(true, f.state.goodAt)
			f.log.Info("the configuration file is again as it is in force", "file", f.current.File)
			continue
		}
		cfg, err := f.app.config()
		if err != nil || cfg.File != f.current.File {
			f.state.ok = false
			report(false, f.state.goodAt)
			if err == nil {
				err = fmt.Errorf("%s is gone", f.current.File)
			}
			f.log.Error("configuration refused, the last good one stays in force", "file", f.current.File, "error", oneLine(unwrapExit(err).Error()))
			continue
		}
		f.current = cfg
		f.fallback, f.good = f.good, seen
		f.former, f.state = f.state, reloadState{ok: true, goodAt: f.app.now()}
		return cfg
	}
}

// unwrapExit is the error without the exit code around it.
func unwrapExit(err error) error {
	var exit *exitError
	if errors.As(err, &exit) && exit.err != nil {
		return exit.err
	}
	return err
}
