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
	"regexp"
	"strings"
	"unicode"

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
	in, err := openSource(ctx, cmd, a, i.source, i.maxBytes)
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
		invalid := &exitError{code: exitCritical, err: fmt.Errorf("%s: not a valid CRL: %w", name, err)}
		if list := vaultList(sourceURL(i.source)); list != "" {
			invalid.hints = []string{fmt.Sprintf("that is where Vault answers in JSON: the list itself is at %s", list)}
		}
		return invalid
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

// vaultJSON are the paths at which Vault answers with JSON around a list, and
// where the list itself is (builtin/logical/pki, path_fetch.go and
// path_fetch_issuers.go).
var vaultJSON = []struct {
	path *regexp.Regexp
	list string
}{
	{regexp.MustCompile(`^(/v1/.+/issuer/[^/]+/(?:unified-)?crl(?:/delta)?)$`), "$1/der"},
	{regexp.MustCompile(`^(/v1/.+)/cert/((?:unified-)?)crl$`), "$1/${2}crl"},
	{regexp.MustCompile(`^(/v1/.+)/cert/((?:unified-)?)delta-crl$`), "$1/${2}crl/delta"},
}

// vaultList is where Vault has the list that it wraps in JSON at u, "" where u
// is no such place.
func vaultList(u *url.URL) string {
	if u == nil {
		return ""
	}
	for _, v := range vaultJSON {
		if v.path.MatchString(u.Path) {
			list := url.URL{Scheme: u.Scheme, Host: u.Host, Path: v.path.ReplaceAllString(u.Path, v.list)}
			return list.String()
		}
	}
	return ""
}

// sourceName is the source as it may be shown: a URL without the user,
// password and query that may be secrets.
func sourceName(source string) string {
	u := sourceURL(source)
	switch {
	case u == nil:
		return source
	case *u == url.URL{}:
		return "the URL given" // any part of it may be the secret one
	}
	shown := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
	return shown.String()
}

// openSource opens a file, a URL or standard input (-). Its reads end when ctx
// does, those of a URL, or the command is interrupted.
func openSource(ctx context.Context, cmd *cobra.Command, a *app, source string, maxBytes int64) (io.ReadCloser, error) {
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
	if *u == (url.URL{}) {
		problem := "no valid URL"
		if strings.ContainsFunc(source, unicode.IsControl) {
			problem += ": there is a control character in it"
		}
		return nil, usageError(cmd, fmt.Errorf("%s: %s; want a file, - or a URL with http or https", sourceName(source), problem))
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, usageError(cmd, fmt.Errorf("%s: want a file, - or a URL with http or https", sourceName(source)))
	}
	return get(ctx, u, maxBytes)
}

// get fetches a URL until ctx ends. Redirects are not followed: what is
// inspected is what the URL itself serves. An answer that is announced as larger
// than any encoding of a list of maxBytes is not read at all.
func get(ctx context.Context, u *url.URL, maxBytes int64) (io.ReadCloser, error) {
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
		if n := response.ContentLength; (n-1<<20)/2 > maxBytes { // see crl.Options
			response.Body.Close()
			return nil, fmt.Errorf("an answer of %d bytes: %w", n, crl.ErrMaxBytes)
		}
		return response.Body, nil
	}
	response.Body.Close()
	status := strings.TrimSpace(fmt.Sprintf("%d %s", response.StatusCode, http.StatusText(response.StatusCode))) // not the server's words
	if to, err := response.Location(); err == nil {
		return nil, fmt.Errorf("the answer is %s: redirects are not followed%s", status, advice(u, to))
	}
	return nil, fmt.Errorf("the answer is %s", status)
}

// advice is what to do about a redirect. It shows no query, which may be a
// secret, but says which one is meant.
func advice(from, to *url.URL) string {
	if to.Scheme != "http" && to.Scheme != "https" || to.Host == "" {
		return ", and this one leads to no http or https URL"
	}
	there := sourceName(to.String())
	switch {
	case there == sourceName(from.String()) && to.RawQuery == from.RawQuery:
		return ", and this one leads to itself"
	case to.RawQuery == "":
		return ", give " + there + " itself"
	case to.RawQuery == from.RawQuery:
		return ", give " + there + " itself, with the same query"
	}
	return ", give " + there + " itself, with the query of the answer's Location header, which is not shown here"
}
