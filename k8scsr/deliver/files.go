package deliver

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The names below the directory. The three files are links into the generation
// that dataLink names, so one rename moves all of them at once.
const (
	certificateFile = "tls.crt"
	keyFile         = "tls.key"
	caFile          = "ca.crt"

	dataLink         = "..data"
	dataTemp         = "..data_tmp"
	generationPrefix = "..pkiwarden-" // only what begins so is ever removed
)

var fileKeys = Keys{Certificate: certificateFile, Key: keyFile, CA: caFile}

// Files says where the pair is published. The zero value publishes nothing.
type Files struct {
	// Directory must exist; tls.crt, tls.key and ca.crt appear in it.
	Directory string
	// Mode of the files; 0 stands for 0600. The umask does not apply.
	Mode fs.FileMode
	// Owner of the files; nil leaves them to this process's own. Another owner
	// needs CAP_CHOWN.
	Owner *Owner
}

// Owner is a numeric owner: there are no names in a static image.
type Owner struct{ UID, GID int }

// ParseOwner reads "uid:gid"; the empty string is no owner.
func ParseOwner(s string) (*Owner, error) {
	if s == "" {
		return nil, nil
	}
	user, group, ok := strings.Cut(s, ":")
	uid, errUser := strconv.ParseUint(user, 10, 31)
	gid, errGroup := strconv.ParseUint(group, 10, 31)
	if !ok || errUser != nil || errGroup != nil {
		return nil, fmt.Errorf("parsing owner %q: want numbers as uid:gid, for example 100:1000", s)
	}
	return &Owner{UID: int(uid), GID: int(gid)}, nil
}

// publisher keeps one directory. It is the directory's only writer.
type publisher struct {
	Files
	now func() time.Time
}

// layout is what a directory holds of ours.
type layout struct {
	current  string   // the generation that ..data names, "" when there is none that exists
	previous string   // the newest other whole generation, "" when there is none
	stale    []string // what a crash or a publish left behind
}

// load reads the published pair, and whether the generation before it is still
// kept, which means that the reload was not proved yet. Nothing published is
// not an error: the pair is then nil.
func (p *publisher) load() (pair *stored, unproved bool, err error) {
	root, err := os.OpenRoot(p.Directory)
	if err != nil {
		return nil, false, fmt.Errorf("opening directory of the files (mount a volume there): %w", err)
	}
	defer root.Close()
	l, err := p.survey(root)
	if err != nil || l.current == "" {
		return nil, false, err
	}
	return loadGeneration(root, l.current), l.previous != "", nil
}

// loadGeneration returns the pair of a generation, nil where it is not whole.
func loadGeneration(root *os.Root, name string) *stored {
	generation, err := root.OpenRoot(name)
	if err != nil {
		return nil
	}
	defer generation.Close()
	pair, err := readPair(generation, fileKeys)
	if err != nil {
		return nil
	}
	s, err := check(pair)
	if err != nil {
		return nil
	}
	return s
}

// sync makes the directory hold the pair, which the caller has checked, and
// heals what an earlier crash left. It reports whether readers see another pair
// than before; that can be so even with an error, since the step after the
// rename can fail too. With an error before it, readers see what they saw.
//
// A generation is kept through the publish of the next one, so a reader that
// resolved ..data has until the publish after that.
func (p *publisher) sync(pair Pair) (changed bool, err error) {
	root, err := os.OpenRoot(p.Directory)
	if err != nil {
		return false, fmt.Errorf("opening directory of the files (mount a volume there): %w", err)
	}
	defer root.Close()
	if changed, err = p.syncRoot(root, pair); err != nil {
		return changed, fmt.Errorf("publishing into %s: %w", p.Directory, err)
	}
	return changed, nil
}

func (p *publisher) syncRoot(root *os.Root, pair Pair) (changed bool, err error) {
	l, err := p.survey(root)
	if err != nil {
		return false, err
	}
	for _, name := range l.stale { // first: it may hold the space that the new one needs
		if err := root.RemoveAll(name); err != nil {
			return false, err
		}
	}
	if l.current != "" && p.holds(root, l.current, pair) {
		return false, p.link(root, pair)
	}
	name, err := p.write(root, pair)
	if err != nil {
		return false, errors.Join(err, root.RemoveAll(name))
	}
	// The names come before the rename: a reader of a first publish sees either
	// no file or every file.
	if err := p.link(root, pair); err != nil {
		return false, errors.Join(err, root.RemoveAll(name))
	}
	if err := root.Symlink(name, dataTemp); err != nil {
		return false, errors.Join(err, root.RemoveAll(name))
	}
	if err := root.Rename(dataTemp, dataLink); err != nil {
		return false, errors.Join(err, root.Remove(dataTemp), root.RemoveAll(name))
	}
	if err := syncDirectory(root); err != nil {
		return true, err
	}
	return true, p.trim(root, pair, l)
}

