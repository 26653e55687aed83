package vaultpki

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/pkiwarden/pkiwarden/pki"
)

// The two forms in which CRL fetches a list. With an audit device, form JSON
// costs Vault a small part of what the raw list does.
const (
	FormJSON = "json" // PEM, streamed out of the JSON answer
	FormDER  = "der"
)

// CRL opens a list of an issuer, as PEM in form json and as DER in form der, to
// be read as it arrives and closed. Reading ends in an error, never early, when
// the connection or the answer is cut short; SlowTimeout covers the reading
// too. The size is not capped here.
//
// It is an error wrapping [pki.ErrNoCRL] when Vault has none: it answers 204,
// or nothing; and one wrapping [pki.ErrNotModified] when it answers 304, which
// only a mount does that lets If-Modified-Since through. Vault compares with
// the time at which it last began to build any list of the mount, so a list's
// own thisUpdate and one second is what to name (builtin/logical/pki/util.go).
//
// No token is needed. Vault rebuilds a list first where it has been told to,
// which takes time in proportion to the revocations of the mount.
func (v *Vault) CRL(ctx context.Context, m pki.Mount, q pki.CRLRequest) (io.ReadCloser, error) {
	fail := func(err error) (io.ReadCloser, error) {
		return nil, fmt.Errorf("fetching CRL of issuer %s of mount %s: %w", q.IssuerID, m.Name(), err)
	}
	if err := checkID(q.IssuerID); err != nil {
		return nil, fmt.Errorf("fetching CRL of mount %s: %w", m.Name(), err)
	}
	r := request{
		method:    http.MethodGet,
		path:      m.Path + "/issuer/" + q.IssuerID + "/crl",
		namespace: m.Namespace,
		since:     q.IfModifiedSince,
		public:    true,
		slow:      true,
	}
	if q.Delta {
		r.path += "/delta"
	}
	switch q.Form {
	case FormJSON:
	case FormDER:
		r.path += "/der"
	default:
		return fail(fmt.Errorf("form %q is neither %q nor %q", q.Form, FormJSON, FormDER))
	}
	ctx, cancel := v.deadline(ctx, r)
	body, err := v.openCRL(ctx, r, q.Form)
	if err != nil {
		cancel()
		return fail(err)
	}
	body.cancel = cancel
	return body, nil
}

func (v *Vault) openCRL(ctx context.Context, r request, form string) (*crlBody, error) {
	resp, err := v.send(ctx, r)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*crlBody, error) {
		resp.Body.Close()
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return fail(fmt.Errorf("%w: status %d", pki.ErrNoCRL, resp.StatusCode))
	}
	var list io.Reader = arriving{resp.Body}
	if form == FormJSON {
		if list, err = findString(list, "data", "crl"); err != nil {
			if !errors.Is(err, pki.ErrUnreachable) {
				err = fmt.Errorf("%w: %w", pki.ErrNotVault, err)
			}
			return fail(err)
		}
	}
	buffered := bufio.NewReaderSize(list, 32<<10)
	if _, err := buffered.Peek(1); err == io.EOF {
		return fail(fmt.Errorf("%w: empty body", pki.ErrNoCRL))
	} else if err != nil {
		return fail(err)
	}
	return &crlBody{Reader: buffered, body: resp.Body}, nil
}

// arriving marks errors of the connection as Vault's being out of reach.
type arriving struct{ io.Reader }

func (a arriving) Read(p []byte) (int, error) {
	n, err := a.Reader.Read(p)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%w: %w", pki.ErrUnreachable, err)
	}
	return n, err
}

// crlBody is a list on its way.
type crlBody struct {
	io.Reader
	body   io.Closer
	cancel context.CancelFunc
}

// Close ends the request.
func (b *crlBody) Close() error {
	err := b.body.Close()
	b.cancel()
	return err
}
