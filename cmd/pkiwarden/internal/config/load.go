package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime/debug"
	"strconv"
	"syscall"
)

// Load reads the configuration named by path, else by PKIWARDEN_CONFIG, else
// DefaultFile; only that last one may be missing, which is zero configuration.
// What the file leaves out comes from the environment (VAULT_ADDR,
// CONSUL_HTTP_ADDR and so on), then from the defaults. A configuration that is
// wrong anywhere is refused whole with a [Problems] that names every problem,
// of the file the first fifty and how many more; what the checks given find in
// values that are sound so far is among them.
//
// Each entry of a block list of certificates is parsed by itself, so that ten
// thousand of them take 20 MiB for a moment and 150 bytes each to keep.
func Load(path string, env func(string) string, checks ...Check) (*Config, error) {
	path, named := File(path, env)
	data, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return Parse("", nil, env, checks...)
	}
	if err != nil {
		return nil, fmt.Errorf("reading configuration: %w", err)
	}
	if len(data) > largeFile {
		// What parsing took would else stay with the process for minutes.
		defer debug.FreeOSMemory()
	}
	return Parse(path, data, env, checks...)
}

// File is the file that Load reads, and whether that has to exist.
func File(path string, env func(string) string) (file string, required bool) {
	if path == "" {
		path = env(EnvFile)
	}
	if path == "" {
		return DefaultFile, false
	}
	return path, true
}

// largeFile is from where reading a file shows in the process's memory.
const largeFile = 64 << 10

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
	var text bytes.Buffer
	if info, err := f.Stat(); err == nil {
		if info.Mode()&fs.ModeNamedPipe != 0 {
			return nil, fmt.Errorf("%s is a pipe: name a regular file", path)
		}
		text.Grow(int(min(max(info.Size(), 0), MaxFileBytes)) + bytes.MinRead)
	}
	_, err = text.ReadFrom(io.LimitReader(f, MaxFileBytes+1))
	return text.Bytes(), err
}

// Parse is Load for what has been read from file; "" and no data are zero
// configuration.
func Parse(file string, data []byte, env func(string) string, checks ...Check) (*Config, error) {
	d, c := decode(file, data)
	d.environment(c, env)
	if !d.unreadable {
		d.check(c)
	}
	if d.found == 0 {
		for _, check := range checks {
			check(c, func(path, message string) { d.bad(path, "%s", message) })
		}
	}
	if d.found > 0 {
		return nil, d.shown()
	}
	return c, nil
}

// decode reads the text: the certificates one by one where it can be cut at
// them, which needs little memory, else everything at once, which has closer
// limits.
func decode(file string, data []byte) (*decoder, *Config) {
	d, c := fresh(file)
	if len(data) > MaxFileBytes {
		d.refuse(Problem{File: file, Message: "the file is larger than 16 MiB"})
		return d, c
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if d.checkText(data); d.found > 0 {
		d.unreadable = true
		return d, c
	}
	p, why := cut(file, data)
	if why == nil && len(p.entries) > 0 {
		if why = d.piecewise(p, c); why == nil {
			return d, c
		}
		d, c = fresh(file)
	}
	switch {
	case why != nil && (len(data) > maxTextBytes || len(p.entries) > maxEntries):
		d.refuse(*why)
	case len(data) > maxTextBytes:
		d.refuse(Problem{File: file, Message: "the file is larger than 1 MiB" + manyCertificates})
	default:
		d.whole(string(data), c, why)
	}
	return d, c
}

func fresh(file string) (*decoder, *Config) {
	c := Default()
	c.File = file
	return newDecoder(file), c
}

// piecewise decodes the file, its certificates one by one. A problem is why
// that cannot be done; what has been decoded is then worth nothing.
func (d *decoder) piecewise(p *pieces, c *Config) *Problem {
	document, list, problem := p.parseAround(d.file)
	if problem != nil {
		return problem
	}
	d.pieces, d.sequence = p, list
	d.maxValues += len(p.entries) * valuesPerEntry
	d.document(document, c)
	return d.uncut
}

// whole decodes the text at once. Why it was not read piece by piece, nil where
// that was not tried, tells more than the parser's own problem with the same line,
// and than that there are too many entries for this.
func (d *decoder) whole(text string, c *Config, why *Problem) {
	document, problem := parseYAML(d.file, text, inPlace)
	if problem != nil {
		if why != nil && (why.Line == problem.Line || problem.crowded) {
			problem = why
		}
		d.refuse(*problem)
		return
	}
	d.document(document, c)
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
		d.add(Problem{
			File: environment, Path: name,
			Message: fmt.Sprintf("pkiwarden always verifies certificates and refuses %s=%s; unset it and %s", name, quote(value), remedy),
		})
	}
}
