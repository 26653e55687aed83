package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/config"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/spool"
	"github.com/pkiwarden/pkiwarden/crl"
)

// readCertificate reads the issuer's certificate, PEM or DER. Without a file it
// is nil.
func readCertificate(cmd *cobra.Command, file string) (*x509.Certificate, error) {
	if file == "" {
		return nil, nil
	}
	const most = 1 << 20
	f, err := openFile(cmd.Context(), file)
	if err != nil {
		return nil, &exitError{code: exitUnknown, err: fmt.Errorf("reading issuer: %w", err)}
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return nil, &exitError{code: exitUnknown, err: fmt.Errorf("reading issuer: %w", err)}
	}
	der := text
	for rest := text; len(rest) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			der = block.Bytes
			break
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, usageError(cmd, fmt.Errorf("--issuer %s: want a certificate in PEM or DER: %w", file, err))
	}
	return cert, nil
}

// scanVerified scans the list and verifies it, where there is an issuer.
func scanVerified(cmd *cobra.Command, a *app, i inspection, issuer *x509.Certificate) (crl.Summary, verdict, error) {
	if issuer == nil {
		summary, err := scanSource(cmd, a, i, nil)
		return summary, verdict{}, err
	}
	kept := spool.New(spool.Options{MaxBytes: i.maxBytes})
	defer kept.Close()
	summary, err := scanSource(cmd, a, i, kept)
	if err != nil {
		return crl.Summary{}, verdict{}, err
	}
	return summary, verdict{issuer, summary.Verify(issuer)}, nil
}

// scanSource scans the list. One that is not valid is exit code 2; a source
// that cannot be read, to its end or at all, is exit code 3.
func scanSource(cmd *cobra.Command, a *app, i inspection, kept crl.Spool) (crl.Summary, error) {
	ctx, cancel := context.WithTimeout(cmd.Context(), i.timeout)
	defer cancel()
	in, err := openSource(ctx, cmd, a, i.source)
	if err == nil {
		defer in.Close()
		var summary crl.Summary
		if summary, err = crl.Scan(in, crl.Options{MaxBytes: i.maxBytes, Spool: kept, Each: i.each}); err == nil {
			return summary, nil
		}
	}
	return crl.Summary{}, i.failed(cmd, err)
}

// failed is why the source was not read, as the command ends with it.
func (i inspection) failed(cmd *cobra.Command, err error) error {
	var syntax *crl.SyntaxError
	var chosen *exitError
	if interrupted := cmd.Context().Err(); interrupted != nil {
		return interrupted
	}
	name := sourceName(i.source)
	switch {
	case errors.As(err, &chosen):
		return err
	case errors.As(err, &syntax):
		return &exitError{code: exitCritical, err: fmt.Errorf("%s: not a valid CRL: %w", name, err)}
	case errors.Is(err, crl.ErrMaxBytes):
		return &exitError{code: exitUnknown, err: fmt.Errorf("%s: above --max-bytes %d: %w", name, i.maxBytes, err), hints: []string{"a higher --max-bytes reads it: memory does not grow with the list"}}
	case errors.Is(err, context.DeadlineExceeded):
		return &exitError{code: exitUnknown, err: fmt.Errorf("%s: no whole answer within --timeout %s: %w", name, config.Span(i.timeout), err)}
	}
	return &exitError{code: exitUnknown, err: fmt.Errorf("%s: %w", name, err)}
}

// sourceURL is the source as a URL, nil where it is a file or standard input.
func sourceURL(source string) *url.URL {
	if !strings.Contains(source, "://") {
		return nil
	}
	u, err := url.Parse(source)
	if err != nil {
		return &url.URL{} // which nothing accepts
	}
	return u
}

// sourceName is the source as it may be shown: a URL without the user,
// password and query that may be secrets.
func sourceName(source string) string {
	u := sourceURL(source)
	if u == nil {
		return source
	}
	shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	return shown.String()
}

// openSource opens a file, a URL or standard input (-). Its reads end when ctx
// does, those of a URL, or the command is interrupted.
func openSource(ctx context.Context, cmd *cobra.Command, a *app, source string) (io.ReadCloser, error) {
	if source == "-" {
		return io.NopCloser(&interruptible{ctx: cmd.Context(), src: a.stdin}), nil
	}
	u := sourceURL(source)
	if u == nil {
		f, err := openFile(cmd.Context(), source)
		if err != nil {
			return nil, &exitError{code: exitUnknown, err: fmt.Errorf("reading CRL: %w", err)}
		}
		return f, nil
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, usageError(cmd, fmt.Errorf("%s: want a file, - or a URL with http or https", sourceName(source)))
	}
	return get(ctx, u)
}

// get fetches a URL until ctx ends. Redirects are not followed: what is
// inspected is what the URL itself serves.
func get(ctx context.Context, u *url.URL) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, errors.New("not a URL that can be asked for")
	}
	request.Header.Set("User-Agent", "pkiwarden/"+readBuild().Version)
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		var withURL *url.Error // which repeats the whole URL
		if errors.As(err, &withURL) {
			err = withURL.Err
		}
		return nil, err
	}
	if response.StatusCode == http.StatusOK {
		return response.Body, nil
	}
	response.Body.Close()
	status := strings.TrimSpace(fmt.Sprintf("%d %s", response.StatusCode, http.StatusText(response.StatusCode))) // not the server's words
	if to, err := response.Location(); err == nil {
		return nil, fmt.Errorf("the answer is %s: redirects are not followed, give %s itself", status, sourceName(to.String()))
	}
	return nil, fmt.Errorf("the answer is %s", status)
}
