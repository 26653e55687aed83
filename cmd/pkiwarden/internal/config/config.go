// Package config reads pkiwarden's configuration.
package config

// Where the configuration is when the command line does not name it.
const (
	EnvFile     = "PKIWARDEN_CONFIG"
	DefaultFile = "/etc/pkiwarden/config.yaml"
)

// Config is the whole file.
type Config struct{}

// Load reads the file.
func Load(path string, env func(string) string) (*Config, error) { return &Config{}, nil }
