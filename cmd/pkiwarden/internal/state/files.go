package state

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pkiwarden/pkiwarden/pki"
)

// Files keeps each record in a file of its own, KEY.json, in one folder that
// several processes of one machine may share. A record's version is the hash of
// its content. What Put has written survives a crash, and a crash within it
// leaves the record as it was:
//
//	openat(".KEY.tmp") write fsync rename(".KEY.tmp", "KEY.json") fsync(folder)
type Files struct{ directory string }

// NewFiles makes a store in a folder, which the first Put creates where it is
// missing.
func NewFiles(directory string) (*Files, error) {
	if directory == "" {
		return nil, errors.New("making state store: state.path is empty, it names the folder for backend file")
	}
	return &Files{directory: directory}, nil
}

// Get implements [Store].
func (f *Files) Get(ctx context.Context, key string) ([]byte, string, error) {
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	data, err := f.read(key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("reading state %s: %w", key, err)
	}
	return data, hash(data), nil
}

// Put implements [Store]. It waits for other writers until ctx ends.
func (f *Files) Put(ctx context.Context, key string, data []byte, version string) (string, error) {
	if err := checkRecord(key, data); err != nil {
		return "", err
	}
	if err := f.put(ctx, key, data, version); err != nil {
		return "", fmt.Errorf("writing state %s: %w", key, err)
	}
	return hash(data), nil
}

func (f *Files) put(ctx context.Context, key string, data []byte, version string) error {
	if err := os.MkdirAll(f.directory, 0o700); err != nil {
		return err
	}
	unlock, err := f.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	old, err := f.read(key)
	have := ""
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		have = hash(old)
	}
	if have != version {
		return pki.ErrConflict
	}
	return f.write(key, data)
}

// Where names the file of a key.
func (f *Files) Where(key string) string { return "file " + f.path(key) }

func (f *Files) path(key string) string {
	return filepath.Join(f.directory, safeName(key)+".json")
}

// read returns a record, or an error that wraps fs.ErrNotExist.
func (f *Files) read(key string) ([]byte, error) {
	path := f.path(key)
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, MaxBytes+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) == 0:
		return nil, fmt.Errorf("%s is empty; repair it, or delete it to begin anew", path)
	case len(data) > MaxBytes:
		return nil, fmt.Errorf("%s has more than the %d bytes that are allowed; repair it, or delete it to begin anew", path, MaxBytes)
	}
	return data, nil
}

func (f *Files) write(key string, data []byte) error {
	temporary := filepath.Join(f.directory, "."+safeName(key)+".tmp")
	// One that a crash left behind is replaced, not followed.
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	err = errors.Join(err, file.Close())
	if err == nil {
		err = os.Rename(temporary, f.path(key))
	}
	if err != nil {
		_ = os.Remove(temporary)
		return err
	}
	return syncFolder(f.directory)
}

func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// lockPause is between attempts at a lock that another process holds.
const lockPause = 10 * time.Millisecond

// lock takes the folder's lock. The kernel frees it when its holder dies.
func (f *Files) lock(ctx context.Context) (unlock func(), err error) {
	path := filepath.Join(f.directory, ".lock")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = file.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			_ = file.Close()
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			_ = file.Close()
			return nil, fmt.Errorf("locking %s, which another process holds: %w", path, ctx.Err())
		case <-time.After(lockPause):
		}
	}
}

func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
