package servers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/hashicorp/vault/api"
)

// VaultOptions describe one Vault server. Storage must be set.
type VaultOptions struct {
	Storage VaultStorage
	// Version is an older one to start, as the catalog has it: 1.13 or 1.17.
	// By default it is the current one.
	Version string
	// TLS turns TLS on. The files are read at start and at every SIGHUP, so a
	// test may replace them.
	TLS *TLSFiles
	// Port is where it listens on 127.0.0.1: from [FreePort], for a test whose
	// other parts must know the address before the server starts. One is picked
	// when 0.
	Port int
	// Peer is a running Vault of the same cluster: this one unseals with its
	// keys and, on raft, joins it. Storage must be of the same kind.
	Peer *Vault
	// Sealed leaves the server as it starts: neither initialised nor unsealed.
	Sealed bool
	// Audit writes an audit log to AuditPath of the Vault.
	Audit bool
	// Extra is added to the end of the configuration file, as HCL.
	Extra string
	// ListenerExtra is added to the tcp listener's stanza, as HCL.
	ListenerExtra string
	// Env is added to the server's environment.
	Env []string
}

// TLSFiles name the files of a server with TLS.
type TLSFiles struct {
	CertFile string
	KeyFile  string
	// CA is what clients of the server trust, as PEM: the union of old and new
	// CA where a test changes it.
	CA []byte
}

// Vault is one Vault server. After each start it is sealed; StartVault and
// Restart unseal it.
type Vault struct {
	*Program
	// Address is the API's URL, ListenAddress the same as host:port.
	Address       string
	ListenAddress string
	ClusterPort   int
	// ConfigFile is what the server was started with.
	ConfigFile string
	// AuditPath is where the audit device writes, if there is one.
	AuditPath string

	options VaultOptions
	client  *api.Client
	keys    *vaultKeys
}

// vaultKeys are what Init got. The servers of one cluster share them.
type vaultKeys struct {
	unseal Secret
	root   Secret
}

// StartVault starts a Vault. Unless told to leave it sealed, it is initialised
// with one key share, unsealed, and active (a standby, when it has a Peer).
func (s *Set) StartVault(ctx context.Context, o VaultOptions) (*Vault, error) {
	if o.Storage == nil {
		return nil, errors.New("starting vault: VaultOptions.Storage is not set")
	}
	name := "vault"
	if o.Version != "" {
		name += "-" + o.Version
	}
	paths, err := s.find(ctx, name)
	if err != nil {
		return nil, err
	}
	v := &Vault{options: o, keys: &vaultKeys{}}
	if o.Peer != nil {
		v.keys = o.Peer.keys
	}
	v.Program, err = s.launch(ctx, name, 2, func(dir string, ports []int) (ProgramOptions, error) {
		v.ConfigFile = filepath.Join(dir, "vault.hcl")
		v.AuditPath = filepath.Join(dir, "audit.log")
		v.ListenAddress = loopback(cmp.Or(o.Port, ports[0]))
		v.ClusterPort = ports[1]
		v.Address = v.scheme() + "://" + v.ListenAddress
		if err := os.WriteFile(v.ConfigFile, []byte(v.config(dir)), 0o600); err != nil {
			return ProgramOptions{}, fmt.Errorf("writing vault's configuration: %w", err)
		}
		if err := v.newClient(); err != nil {
			return ProgramOptions{}, err
		}
		return ProgramOptions{
			Path:  paths[name],
			Args:  []string{"server", "-config=" + v.ConfigFile},
			Env:   o.Env,
			Ready: v.answers,
		}, nil
	})
	if err != nil || o.Sealed {
		return v, err
	}
	return v, v.bringUp(ctx)
}

func (v *Vault) bringUp(ctx context.Context) error {
	if v.options.Peer == nil {
		if err := v.Init(ctx); err != nil {
			return err
		}
	}
	if err := v.Unseal(ctx); err != nil {
		return err
	}
	if _, raft := v.options.Storage.(RaftStorage); raft && v.options.Peer != nil {
		return v.awaitVote(ctx)
	}
	if !v.options.Audit || v.options.Peer != nil {
		return nil
	}
	err := v.client.Sys().EnableAuditWithOptionsWithContext(ctx, "file", &api.EnableAuditOptions{
		Type: "file", Options: map[string]string{"file_path": v.AuditPath},
	})
	if err != nil {
		return fmt.Errorf("enabling vault's audit device: %w", err)
	}
	return nil
}

// awaitVote waits until the raft cluster lets this server vote, without which
// it cannot take over. Vault would watch it for ten seconds first.
func (v *Vault) awaitVote(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("not a voter within a minute"))
	defer cancel()
	var polls poll
	leader := v.options.Peer.client.Logical()
	_, err := leader.WriteWithContext(ctx, "sys/storage/raft/autopilot/configuration", map[string]any{"server_stabilization_time": "100ms"})
	if err != nil {
		return fmt.Errorf("joining %s: %w", v.Name(), err)
	}
	for {
		state, err := v.options.Peer.client.Sys().RaftAutopilotStateWithContext(ctx)
		if err == nil && state != nil && slices.Contains(state.Voters, v.Name()) {
			return nil
		}
		if waitErr := polls.pause(ctx); waitErr != nil {
			return fmt.Errorf("joining %s: %w: autopilot says %+v, %w", v.Name(), waitErr, state, err)
		}
	}
}

