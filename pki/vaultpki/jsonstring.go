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
	one     [1]byte
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

// Read implements io.Reader. It fills p as far as what is buffered goes.
func (s *jsonString) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if len(s.pending) > 0 {
			copied := copy(p[n:], s.pending)
			s.pending = s.pending[copied:]
			n += copied
			continue
		}
		if s.err != nil {
			break
		}
		if n > 0 && s.in.Buffered() == 0 {
			return n, nil
		}
		if _, err := s.in.Peek(1); err != nil {
			s.err = unexpected(err)
			break
		}
		plain, _ := s.in.Peek(min(s.in.Buffered(), len(p)-n))
		plain = ordinary(plain)
		n += copy(p[n:], plain)
		if len(plain) == 0 {
			s.pending, s.err = s.unescape()
		} else if _, err := s.in.Discard(len(plain)); err != nil {
			s.err = err
		}
	}
	if n > 0 || len(p) == 0 {
		return n, nil
	}
	return 0, s.err
}

// ordinary is the part of text before the first octet that does not stand for
// itself. Control characters are passed on: what reads the value judges them.
func ordinary(text []byte) []byte {
	if i := bytes.IndexByte(text, '\\'); i >= 0 {
		text = text[:i]
	}
	if i := bytes.IndexByte(text, '"'); i >= 0 {
		text = text[:i]
	}
	return text
}

// unescape consumes the closing quote, or one escape and returns what it
// stands for.
func (s *jsonString) unescape() ([]byte, error) {
	c, err := s.in.ReadByte()
	if err != nil {
		return nil, unexpected(err)
	}
	if c == '"' {
		return nil, io.EOF
	}
	if c, err = s.in.ReadByte(); err != nil {
		return nil, unexpected(err)
	}
	switch c {
	case '"', '\\', '/':
		s.one[0] = c
	case 'b':
		s.one[0] = '\b'
	case 'f':
		s.one[0] = '\f'
	case 'n':
		s.one[0] = '\n'
	case 'r':
		s.one[0] = '\r'
	case 't':
		s.one[0] = '\t'
	case 'u':
		return s.unescapeUnicode()
	default:
		return nil, fmt.Errorf("unknown escape \\%c in a JSON string", c)
	}
	return s.one[:], nil
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
