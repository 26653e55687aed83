package deliver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

type mountedSource struct {
	directory string
	keys      Keys
}

// NewMountedSource reads a mounted Secret volume. All files come from one
// generation, whatever the kubelet does meanwhile: its "..data" link is resolved
// once, and nothing outside of the directory it names is followed.
func NewMountedSource(directory string, keys Keys) (Source, error) {
	if directory == "" {
		return nil, errors.New("reading a mounted secret needs its directory")
	}
	return &mountedSource{directory: directory, keys: keys.withDefaults()}, nil
}

func (s *mountedSource) Pair(context.Context) (Pair, error) {
	root, err := os.OpenRoot(s.directory)
	if err != nil {
		return Pair{}, fmt.Errorf("opening mounted secret (mount it there with optional: true): %w", err)
	}
	defer root.Close()
	// The kubelet may remove a generation between the two steps; the link then
	// names the next one.
	for range 3 {
		pair, err := s.generation(root)
		if !errors.Is(err, errRotated) {
			return pair, err
		}
	}
	return Pair{}, fmt.Errorf("reading %s: %w", s.directory, errRotated)
}

var errRotated = errors.New("the volume was replaced while it was read")

func (s *mountedSource) generation(root *os.Root) (Pair, error) {
	name, err := root.Readlink(dataLink)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := root.Lstat(s.keys.Certificate); err == nil {
			return Pair{}, fmt.Errorf("%s is no Secret volume, it has no %s link: a subPath mount never updates, so mount the whole Secret", s.directory, dataLink)
		}
		return Pair{}, fmt.Errorf("%s is empty: %w", s.directory, ErrNotYet)
	}
	if err != nil {
		return Pair{}, fmt.Errorf("resolving %s: %w", filepath.Join(s.directory, dataLink), err)
	}
	if !plainName(name) {
		return Pair{}, fmt.Errorf("resolving %s: it points to %q, not to a directory beside it", filepath.Join(s.directory, dataLink), name)
	}
	generation, err := root.OpenRoot(name)
	if errors.Is(err, fs.ErrNotExist) {
		return Pair{}, errRotated
	}
	if err != nil {
		return Pair{}, fmt.Errorf("opening %s: %w", filepath.Join(s.directory, name), err)
	}
	defer generation.Close()
	pair, err := readPair(generation, s.keys)
	// The kubelet moves the link before it empties the generation: what was read
	// counts only while the link still names it.
	if again, _ := root.Readlink(dataLink); again != name {
		return Pair{}, errRotated
	}
	if err != nil {
		return Pair{}, fmt.Errorf("reading %s: %w", s.directory, err)
	}
	if err := complete(pair, s.keys, func() []string { return nil }); err != nil {
		return Pair{}, fmt.Errorf("%s %w", s.directory, err)
	}
	return pair, nil
}

// plainName reports whether a link's target is one name in the link's own directory.
func plainName(name string) bool {
	return filepath.IsLocal(name) && !strings.ContainsRune(name, filepath.Separator) && name != "."
}

// readPair reads what there is of a pair below one directory; a file that is
// missing leaves its field empty.
func readPair(generation *os.Root, k Keys) (Pair, error) {
	certificate, err := readFile(generation, k.Certificate, maxCertificateBytes)
	if err != nil {
		return Pair{}, err
	}
	key, err := readFile(generation, k.Key, maxKeyBytes)
	if err != nil {
		return Pair{}, err
	}
	ca, err := readFile(generation, k.CA, maxCertificateBytes)
	if err != nil {
		return Pair{}, err
	}
	return Pair{Certificate: certificate, Key: NewKey(key), CA: ca}, nil
}

// readFile reads a regular file of at most max bytes, nil when it is missing.
// The root follows no link out of its directory; O_NONBLOCK keeps a FIFO from
// blocking the open.
func readFile(root *os.Root, name string, max int64) ([]byte, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	data, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > max {
		return nil, fmt.Errorf("%s has more than the %d bytes allowed", name, max)
	}
	return data, nil
}
