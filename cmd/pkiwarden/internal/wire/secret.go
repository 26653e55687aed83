package wire

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Secret is a token. However it is printed, logged or marshalled, it shows
// nothing of itself; [Secret.Reveal] is the one way to its text.
type Secret string

const redacted = "[redacted]"

// Reveal returns the text, to be put into a header or a request's body.
func (s Secret) Reveal() string { return string(s) }

func (Secret) String() string               { return redacted }
func (Secret) GoString() string             { return redacted }
func (Secret) Format(f fmt.State, _ rune)   { _, _ = f.Write([]byte(redacted)) }
func (Secret) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
func (s Secret) scrub(text string) string {
	if len(s) < 8 { // too short to be a token, and to be told from chance
		return text
	}
	return strings.ReplaceAll(text, string(s), redacted)
}

// Scrub returns text without the secrets in it, at most 1,000 bytes of it, on
// one line: what a server says goes to logs, and it may repeat what it was sent.
func Scrub(text string, secrets ...Secret) string {
	for _, s := range secrets {
		text = s.scrub(text)
	}
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 1000 {
		text = strings.ToValidUTF8(text[:1000], "") + "…"
	}
	return text
}

// SecretFile is a file that holds one token, and may be replaced at any time.
type SecretFile struct {
	Path string
	Now  func() time.Time // default time.Now

	mu      sync.Mutex
	secret  Secret
	checked time.Time
}

// Read returns the token as the file holds it now, without white space around
// it. It fails when the file is missing, unreadable, empty, or not one word.
func (f *SecretFile) Read() (Secret, error) {
	b, err := readFile(f.Path)
	if err != nil {
		return "", fmt.Errorf("reading token file: %w", err)
	}
	text := strings.TrimSpace(string(b))
	if text == "" {
		return "", fmt.Errorf("reading token file: %s is empty", f.Path)
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("reading token file: %s holds more than one token", f.Path)
	}
	return Secret(text), nil
}

// Cached is Read, at most every ten seconds; when the file has become
// unreadable, it returns what was read before.
func (f *SecretFile) Cached() (Secret, error) {
	now := time.Now
	if f.Now != nil {
		now = f.Now
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.secret != "" && now().Sub(f.checked) < reread {
		return f.secret, nil
	}
	s, err := f.Read()
	if err != nil {
		if f.secret == "" {
			return "", err
		}
		s = f.secret
	}
	f.secret, f.checked = s, now()
	return s, nil
}

// openRegular opens what must not be a pipe or a device: those never end.
func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &os.PathError{Op: "open", Path: path, Err: errors.New("not a regular file")}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
