package servers

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// DirVariable names the environment variable that holds a folder with server
// programs; it is looked into before PATH.
const DirVariable = "PKIWARDEN_SERVERS_DIR"

const modulePath = "github.com/pkiwarden/pkiwarden"

// Options say how programs are found and where a [Set] lives. The zero value
// works.
type Options struct {
	// Progress is told what is being found, built and waited for. A terminal
	// gets one line that is updated, anything else a line every 30 s. Nil is
	// silent.
	Progress io.Writer
	// TempDir is where the Set makes its folder; os.TempDir() by default.
	TempDir string
	// Keep leaves the Set's whole folder, data and keys included, after Close.
	Keep bool
}

// Find returns the path of each named program, by name, and builds those that
// are nowhere.
//
// It takes, in this order: a file of that name in PKIWARDEN_SERVERS_DIR, then
// on PATH (both only when the program reports a supported version, which it is
// run for), then in the user's cache folder, where a build of the same nested
// go.mod, go.sum, Go version and linker flags is kept. Building needs only the
// go command and a checkout; processes that want the same build at once build
// it once.
func Find(ctx context.Context, o Options, names ...string) (map[string]string, error) {
	report := newProgress(o.Progress)
	paths := make(map[string]string, len(names))
	var missing []build
	for _, name := range names {
		p, err := lookup(name)
		if err != nil {
			return nil, err
		}
		if path := installed(ctx, p, report); path != "" {
			paths[name] = path
			continue
		}
		b, err := newBuild(p)
		if err != nil {
			return nil, fmt.Errorf("finding %s: %w", name, err)
		}
		paths[name] = b.target
		if !isProgram(b.target) {
			missing = append(missing, b)
		}
	}
	for i, b := range missing {
		if err := b.ensure(ctx, report, fmt.Sprintf("%d of %d", i+1, len(missing))); err != nil {
			return nil, fmt.Errorf("building %s: %w", b.program.name, err)
		}
	}
	return paths, nil
}

// installed looks where a person puts programs. A wrong version is said and
// passed over, since a build is always possible.
func installed(ctx context.Context, p program, report *progress) string {
	var candidates []string
	if dir := os.Getenv(DirVariable); dir != "" {
		candidates = append(candidates, filepath.Join(dir, p.name))
	}
	if path, err := exec.LookPath(p.name); err == nil {
		candidates = append(candidates, path)
	}
	for _, path := range candidates {
		if !isProgram(path) {
			continue
		}
		got, err := versionLine(ctx, path, p.versionArgs)
		switch {
		case err != nil:
			report.line("passing over %s: %v", path, err)
		case !strings.HasPrefix(got, p.version):
			report.line("passing over %s: it reports %q, wanted %q", path, got, p.version+"*")
		default:
			return path
		}
	}
	return ""
}

func versionLine(ctx context.Context, path string, args []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, args...).Output()
	if err != nil {
		return "", fmt.Errorf("asking for its version: %w", err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line), nil
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// newBuild says where the program's build is kept and from what it is made.
func newBuild(p program) (build, error) {
	root, err := sourceDir()
	if err != nil {
		return build{}, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return build{}, fmt.Errorf("finding the cache folder (set XDG_CACHE_HOME, or %s to a folder with the programs): %w", DirVariable, err)
	}
	module := filepath.Join(root, "test", "e2e", "servers", p.module)
	key, err := cacheKey(module, p.ldflags)
	if err != nil {
		return build{}, err
	}
	dir := filepath.Join(cache, "pkiwarden", "servers", p.module+"-"+key)
	return build{program: p, module: module, target: filepath.Join(dir, p.name)}, nil
}

func cacheKey(module, ldflags string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOOS, runtime.GOARCH, ldflags)
	for _, name := range []string{"go.mod", "go.sum"} {
		content, err := os.ReadFile(filepath.Join(module, name))
		if err != nil {
			return "", fmt.Errorf("reading the nested module: %w", err)
		}
		fmt.Fprintln(h, name, len(content))
		h.Write(content)
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

// sourceDir is the folder of the product's go.mod at or above the working
// directory. The path of this file would not do: -trimpath removes it.
func sourceDir() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the source folder: %w", err)
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		content, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("finding the source folder: %w", err)
		}
		first, _, _ := strings.Cut(string(content), "\n")
		if strings.TrimSpace(first) == "module "+modulePath {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("finding the source folder: no go.mod of %s at or above %s; run inside a checkout, or set %s to a folder with the programs", modulePath, start, DirVariable)
		}
	}
}
