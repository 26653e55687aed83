package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"syscall"
)

// Load reads the configuration named by path, else by PKIWARDEN_CONFIG, else
// DefaultFile; only that last one may be missing, which is zero configuration.
// What the file leaves out comes from the environment (VAULT_ADDR,
// CONSUL_HTTP_ADDR and so on), then from the defaults. A configuration that is
// wrong anywhere is refused whole with a [Problems] that names every problem;
// what the checks given find in values that are sound so far is among them.
func Load(path string, env func(string) string, checks ...Check) (*Config, error) {
	named := true
	if path == "" {
		path = env(EnvFile)
	}
	if path == "" {
		path, named = DefaultFile, false
	}
	data, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return Parse("", nil, env, checks...)
	}
	if err != nil {
		return nil, fmt.Errorf("reading configuration: %w", err)
	}
	return Parse(path, data, env, checks...)
}

// Check calls bad with the key and the message of every value that cannot be
// worked with, for rules that are not this package's.
type Check func(c *Config, bad func(path, message string))

// readFile reads one byte more than a file may have, so that a larger one is
// noticed without being read.
func readFile(path string) ([]byte, error) {
	// Without O_NONBLOCK, opening a pipe would wait for its writer, deaf to
	// signals.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Mode()&fs.ModeNamedPipe != 0 {
		return nil, fmt.Errorf("%s is a pipe: name a regular file", path)
	}
	return io.ReadAll(io.LimitReader(f, maxFileBytes+1))
}

// Parse is Load for what has been read from file; "" and no data are zero
// configuration.
func Parse(file string, data []byte, env func(string) string, checks ...Check) (*Config, error) {
	c := Default()
	c.File = file
	d := newDecoder(file)
	document, problems := parseYAML(file, data)
	d.problems = problems
	d.document(document, c)
	d.environment(c, env)
	if len(problems) == 0 {
		d.check(c)
	}
	if len(d.problems) == 0 {
		for _, check := range checks {
			check(c, func(path, message string) { d.bad(path, "%s", message) })
		}
	}
	if len(d.problems) > 0 {
		d.problems.sort()
		return nil, d.problems
	}
	return c, nil
}

// environment fills what the file leaves out, and refuses the variables that
// would switch verification off.
func (d *decoder) environment(c *Config, env func(string) string) {
	for _, v := range []struct {
		name, path string
		field      *string
	}{
		{"VAULT_ADDR", "vault.address", &c.Vault.Address},
		{"VAULT_CACERT", "vault.caFile", &c.Vault.CAFile},
		{"VAULT_TLS_SERVER_NAME", "vault.serverName", &c.Vault.ServerName},
		{"VAULT_NAMESPACE", "vault.namespace", &c.Vault.Namespace},
		{"CONSUL_HTTP_ADDR", "consul.address", &c.Consul.Address},
		{"CONSUL_CACERT", "consul.caFile", &c.Consul.CAFile},
		{"CONSUL_HTTP_TOKEN_FILE", "consul.tokenFile", &c.Consul.TokenFile},
	} {
		if value := env(v.name); *v.field == "" && value != "" && !d.failed[v.path] {
			*v.field = value
			d.env[v.path] = v.name
		}
	}
	c.Vault.Auth.Token = NewSecret(env("VAULT_TOKEN"))
	c.Consul.Token = NewSecret(env("CONSUL_HTTP_TOKEN"))
	if !d.set("vault.auth.method") && c.Vault.Auth.Token.IsSet() {
		c.Vault.Auth.Method = AuthToken
	}
	if c.Vault.Auth.Method == AuthKubernetes && c.Vault.Auth.TokenFile == "" {
		c.Vault.Auth.TokenFile = ServiceAccountTokenFile
	}

	inCluster := env("KUBERNETES_SERVICE_HOST") != ""
	if c.Kubernetes.Kubeconfig == "" && !inCluster {
		c.Kubernetes.Kubeconfig = env("KUBECONFIG")
	}
	c.Kubernetes.Present = inCluster || c.Kubernetes.Kubeconfig != ""
	c.LeaderElection.BackendExplicit = d.set("leaderElection.backend")
	c.State.BackendExplicit = d.set("state.backend")
	if !c.LeaderElection.BackendExplicit && !c.Kubernetes.Present {
		c.LeaderElection.Backend = BackendNone
	}

	d.refuseInsecure("VAULT_SKIP_VERIFY", env("VAULT_SKIP_VERIFY"), false, "name the CA in vault.caFile or VAULT_CACERT instead")
	d.refuseInsecure("CONSUL_HTTP_SSL_VERIFY", env("CONSUL_HTTP_SSL_VERIFY"), true, "name the CA in consul.caFile or CONSUL_CACERT instead")
}

// refuseInsecure reports a variable that switches TLS verification off, or that
// its own client would not understand.
func (d *decoder) refuseInsecure(name, value string, secure bool, remedy string) {
	if value == "" {
		return
	}
	if got, err := strconv.ParseBool(value); err != nil || got != secure {
		d.problems = append(d.problems, Problem{
			File: environment, Path: name,
			Message: fmt.Sprintf("pkiwarden always verifies certificates and refuses %s=%s; unset it and %s", name, quote(value), remedy),
		})
	}
}
