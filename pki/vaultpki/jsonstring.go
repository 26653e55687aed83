package vaultpki

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// maxPrelude caps what stands before the string looked for.
const maxPrelude = 1 << 20

// findString reads the JSON object in r up to the string at the given path of
// keys and returns a reader of that string's value, unescaped as it is read, in
// memory that does not depend on its length. A string that is not closed ends
// in io.ErrUnexpectedEOF. What follows it is not read.
func findString(r io.Reader, path ...string) (io.Reader, error) {
	prelude := &io.LimitedReader{R: r, N: maxPrelude}
	s := &jsonString{in: bufio.NewReaderSize(prelude, 16<<10)}
	for i, key := range path {
		if err := s.enter(key); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("finding %s in the JSON answer: %w", key, err)
		}
		if i < len(path)-1 {
			continue
		}
		if c, err := s.next(); err != nil || c != '"' {
			return nil, fmt.Errorf("finding %s in the JSON answer: it is not a string", key)
		}
	}
	prelude.N = 1<<63 - 1
	return s, nil
}

// jsonString reads one JSON string's value.
type jsonString struct {
	in      *bufio.Reader
	pending []byte // unescaped, to be handed out first
	err     error
}

// enter consumes an object up to the value of key.
func (s *jsonString) enter(key string) error {
	if c, err := s.next(); err != nil {
		return err
	} else if c != '{' {
		return errors.New("no object where one is expected")
	}
	for {
		c, err := s.next()
		switch {
		case err != nil:
			return err
		case c == '}':
			return errors.New("no such key")
		case c == ',':
			continue
		case c != '"':
			return fmt.Errorf("unexpected %q where a key is expected", c)
		}
		name, err := io.ReadAll(&jsonString{in: s.in})
		if err != nil {
			return err
		}
		if c, err := s.next(); err != nil {
			return err
		} else if c != ':' {
			return fmt.Errorf("unexpected %q after a key", c)
		}
		if string(name) == key {
			return nil
		}
		if err := s.skip(); err != nil {
			return err
		}
	}
}

// skip consumes one value.
func (s *jsonString) skip() error {
	for depth := 0; ; {
		c, err := s.next()
		if err != nil {
			return err
		}
		switch c {
		case '"':
			if _, err := io.Copy(io.Discard, &jsonString{in: s.in}); err != nil {
				return err
			}
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case ',', ':':
		default:
			if err := s.skipWord(); err != nil {
				return err
			}
		}
		if depth <= 0 {
			return nil
		}
	}
}

// skipWord consumes the rest of a number, true, false or null.
func (s *jsonString) skipWord() error {
	for {
		c, err := s.in.ReadByte()
		if err != nil {
			return err
		}
		if bytes.IndexByte([]byte(" \t\r\n,:]}"), c) >= 0 {
			return s.in.UnreadByte()
		}
	}
}

// next is the next octet that is not white space.
func (s *jsonString) next() (byte, error) {
	for {
		c, err := s.in.ReadByte()
		if err != nil || (c != ' ' && c != '\t' && c != '\r' && c != '\n') {
			return c, err
		}
	}
}

// Read implements io.Reader.
func (s *jsonString) Read(p []byte) (int, error) {
	for len(s.pending) == 0 {
		if s.err != nil {
			return 0, s.err
		}
		if len(p) == 0 {
			return 0, nil
		}
		if _, err := s.in.Peek(1); err != nil {
			s.err = unexpected(err)
			continue
		}
		plain, _ := s.in.Peek(min(s.in.Buffered(), len(p)))
		if n := copy(p, plain[:ordinary(plain)]); n > 0 {
			_, err := s.in.Discard(n)
			return n, err
		}
		s.pending, s.err = s.unescape()
	}
	n := copy(p, s.pending)
	s.pending = s.pending[n:]
	return n, nil
}

// ordinary is the number of leading octets that stand for themselves.
func ordinary(text []byte) int {
	for i, c := range text {
		if c == '"' || c == '\\' || c < ' ' {
			return i
		}
	}
	return len(text)
}

// unescape consumes the closing quote, or one escape and returns what it
// stands for.
func (s *jsonString) unescape() ([]byte, error) {
	c, err := s.in.ReadByte()
	switch {
	case err != nil:
		return nil, unexpected(err)
	case c == '"':
		return nil, io.EOF
	case c != '\\':
		return nil, fmt.Errorf("control character %#02x in a JSON string", c)
	}
	if c, err = s.in.ReadByte(); err != nil {
		return nil, unexpected(err)
	}
	switch c {
	case '"', '\\', '/':
		return []byte{c}, nil
	case 'b':
		return []byte{'\b'}, nil
	case 'f':
		return []byte{'\f'}, nil
	case 'n':
		return []byte{'\n'}, nil
	case 'r':
		return []byte{'\r'}, nil
	case 't':
		return []byte{'\t'}, nil
	case 'u':
		return s.unescapeUnicode()
	}
	return nil, fmt.Errorf("unknown escape \\%c in a JSON string", c)
}

// unescapeUnicode reads what follows \u, with the second half of a surrogate
// pair where there is one.
func (s *jsonString) unescapeUnicode() ([]byte, error) {
	first, err := s.hex()
	if err != nil {
		return nil, err
	}
	if utf16.IsSurrogate(first) {
		if ahead, _ := s.in.Peek(2); string(ahead) == `\u` {
			if _, err := s.in.Discard(2); err != nil {
				return nil, err
			}
			second, err := s.hex()
			if err != nil {
				return nil, err
			}
			first = utf16.DecodeRune(first, second)
		}
	}
	return utf8.AppendRune(nil, first), nil
}

func (s *jsonString) hex() (rune, error) {
	var digits [4]byte
	if _, err := io.ReadFull(s.in, digits[:]); err != nil {
		return 0, unexpected(err)
	}
	n, err := strconv.ParseUint(string(digits[:]), 16, 16)
	if err != nil {
		return 0, fmt.Errorf("decoding \\u%s in a JSON string: %w", digits, err)
	}
	return rune(n), nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
