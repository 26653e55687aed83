package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers/serverstest"
)

// TestBinarySize: one careless use of text/template by a command keeps every
// method of every type in the binary, which is 20 MB more of it and 11 MiB more
// of memory.
func TestBinarySize(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "pkiwarden")
	build := exec.CommandContext(serverstest.Context(t), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, "../../cmd/pkiwarden")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	info, err := os.Stat(binary)
	must(t, err)
	t.Logf("%.1f MB", float64(info.Size())/1e6)
	if most := int64(45e6); info.Size() > most {
		t.Errorf("the stripped binary has %d bytes, want at most %d", info.Size(), most)
	}
}