// answers is the readiness of a Vault that may be sealed.
func (v *Vault) answers(ctx context.Context) error {
	_, err := v.client.Sys().SealStatusWithContext(ctx)
	return err
}

// Init initialises the server with one key share and keeps its key and root
// token; Client has the root token from then on.
func (v *Vault) Init(ctx context.Context) error {
	answer, err := v.client.Sys().InitWithContext(ctx, &api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		return fmt.Errorf("initialising %s: %w", v.Name(), err)
	}
	v.keys.unseal, v.keys.root = NewSecret(answer.KeysB64[0]), NewSecret(answer.RootToken)
	v.client.SetToken(answer.RootToken)
	return nil
}

// Unseal unseals the server and waits until it is active, or a standby that
// knows its leader when it has a Peer.
func (v *Vault) Unseal(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("not active within a minute"))
	defer cancel()
	v.client.SetToken(v.keys.root.Reveal())
	var polls poll
	for {
		err := v.unsealOnce(ctx)
		if err == nil {
			return nil
		}
		if waitErr := polls.pause(ctx); waitErr != nil {
			return fmt.Errorf("unsealing %s: %w: %w; the end of its log %s:\n%s", v.Name(), waitErr, err, v.LogPath(), v.LogTail(logTail))
		}
	}
}

// unsealOnce sends the key as long as it is wanted: a raft server that joins
// takes it, and is sealed still until the leader has answered.
func (v *Vault) unsealOnce(ctx context.Context) error {
	status, err := v.client.Sys().SealStatusWithContext(ctx)
	if err != nil {
		return err
	}
	if status.Sealed {
		if status, err = v.client.Sys().UnsealWithContext(ctx, v.keys.unseal.Reveal()); err != nil {
			return err
		}
		if status.Sealed {
			return errors.New("it is still sealed")
		}
	}
	leader, err := v.client.Sys().LeaderWithContext(ctx)
	if err != nil {
		return err
	}
	active := !leader.HAEnabled || leader.IsSelf && !leader.ActiveTime.IsZero()
	if active || v.options.Peer != nil && leader.LeaderAddress != "" {
		return v.healthy(ctx)
	}
	return errors.New("it is unsealed and not active yet")
}

func (v *Vault) healthy(ctx context.Context) error {
	health, err := v.client.Sys().HealthWithContext(ctx)
	if err != nil {
		return err
	}
	if !health.Initialized || health.Sealed || health.Standby && v.options.Peer == nil {
		return fmt.Errorf("its health is initialized=%t sealed=%t standby=%t", health.Initialized, health.Sealed, health.Standby)
	}
	return nil
}

// Seal seals the server.
func (v *Vault) Seal(ctx context.Context) error {
	if err := v.client.Sys().SealWithContext(ctx); err != nil {
		return fmt.Errorf("sealing %s: %w", v.Name(), err)
	}
	return nil
}

// Start starts the server again, on its ports and storage. It is sealed then.
func (v *Vault) Start(ctx context.Context) error {
	v.client.CloneConfig().HttpClient.CloseIdleConnections()
	return v.Program.Start(ctx)
}

// Restart stops the server, starts it and unseals it.
func (v *Vault) Restart(ctx context.Context) error {
	if err := v.Stop(ctx); err != nil {
		return err
	}
	if err := v.Start(ctx); err != nil {
		return err
	}
	return v.Unseal(ctx)
}

// Reload sends SIGHUP, upon which Vault reads its certificate files and parts
// of its configuration again. It does not wait for the effect.
func (v *Vault) Reload() error { return v.Signal(syscall.SIGHUP) }

// RootToken is the token that Init got.
func (v *Vault) RootToken() Secret { return v.keys.root }

// UnsealKey is the one key share that Init got.
func (v *Vault) UnsealKey() Secret { return v.keys.unseal }

// Client has the root token and tries everything once. It is shared: whoever
// changes its token or namespace takes [Vault.ClientWithToken].
func (v *Vault) Client() *api.Client { return v.client }

// ClientWithToken is a new client of this server with another token.
func (v *Vault) ClientWithToken(token string) (*api.Client, error) {
	client, err := v.client.Clone()
	if err != nil {
		return nil, fmt.Errorf("cloning the client of %s: %w", v.Name(), err)
	}
	client.SetMaxRetries(0)
	client.SetToken(token)
	return client, nil
}

// newClient takes nothing from the caller's environment.
func (v *Vault) newClient() error {
	config := api.DefaultConfig()
	if config.Error != nil {
		return fmt.Errorf("making a client of vault: %w", config.Error)
	}
	config.Address = v.Address
	config.AgentAddress = ""
	config.MaxRetries = 0
	config.Timeout = time.Minute
	if v.options.TLS != nil {
		if err := config.ConfigureTLS(&api.TLSConfig{CACertBytes: v.options.TLS.CA}); err != nil {
			return fmt.Errorf("making a client of vault: %w", err)
		}
	}
	client, err := api.NewClient(config)
	if err != nil {
		return fmt.Errorf("making a client of vault: %w", err)
	}
	client.ClearToken()
	client.ClearNamespace()
	v.client = client
	return nil
}