// trim takes away what the publish replaced, save the one generation before it.
func (p *publisher) trim(root *os.Root, pair Pair, before layout) error {
	if len(pair.CA) == 0 {
		if err := root.Remove(caFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if before.current != "" && before.previous != "" {
		return root.RemoveAll(before.previous)
	}
	return nil
}

// retire removes every generation but the current one.
func (p *publisher) retire() error {
	root, err := os.OpenRoot(p.Directory)
	if err != nil {
		return fmt.Errorf("opening directory of the files: %w", err)
	}
	defer root.Close()
	l, err := p.survey(root)
	if l.previous != "" {
		l.stale = append(l.stale, l.previous)
	}
	for _, name := range l.stale {
		err = errors.Join(err, root.RemoveAll(name))
	}
	if err != nil {
		return fmt.Errorf("removing the previous generation in %s: %w", p.Directory, err)
	}
	return nil
}

// survey looks at the directory and refuses it when something there is not ours.
func (p *publisher) survey(root *os.Root) (layout, error) {
	for _, name := range []string{certificateFile, keyFile, caFile} {
		if target, err := linkTarget(root, name); err != nil || target != "" && target != filepath.Join(dataLink, name) {
			return layout{}, p.foreign(name, err)
		}
	}
	target, err := linkTarget(root, dataLink)
	if err != nil || target != "" && !(strings.HasPrefix(target, generationPrefix) && plainName(target)) {
		return layout{}, p.foreign(dataLink, err)
	}
	d, err := root.Open(".")
	if err != nil {
		return layout{}, err
	}
	defer d.Close()
	entries, err := d.ReadDir(-1)
	if err != nil {
		return layout{}, err
	}
	var l layout
	for _, e := range entries {
		switch name := e.Name(); {
		case name == target:
			l.current = name
		case name == dataTemp:
			l.stale = append(l.stale, name)
		case strings.HasPrefix(name, generationPrefix):
			if name <= l.previous || loadGeneration(root, name) == nil {
				l.stale = append(l.stale, name)
				continue
			}
			if l.previous != "" {
				l.stale = append(l.stale, l.previous)
			}
			l.previous = name
		}
	}
	return l, nil
}

var errNotLink = errors.New("not a symbolic link")

// linkTarget returns where a link points, "" when there is nothing of that name.
func linkTarget(root *os.Root, name string) (string, error) {
	target, err := root.Readlink(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case errors.Is(err, syscall.EINVAL): // readlink(2): not a symbolic link
		return "", errNotLink
	}
	return target, err
}

func (p *publisher) foreign(name string, err error) error {
	if err != nil && !errors.Is(err, errNotLink) {
		return err
	}
	return fmt.Errorf("%s was not made by pkiwarden and is left alone: move it away, or name an empty directory in deliver's files.directory",
		filepath.Join(p.Directory, name))
}

// holds reports whether a generation is exactly what write would write.
func (p *publisher) holds(root *os.Root, name string, pair Pair) bool {
	generation, err := root.OpenRoot(name)
	if err != nil {
		return false
	}
	defer generation.Close()
	have, err := readPair(generation, fileKeys)
	if err != nil || !have.equal(pair) {
		return false
	}
	for _, file := range contents(pair) {
		info, err := generation.Lstat(file.name)
		if err != nil || info.Mode() != p.mode() { // the type bits are 0 for a regular file
			return false
		}
		if s, ok := info.Sys().(*syscall.Stat_t); p.Owner != nil && (!ok || int(s.Uid) != p.Owner.UID || int(s.Gid) != p.Owner.GID) {
			return false
		}
	}
	return true
}

func (p *publisher) mode() fs.FileMode {
	if p.Mode == 0 {
		return 0o600
	}
	return p.Mode
}

type file struct {
	name string
	data []byte
}

func contents(pair Pair) []file {
	files := []file{{certificateFile, pair.Certificate}, {keyFile, pair.Key.PEM()}}
	if len(pair.CA) > 0 {
		files = append(files, file{caFile, pair.CA})
	}
	return files
}

// write makes a new generation that is whole on disk when it returns. The name
// is returned with an error too, so that what was made can be removed.
func (p *publisher) write(root *os.Root, pair Pair) (name string, err error) {
	name = generationPrefix + p.now().UTC().Format("20060102T150405.000000000Z") + "-" + rand.Text()[:8]
	// The directory is open to all, as the kubelet's is: the files' own mode
	// says who reads them.
	if err := root.Mkdir(name, 0o755); err != nil {
		return name, err
	}
	generation, err := root.OpenRoot(name)
	if err != nil {
		return name, err
	}
	defer generation.Close()
	if err := chmodDirectory(generation); err != nil {
		return name, err
	}
	for _, f := range contents(pair) {
		if err := p.writeFile(generation, f); err != nil {
			return name, err
		}
	}
	return name, syncDirectory(generation)
}

func (p *publisher) writeFile(generation *os.Root, file file) (err error) {
	f, err := generation.OpenFile(file.name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if p.Owner != nil {
		if err := f.Chown(p.Owner.UID, p.Owner.GID); err != nil {
			return fmt.Errorf("giving the file to %d:%d (this needs CAP_CHOWN; leave files.owner empty where pkiwarden runs as the server's user): %w",
				p.Owner.UID, p.Owner.GID, err)
		}
	}
	if err := f.Chmod(p.mode()); err != nil {
		return err
	}
	if _, err := f.Write(file.data); err != nil {
		return err
	}
	return f.Sync()
}

// link makes the names that users read, once; they never change afterwards.
func (p *publisher) link(root *os.Root, pair Pair) error {
	for _, f := range contents(pair) {
		target, err := linkTarget(root, f.name)
		if err == nil && target == "" {
			err = root.Symlink(filepath.Join(dataLink, f.name), f.name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// chmodDirectory undoes the umask. It keeps the set-group-ID bit, by which the
// files get the group (a pod's fsGroup) of the volume.
func chmodDirectory(root *os.Root) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	info, err := d.Stat()
	if err != nil {
		return err
	}
	return d.Chmod(info.Mode()&fs.ModeSetgid | 0o755)
}

// syncDirectory makes the directory's entries survive a power loss.
func syncDirectory(root *os.Root) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
