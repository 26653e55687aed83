package deliver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func newPublisher(directory string) *publisher {
	return &publisher{Files: Files{Directory: directory}, now: time.Now}
}

func mustSync(t *testing.T, p *publisher, pair Pair, wantChanged bool) {
	t.Helper()
	changed, err := p.sync(pair)
	if err != nil || changed != wantChanged {
		t.Fatalf("sync = %t, %v; want %t", changed, err, wantChanged)
	}
}

// names lists a directory; generations are shown by their prefix.
func names(t *testing.T, directory string) []string {
	t.Helper()
	entries, err := os.ReadDir(directory)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, "..pkiwarden-") {
			name = "..pkiwarden-"
		}
		list = append(list, name)
	}
	return list
}

func TestPublish(t *testing.T) {
	directory := t.TempDir()
	ca := newAuthority(t)
	first, second := ca.issue(t, time.Hour), ca.issue(t, time.Hour)
	p := newPublisher(directory)

	mustSync(t, p, first, true)
	want := []string{"..data", "..pkiwarden-", "ca.crt", "tls.crt", "tls.key"}
	if got := names(t, directory); !slices.Equal(got, want) {
		t.Errorf("after the first publish: %v, want %v", got, want)
	}
	for _, name := range []string{"ca.crt", "tls.crt", "tls.key"} {
		info, err := os.Stat(filepath.Join(directory, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != 0o600 {
			t.Errorf("%s has mode %s, want 0600", name, info.Mode())
		}
		if target, _ := os.Readlink(filepath.Join(directory, name)); target != "..data/"+name {
			t.Errorf("%s points to %q", name, target)
		}
	}

	before := stamps(t, directory)
	mustSync(t, p, first, false)
	if after := stamps(t, directory); after != before {
		t.Errorf("an unchanged pair was written:\n%s\nthen\n%s", before, after)
	}

	mustSync(t, p, second, true)
	want = []string{"..data", "..pkiwarden-", "..pkiwarden-", "ca.crt", "tls.crt", "tls.key"}
	if got := names(t, directory); !slices.Equal(got, want) {
		t.Errorf("after the second publish: %v, want %v", got, want)
	}
	if pair, unproved, err := p.load(); err != nil || !unproved || !pair.equal(second) {
		t.Errorf("load = %v, unproved %t, %v; want the second pair, unproved", pair, unproved, err)
	}

	mustSync(t, p, first, true) // exactly one previous generation is kept
	if got := names(t, directory); !slices.Equal(got, want) {
		t.Errorf("after the third publish: %v, want %v", got, want)
	}
	if err := p.retire(); err != nil {
		t.Fatal(err)
	}
	want = []string{"..data", "..pkiwarden-", "ca.crt", "tls.crt", "tls.key"}
	if got := names(t, directory); !slices.Equal(got, want) {
		t.Errorf("after retiring: %v, want %v", got, want)
	}
	if pair, unproved, err := p.load(); err != nil || unproved || !pair.equal(first) {
		t.Errorf("load = %v, unproved %t, %v; want the first pair, proved", pair, unproved, err)
	}
}

// stamps shows every inode below a directory and when it last changed.
func stamps(t *testing.T, directory string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(directory, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		s := info.Sys().(*syscall.Stat_t)
		fmt.Fprintln(&b, path, s.Ino, s.Ctim)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestPublishModeAndOwner(t *testing.T) {
	directory := t.TempDir()
	pair := newAuthority(t).issue(t, time.Hour)
	p := newPublisher(directory)
	mustSync(t, p, pair, true)
	p.Mode = 0o640
	mustSync(t, p, pair, true)
	p.Owner = &Owner{UID: os.Getuid(), GID: os.Getgid()}
	mustSync(t, p, pair, false)
	info, err := os.Stat(filepath.Join(directory, "tls.key"))
	if err != nil || info.Mode() != 0o640 {
		t.Errorf("mode = %v, %v; want 0640", info.Mode(), err)
	}
	if os.Getuid() != 0 {
		return
	}
	p.Owner = &Owner{UID: 100, GID: 1000}
	mustSync(t, p, pair, true)
	info, err = os.Stat(filepath.Join(directory, "tls.key"))
	if s := info.Sys().(*syscall.Stat_t); err != nil || s.Uid != 100 || s.Gid != 1000 {
		t.Errorf("owner = %d:%d, %v; want 100:1000", s.Uid, s.Gid, err)
	}
}

func TestPublishKeepsTheVolumesGroup(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("changing the group of a directory needs root")
	}
	directory := t.TempDir()
	if err := os.Chown(directory, -1, 1000); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(directory, 0o777|fs.ModeSetgid); err != nil { // as with a pod's fsGroup
		t.Fatal(err)
	}
	mustSync(t, newPublisher(directory), newAuthority(t).issue(t, time.Hour), true)
	info, err := os.Stat(filepath.Join(directory, "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	if gid := info.Sys().(*syscall.Stat_t).Gid; gid != 1000 {
		t.Errorf("the key's group is %d, want the volume's 1000", gid)
	}
}

func TestPublishCAComesAndGoes(t *testing.T) {
	directory := t.TempDir()
	ca := newAuthority(t)
	with, without := ca.issue(t, time.Hour), ca.issue(t, time.Hour)
	without.CA = nil
	p := newPublisher(directory)
	for _, step := range []struct {
		pair Pair
		want error
	}{{without, fs.ErrNotExist}, {with, nil}, {without, fs.ErrNotExist}} {
		mustSync(t, p, step.pair, true)
		if _, err := os.Lstat(filepath.Join(directory, "ca.crt")); !errors.Is(err, step.want) {
			t.Errorf("ca.crt: %v, want %v", err, step.want)
		}
	}
}

func TestPublishHeals(t *testing.T) {
	ca := newAuthority(t)
	pair := ca.issue(t, time.Hour)
	for name, breakIt := range map[string]func(directory string) error{
		"stale temporary link": func(d string) error { return os.Symlink("..nowhere", filepath.Join(d, "..data_tmp")) },
		"stale temporary file": func(d string) error { return os.WriteFile(filepath.Join(d, "..data_tmp"), nil, 0o600) },
		"torn generation": func(d string) error {
			torn := filepath.Join(d, "..pkiwarden-99990101T000000.000000000Z-TORN")
			return errors.Join(os.Mkdir(torn, 0o755), os.WriteFile(filepath.Join(torn, "tls.crt"), pair.Certificate, 0o600))
		},
		"missing name": func(d string) error { return os.Remove(filepath.Join(d, "tls.key")) },
		"dangling ..data": func(d string) error {
			target, err := os.Readlink(filepath.Join(d, "..data"))
			return errors.Join(err, os.RemoveAll(filepath.Join(d, target)))
		},
		"missing ..data":     func(d string) error { return os.Remove(filepath.Join(d, "..data")) },
		"changed key":        func(d string) error { return os.WriteFile(filepath.Join(d, "tls.key"), []byte("x"), 0o600) },
		"missing generation": func(d string) error { return os.Remove(filepath.Join(d, "..data", "tls.crt")) },
	} {
		t.Run(name, func(t *testing.T) {
			directory := t.TempDir()
			p := newPublisher(directory)
			mustSync(t, p, pair, true)
			if err := breakIt(directory); err != nil {
				t.Fatal(err)
			}
			if _, err := p.sync(pair); err != nil {
				t.Fatal(err)
			}
			if got, err := readDirectory(directory); err != nil || !got.equal(pair) {
				t.Errorf("not healed: %v", err)
			}
			if err := p.retire(); err != nil {
				t.Fatal(err)
			}
			want := []string{"..data", "..pkiwarden-", "ca.crt", "tls.crt", "tls.key"}
			if got := names(t, directory); !slices.Equal(got, want) {
				t.Errorf("left %v, want %v", got, want)
			}
		})
	}
}

func TestPublishRefusesForeignFiles(t *testing.T) {
	pair := newAuthority(t).issue(t, time.Hour)
	for name, plant := range map[string]func(directory string) error{
		"tls.crt": func(d string) error { return os.WriteFile(filepath.Join(d, "tls.crt"), []byte("mine"), 0o600) },
		"tls.key": func(d string) error { return os.Symlink("/etc/hostname", filepath.Join(d, "tls.key")) },
		"ca.crt":  func(d string) error { return os.Mkdir(filepath.Join(d, "ca.crt"), 0o755) },
		"..data": func(d string) error { // a Secret volume
			return errors.Join(os.Mkdir(filepath.Join(d, "..2026_01_01"), 0o755), os.Symlink("..2026_01_01", filepath.Join(d, "..data")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			directory := t.TempDir()
			if err := plant(directory); err != nil {
				t.Fatal(err)
			}
			before := stamps(t, directory)
			_, err := newPublisher(directory).sync(pair)
			if err == nil || !strings.Contains(err.Error(), filepath.Join(directory, name)+" was not made by pkiwarden") || !strings.Contains(err.Error(), "move it away") {
				t.Errorf("sync = %v", err)
			}
			if after := stamps(t, directory); after != before {
				t.Errorf("the directory was touched:\n%s\nthen\n%s", before, after)
			}
		})
	}
}

func TestPublishStaysBelowItsDirectory(t *testing.T) {
	directory, outside := t.TempDir(), t.TempDir()
	pair := newAuthority(t).issue(t, time.Hour)
	writeDirectory(t, outside, pair)
	// A generation that is a link to somewhere else is never read nor emptied.
	trap := "..pkiwarden-20260101T000000.000000000Z-TRAP"
	if err := errors.Join(os.Symlink(outside, filepath.Join(directory, trap)), os.Symlink(trap, filepath.Join(directory, "..data"))); err != nil {
		t.Fatal(err)
	}
	p := newPublisher(directory)
	if loaded, _, err := p.load(); loaded != nil || err != nil {
		t.Errorf("load = %v, %v; want nothing", loaded, err)
	}
	mustSync(t, p, pair, true)
	mustSync(t, p, newAuthority(t).issue(t, time.Hour), true)
	mustSync(t, p, pair, true)
	if got, err := readDirectory(outside); err != nil || !got.equal(pair) {
		t.Errorf("files outside were touched: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(directory, trap)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the trap is still there: %v", err)
	}
}

func TestPublishMissingDirectory(t *testing.T) {
	directory := filepath.Join(t.TempDir(), "absent")
	_, err := newPublisher(directory).sync(newAuthority(t).issue(t, time.Hour))
	if err == nil || !strings.Contains(err.Error(), directory) || !strings.Contains(err.Error(), "mount a volume there") {
		t.Errorf("sync = %v", err)
	}
}

// A reader that resolves the directory once sees a whole matching pair, always,
// also when it is overtaken by one publish.
func TestConcurrentReader(t *testing.T) {
	directory := t.TempDir()
	ca := newAuthority(t)
	pairs := []Pair{ca.issue(t, time.Hour), ca.issue(t, time.Hour), ca.issue(t, time.Hour)}
	p := newPublisher(directory)
	mustSync(t, p, pairs[0], true)

	const rotations = 100
	var begun, published atomic.Int64
	stop := make(chan struct{})
	type result struct {
		reads, overtaken int
		wrong            []error
	}
	results := make(chan result)
	for range 2 {
		go func() {
			var r result
			defer func() { results <- r }()
			for {
				select {
				case <-stop:
					return
				default:
				}
				begin := published.Load()
				resolved, err := filepath.EvalSymlinks(filepath.Join(directory, "..data"))
				var pair Pair
				if err == nil {
					pair, err = readDirectory(resolved)
				}
				if err == nil {
					_, err = serialOf(pair)
				}
				r.reads++
				if begun.Load()-begin > 1 {
					r.overtaken++ // slower than the promise: two publishes within one read
				} else if err != nil {
					r.wrong = append(r.wrong, err)
				}
				// The names themselves are there at every moment.
				if _, err := os.ReadFile(filepath.Join(directory, "tls.crt")); err != nil && begun.Load()-begin <= 1 {
					r.wrong = append(r.wrong, err)
				}
			}
		}()
	}
	for i := range rotations {
		begun.Add(1)
		mustSync(t, p, pairs[(i+1)%len(pairs)], true)
		published.Add(1)
		time.Sleep(2 * time.Millisecond)
	}
	close(stop)
	for range 2 {
		r := <-results
		if len(r.wrong) > 0 {
			t.Errorf("%d of %d reads were wrong, first: %v", len(r.wrong), r.reads, r.wrong[0])
		}
		if r.reads < rotations || r.overtaken > r.reads/10 {
			t.Errorf("%d reads, %d of them overtaken: too few to say anything", r.reads, r.overtaken)
		}
		t.Logf("%d reads in %d rotations, %d overtaken twice", r.reads, rotations, r.overtaken)
	}
}

func TestParseOwner(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want *Owner
		err  bool
	}{
		{"", nil, false},
		{"100:1000", &Owner{100, 1000}, false},
		{"0:0", &Owner{0, 0}, false},
		{"vault:vault", nil, true},
		{"100", nil, true},
		{"-1:5", nil, true},
		{"100:99999999999", nil, true},
	} {
		got, err := ParseOwner(tc.in)
		if (err != nil) != tc.err || (got == nil) != (tc.want == nil) || got != nil && *got != *tc.want {
			t.Errorf("ParseOwner(%q) = %v, %v", tc.in, got, err)
		}
	}
}
