package vaultpki

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

const (
	// maxCertificates caps what is read of the list of a mount's certificates,
	// which takes Vault 62 bytes for each: about a million of them.
	maxCertificates = 64 << 20
	// maxSerial is more than the longest serial number takes: 20 octets (RFC 5280
	// section 4.1.2.2), 8 more as some CAs have it, each two digits and a sign.
	maxSerial = 84
)

// Certificates calls each with the serial number of every certificate that a
// mount stores, expired and revoked ones and those of its issuers included, as
// the answer arrives; an error of each ends it. An answer that is cut short, or
// longer than 64 MiB, is an error. It costs Vault in proportion to their
// number (about 3 ms of CPU for a thousand, with an audit device), and the
// capability "list" on MOUNT/certs.
func (v *Vault) Certificates(ctx context.Context, m pki.Mount, each func(serial string) error) error {
	r := request{method: "LIST", path: m.Path + "/certs", namespace: m.Namespace, slow: true}
	ctx, cancel := v.deadline(ctx, r)
	defer cancel()
	err := v.listCertificates(ctx, r, each)
	if err == nil || notFound(err) && !strings.Contains(err.Error(), noMount) {
		return nil
	}
	return fmt.Errorf("listing certificates of mount %s: %w", m.Name(), err)
}

// noMount is how Vault says that nothing is mounted at a path, with the status
// that an empty list has (vault/router.go).
const noMount = "no handler for route"

func (v *Vault) listCertificates(ctx context.Context, r request, each func(string) error) error {
	resp, err := v.send(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	in := &io.LimitedReader{R: arriving{resp.Body}, N: maxCertificates}
	err = eachString(in, each, "data", "keys")
	if err != nil && in.N <= 0 {
		return fmt.Errorf("the answer is longer than %d bytes: there are too many certificates to list", maxCertificates)
	}
	return err
}

// eachString calls each with every string of the JSON array at a path of keys.
func eachString(r io.Reader, each func(string) error, path ...string) error {
	s := &jsonString{in: bufio.NewReaderSize(r, 16<<10)}
	for _, key := range path {
		if err := s.enter(key); err != nil {
			return fmt.Errorf("finding %s in the JSON answer: %w", key, unexpected(err))
		}
	}
	if c, err := s.next(); err != nil {
		return unexpected(err)
	} else if c != '[' {
		return errors.New("the JSON answer has no array where one is expected")
	}
	for {
		c, err := s.next()
		switch {
		case err != nil:
			return unexpected(err)
		case c == ']':
			return nil
		case c == ',':
			continue
		case c != '"':
			return fmt.Errorf("unexpected %q in an array of strings", c)
		}
		text, err := io.ReadAll(io.LimitReader(&jsonString{in: s.in}, maxSerial+1))
		if err != nil {
			return err
		}
		if err := checkSerial(string(text)); err != nil {
			return err
		}
		if err := each(string(text)); err != nil {
			return err
		}
	}
}

// checkSerial says why text is no serial number as Vault writes them: octets in
// hexadecimal with colons, or hyphens, between them.
func checkSerial(text string) error {
	bad := text == "" || len(text) > maxSerial
	for i := 0; !bad && i < len(text); i++ {
		c := text[i]
		bad = !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' || c == ':' || c == '-')
	}
	if bad {
		return fmt.Errorf("%s is no serial number", quote(text))
	}
	return nil
}

// Certificate reads a certificate by its serial number, and when it was
// revoked, which is zero where it was not. It is nil, without an error, where
// Vault stores none, or no longer. No token is needed.
func (v *Vault) Certificate(ctx context.Context, m pki.Mount, serial string) (*x509.Certificate, time.Time, error) {
	fail := func(err error) (*x509.Certificate, time.Time, error) {
		return nil, time.Time{}, fmt.Errorf("reading certificate %s of mount %s: %w", quote(serial), m.Name(), err)
	}
	if err := checkSerial(serial); err != nil {
		return fail(err)
	}
	var data struct {
		Certificate string `json:"certificate"`
		RevokedAt   int64  `json:"revocation_time"`
	}
	r := request{method: http.MethodGet, path: m.Path + "/cert/" + serial, namespace: m.Namespace, public: true}
	if err := v.read(ctx, r, &data); notFound(err) {
		return nil, time.Time{}, nil
	} else if err != nil {
		return fail(err)
	}
	block, _ := pem.Decode([]byte(data.Certificate))
	if block == nil {
		return fail(errors.New("no PEM certificate in the answer"))
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return fail(fmt.Errorf("parsing certificate: %w", err))
	}
	if data.RevokedAt <= 0 {
		return cert, time.Time{}, nil
	}
	return cert, time.Unix(data.RevokedAt, 0), nil
}
