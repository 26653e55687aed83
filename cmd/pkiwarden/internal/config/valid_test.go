package config

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func load(t *testing.T, file string) *Config {
	t.Helper()
	c, err := Load("testdata/"+file, noEnv)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestValidAliases(t *testing.T) {
	c := load(t, "valid-aliases.yml")
	if want := []string{"pki", "team/*", "!pki-test"}; !slices.Equal(c.CRL.Mounts, want) || !slices.Equal(c.Tidy.Mounts, want) {
		t.Errorf("mounts %q and %q, want %q", c.CRL.Mounts, c.Tidy.Mounts, want)
	}
	second := c.Certificates.At(1)
	if second.Name != "vault-agent" || second.Secret.Name != "vault-agent-tls" || second.Lifetime != 2160*time.Hour || !slices.Equal(second.DNSNames, []string{"vault.vault.svc"}) {
		t.Errorf("merged into %+v", second)
	}
	if c.Consul.StoragePath != "vault/" {
		t.Errorf("a section without keys lost its defaults: %+v", c.Consul)
	}
}

func TestValidBOMAndCRLF(t *testing.T) {
	if c := load(t, "valid-bom-crlf.yml"); c.Log.Level != "debug" {
		t.Errorf("level %q", c.Log.Level)
	}
}

func TestValidKeys(t *testing.T) {
	want := []struct {
		key        Key
		commonName string
	}{
		{Key{RSA, 2048}, "system:node:rsa"},
		{Key{ECDSA, 521}, "system:node:ecdsa"},
		{Key{Ed25519, 0}, "system:node:ed25519"},
		{Key{ECDSA, 256}, "pkiwarden"},
		{Key{ECDSA, 256}, "system:node:eks"},
		{Key{ECDSA, 256}, ""},
	}
	c := load(t, "valid-keys.yml")
	for i, w := range want {
		if got := c.Certificates.At(i); got.Key != w.key || got.Subject.CommonName != w.commonName {
			t.Errorf("%s: key %v, common name %q; want %v, %q", got.Name, got.Key, got.Subject.CommonName, w.key, w.commonName)
		}
	}
	own := c.Certificates.At(5)
	if fmt.Sprint(own.IPAddresses) != "[2001:db8::1 10.0.0.1]" || own.URIs[0].String() != "spiffe://example.org/own" || own.Lifetime != 10*time.Minute || own.Trust.Secret.Key != "ca.crt" ||
		own.Trust.Settle != 0 || fmt.Sprint(own.Trust.Peers) != "[own.a.svc:8200 [2001:db8::1]:8200]" || c.Certificates.At(0).Trust.Settle != 5*time.Minute {
		t.Errorf("own: %+v", own)
	}
}

func TestValidUnions(t *testing.T) {
	c := load(t, "valid-unions.yml")
	if want := (Limit{Backend: "consul", KVMaxValueSize: 524288, TxnMaxReqLen: 1048576}); c.CRL.Limit != want || c.CRL.MaxBytes != 1<<30 {
		t.Errorf("limit %+v, maxBytes %d; want %+v, 1 GiB", c.CRL.Limit, c.CRL.MaxBytes, want)
	}
	if c.Tidy.Pause == nil || *c.Tidy.Pause != 0 || c.Tidy.Rotate == nil || *c.Tidy.Rotate || c.Tidy.SafetyBuffer != time.Hour {
		t.Errorf("tidy %+v", c.Tidy)
	}
	mounted, files := c.Deliver[0], c.Deliver[1]
	if mounted.From.API || mounted.From.Mounted != "/vault/userconfig/a" || mounted.Reload.Process != "vault" {
		t.Errorf("mounted %+v", mounted)
	}
	if files.Files != (Files{"/b", fs.FileMode(0o640), "100:1000"}) {
		t.Errorf("files %+v", files.Files)
	}
}

func TestEnvironment(t *testing.T) {
	for _, test := range []struct {
		name, doc string
		env       []string
		get       func(*Config) any
		want      any
	}{
		{"address", "", []string{"VAULT_ADDR=https://a:8200"}, func(c *Config) any { return c.Vault.Address }, "https://a:8200"},
		{"the file wins", "vault: {address: 'https://b:8200'}", []string{"VAULT_ADDR=https://a:8200"}, func(c *Config) any { return c.Vault.Address }, "https://b:8200"},
		{"empty is not set", "vault: {address: ''}", []string{"VAULT_ADDR=https://a:8200"}, func(c *Config) any { return c.Vault.Address }, "https://a:8200"},
		{"CA", "", []string{"VAULT_CACERT=/ca"}, func(c *Config) any { return c.Vault.CAFile }, "/ca"},
		{"server name", "", []string{"VAULT_TLS_SERVER_NAME=v"}, func(c *Config) any { return c.Vault.ServerName }, "v"},
		{"namespace", "", []string{"VAULT_NAMESPACE=team"}, func(c *Config) any { return c.Vault.Namespace }, "team"},
		{"Consul address", "", []string{"CONSUL_HTTP_ADDR=127.0.0.1:8500"}, func(c *Config) any { return c.Consul.Address }, "127.0.0.1:8500"},
		{"a slash after the address", "vault: {address: 'https://a:8200/'}", nil, func(c *Config) any { return c.Vault.Address }, "https://a:8200"},
		{"a slash after VAULT_ADDR", "", []string{"VAULT_ADDR=https://a:8200/"}, func(c *Config) any { return c.Vault.Address }, "https://a:8200"},
		{"a slash after Consul's address", "consul: {address: 'http://[::1]:8500/'}", nil, func(c *Config) any { return c.Consul.Address }, "http://[::1]:8500"},
		{"Consul CA", "", []string{"CONSUL_CACERT=/ca"}, func(c *Config) any { return c.Consul.CAFile }, "/ca"},
		{"Consul token", "", []string{"CONSUL_HTTP_TOKEN=t"}, func(c *Config) any { return c.Consul.Token.Reveal() }, "t"},
		{"Consul token file", "", []string{"CONSUL_HTTP_TOKEN_FILE=/t"}, func(c *Config) any { return c.Consul.TokenFile }, "/t"},
		{"verification on", "", []string{"VAULT_SKIP_VERIFY=false", "CONSUL_HTTP_SSL_VERIFY=true"}, func(c *Config) any { return c.Vault.Address }, ""},

		{"method", "", nil, func(c *Config) any { return c.Vault.Auth.Method }, "kubernetes"},
		{"method with a token", "", []string{"VAULT_TOKEN=t"}, func(c *Config) any { return c.Vault.Auth.Method + " " + c.Vault.Auth.Token.Reveal() }, "token t"},
		{"method with a token and a file", "vault: {auth: {method: kubernetes}}", []string{"VAULT_TOKEN=t"}, func(c *Config) any { return c.Vault.Auth.Method }, "kubernetes"},
		{"service account token", "", nil, func(c *Config) any { return c.Vault.Auth.TokenFile }, ServiceAccountTokenFile},
		{"own service account token", "vault: {auth: {tokenFile: /t}}", nil, func(c *Config) any { return c.Vault.Auth.TokenFile }, "/t"},

		{"no cluster", "", nil, func(c *Config) any { return c.LeaderElection.Backend }, "none"},
		{"no cluster, said so", "leaderElection: {backend: kubernetes}", nil, func(c *Config) any { return c.LeaderElection.Backend }, "kubernetes"},
		{"in a pod", "", []string{"KUBERNETES_SERVICE_HOST=10.0.0.1", "KUBECONFIG=/k"}, func(c *Config) any { return c.LeaderElection.Backend + " " + c.Kubernetes.Kubeconfig }, "kubernetes "},
		{"KUBECONFIG", "", []string{"KUBECONFIG=/k"}, func(c *Config) any { return c.LeaderElection.Backend + " " + c.Kubernetes.Kubeconfig }, "kubernetes /k"},
		{"kubeconfig", "kubernetes: {kubeconfig: /f}", []string{"KUBECONFIG=/k"}, func(c *Config) any { return c.LeaderElection.Backend + " " + c.Kubernetes.Kubeconfig }, "kubernetes /f"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := Parse("x.yml", []byte(test.doc), envOf(test.env...))
			if err != nil {
				t.Fatal(err)
			}
			if got := test.get(c); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	named := filepath.Join(dir, "named.yml")
	if err := os.WriteFile(named, []byte("log: {level: warn}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	large := filepath.Join(dir, "large.yml")
	if err := os.WriteFile(large, []byte(strings.Repeat("# much\n", 1<<18)), 0o600); err != nil {
		t.Fatal(err)
	}
	larger := filepath.Join(dir, "larger.yml")
	if err := os.WriteFile(larger, []byte(strings.Repeat("# much\n", 1<<22)), 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "missing.yml")
	for _, test := range []struct {
		name, path, env string
		level, err      string
	}{
		{"by path", named, "", "warn", ""},
		{"by PKIWARDEN_CONFIG", "", EnvFile + "=" + named, "warn", ""},
		{"the path wins", named, EnvFile + "=" + missing, "warn", ""},
		{"missing by path", missing, "", "", "reading configuration: open " + missing + ": no such file or directory"},
		{"missing by PKIWARDEN_CONFIG", "", EnvFile + "=" + missing, "", "reading configuration: open " + missing + ": no such file or directory"},
		{"a folder", dir, "", "", "reading configuration: read " + dir + ": is a directory"},
		{"too large", large, "", "", large + `: the file is larger than 1 MiB; up to 20000 certificates in 16 MiB are read from a block list, each entry on lines of its own that begin with "- "`},
		{"much too large", larger, "", "", larger + ": the file is larger than 16 MiB"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := Load(test.path, envOf(test.env))
			switch {
			case err != nil && err.Error() != test.err:
				t.Errorf("got %v, want %s", err, test.err)
			case err == nil && (test.err != "" || c.Log.Level != test.level):
				t.Errorf("got %+v, want level %q, error %q", c.Log, test.level, test.err)
			}
		})
	}
}

func TestSecretRedactsItself(t *testing.T) {
	const token = "hvs.very-secret"
	c, err := Parse("", nil, envOf("VAULT_TOKEN="+token, "CONSUL_HTTP_TOKEN="+token))
	if err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "config", c, "token", c.Vault.Auth.Token)
	shown := string(asJSON) + log.String()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		shown += fmt.Sprintf(verb, c.Vault.Auth.Token) + fmt.Sprintf(verb, *c)
	}
	if strings.Contains(shown, "very-secret") || strings.Contains(shown, fmt.Sprintf("%x", token)) {
		t.Errorf("the token shows: %s", shown)
	}
	if !strings.Contains(shown, redacted) || c.Vault.Auth.Token.Reveal() != token {
		t.Error("the token is lost")
	}
	if s := NewSecret(""); s.String() != "" || s.IsSet() {
		t.Errorf("no token shows as %q", s)
	}
}

// FuzzParse holds that nothing makes Parse panic or hang, and that what it
// refuses has a place and a reason.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.y*ml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		start := time.Now()
		c, err := Parse("x.yml", data, noEnv)
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("took %s", took)
		}
		if (c == nil) == (err == nil) {
			t.Fatalf("got %v and %v", c, err)
		}
		problems, _ := err.(Problems)
		if err != nil && len(problems) == 0 {
			t.Fatalf("refused without problems: %v", err)
		}
		for _, p := range problems {
			if p.Message == "" || p.Line < 1 || p.Column < 1 {
				t.Errorf("no place or no message: %+v", p)
			}
		}
	})
}

