package wire

import (
	"os"
	"strings"
	"sync"
)

var environMu sync.Mutex

// WithoutEnviron calls f while the variables with this prefix are unset, and
// restores them. The constructors of Vault's and Consul's clients read them
// unasked: among them the ones that switch verification off, and the CA file,
// which must be allowed to appear later. It changes the environment of the
// whole process, so it is for start-up.
func WithoutEnviron(prefix string, f func() error) error {
	environMu.Lock()
	defer environMu.Unlock()
	for _, entry := range os.Environ() {
		name, value, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, prefix) {
			_ = os.Unsetenv(name)
			defer os.Setenv(name, value)
		}
	}
	return f()
}
