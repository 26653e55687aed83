package deliver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// ConsulReloader makes the pod's Consul agent load its files again:
// PUT /v1/agent/reload, which needs agent:write.
type ConsulReloader interface {
	// Reload returns once the agent has answered. Its deadline is the context's.
	Reload(ctx context.Context) error
}

// Reload says how the server is made to load the files again. At most one way
// is set; the zero value is for a server that watches its files.
type Reload struct {
	// Signal is HUP, USR1 or USR2, sent to the process named Process.
	Signal string
	// Process is the base name of the server's executable, for example vault.
	// The pod must share its process namespace, and pkiwarden run as the
	// server's user: reading /proc/PID/exe and sending the signal need that.
	Process string
	Consul  ConsulReloader
}

// reloader reloads once and says what it did, "" where nothing is to be done.
// It returns [errNoServer] where no server is running.
type reloader func(ctx context.Context) (did string, err error)

func newReloader(r Reload, addresses []listen) (reloader, error) {
	switch {
	case r.Consul != nil && r.Signal+r.Process != "":
		return nil, errors.New("reload has both a signal and consul: choose one")
	case r.Consul != nil:
		return func(ctx context.Context) (string, error) { return "Consul agent reloaded", reloadConsul(ctx, r.Consul) }, nil
	case r.Signal == "" && r.Process == "":
		return func(context.Context) (string, error) { return "", nil }, nil
	}
	sig, err := parseSignal(r.Signal)
	if err != nil {
		return nil, err
	}
	if r.Process == "" || strings.ContainsRune(r.Process, '/') {
		return nil, fmt.Errorf("reload.process is %q: want the base name of the server's executable, for example vault", r.Process)
	}
	processes := procTable{root: "/proc", self: os.Getpid()}
	return func(context.Context) (string, error) {
		server, err := processes.find(r.Process, addresses)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%s sent to %s", r.Signal, server), processes.signal(server, sig)
	}, nil
}

// parseSignal knows the signals by which servers reload, and none that ends one.
func parseSignal(name string) (syscall.Signal, error) {
	switch name {
	case "HUP":
		return syscall.SIGHUP, nil
	case "USR1":
		return syscall.SIGUSR1, nil
	case "USR2":
		return syscall.SIGUSR2, nil
	}
	return 0, fmt.Errorf("reload.signal is %q: want HUP, USR1 or USR2", name)
}

func reloadConsul(ctx context.Context, consul ConsulReloader) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	err := consul.Reload(ctx)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return errNoServer
	}
	if err != nil {
		return fmt.Errorf("reloading Consul agent: %w", err)
	}
	return nil
}