func TestValidForecast(t *testing.T) {
	c := load(t, "valid-forecast.yml")
	if c.Vault.Namespace != AllNamespaces || c.State != (State{BackendConsul, "pkiwarden/", true}) || c.CRL.FleetSize != 5000 ||
		c.CRL.Warn != (Threshold{0.6, 400 * time.Hour, 3}) || c.CRL.Critical != (Threshold{0.8, 24 * time.Hour, 0.5}) {
		t.Errorf("%+v, %+v, %+v", c.Vault, c.State, c.CRL)
	}
}

func TestValidWindows(t *testing.T) {
	c := load(t, "valid-windows.yml")
	if w := c.Certificates.At(0).Windows; len(w) != 1 || w[0].String() != "Tue 02:00-05:00 Europe/Berlin" {
		t.Errorf("windows of the certificate: %v", w)
	}
	if !c.Tidy.OwnAutoTidy || !c.Tidy.IgnoreWindowsWhenCritical || c.Tidy.Trigger.Horizon != 240*time.Hour || len(c.Tidy.Windows) != 3 {
		t.Fatalf("%+v", c.Tidy)
	}
	for i, want := range []struct {
		days     []time.Weekday
		from, to time.Duration
		zone     string
		words    string
	}{
		{[]time.Weekday{time.Saturday, time.Sunday}, 22*time.Hour + 30*time.Minute, 4 * time.Hour, "Europe/Berlin", "Sun, Sat 22:30-04:00 Europe/Berlin"},
		{nil, 0, 24 * time.Hour, "UTC", "every day 00:00-24:00 UTC"},
		{[]time.Weekday{time.Monday}, 2 * time.Hour, 24 * time.Hour, "America/Argentina/Buenos_Aires", "Mon 02:00-24:00 America/Argentina/Buenos_Aires"},
	} {
		w := c.Tidy.Windows[i]
		from, to := w.Clock()
		if !slices.Equal(w.Weekdays(), want.days) || from != want.from || to != want.to || w.Location().String() != want.zone || w.String() != want.words {
			t.Errorf("%v: %v from %s to %s in %s", w, w.Weekdays(), from, to, w.Location())
		}
	}
}
