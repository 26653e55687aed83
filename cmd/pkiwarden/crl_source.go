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
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pkiwarden/pkiwarden/crl"
)

// readCertificate reads the issuer's certificate, PEM or DER. Without a file it
// is nil.
func readCertificate(cmd *cobra.Command, file string) (*x509.Certificate, error) {
	if file == "" {
		return nil, nil
	}
	const most = 1 << 20
	f, err := os.Open(file)
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

// scanSource scans the list. One that is not valid is exit code 2; a source
// that cannot be read is exit code 3.
func scanSource(cmd *cobra.Command, a *app, i inspection) (crl.Summary, error) {
	ctx, cancel := context.WithTimeout(cmd.Context(), i.timeout)
	defer cancel()
	in, err := openSource(ctx, cmd, a, i.source)
	if err != nil {
		return crl.Summary{}, err
	}
	type result struct {
		summary crl.Summary
		err     error
	}
	done := make(chan result, 1)
	go func() { // a read of standard input cannot be interrupted
		defer in.Close()
		summary, err := crl.Scan(in, crl.Options{MaxBytes: i.maxBytes})
		done <- result{summary, err}
	}()
	var r result
	select {
	case <-cmd.Context().Done():
		return crl.Summary{}, cmd.Context().Err()
	case r = <-done:
	}
	var syntax *crl.SyntaxError
	switch {
	case r.err == nil:
		return r.summary, nil
	case errors.As(r.err, &syntax), errors.Is(r.err, crl.ErrTooLarge):
		return crl.Summary{}, &exitError{code: exitCritical, err: fmt.Errorf("%s: not a valid CRL: %w", i.source, r.err)}
	default:
		return crl.Summary{}, &exitError{code: exitUnknown, err: fmt.Errorf("%s: %w", i.source, r.err)}
	}
}

// openSource opens a file, a URL or standard input (-).
func openSource(ctx context.Context, cmd *cobra.Command, a *app, source string) (io.ReadCloser, error) {
	if source == "-" {
		return io.NopCloser(a.stdin), nil
	}
	if scheme, _, isURL := strings.Cut(source, "://"); isURL {
		if u, err := url.Parse(source); err != nil || scheme != "http" && scheme != "https" || u.Host == "" {
			return nil, usageError(cmd, fmt.Errorf("%s: want a file, - or a URL with http or https", source))
		}
		body, err := get(ctx, source)
		if err != nil {
			return nil, &exitError{code: exitUnknown, err: fmt.Errorf("fetching CRL: %w", err)}
		}
		return body, nil
	}
	f, err := os.Open(source)
	if err != nil {
		return nil, &exitError{code: exitUnknown, err: fmt.Errorf("reading CRL: %w", err)}
	}
	return f, nil
}

// get fetches a URL until ctx ends. Redirects are not followed: what is
// inspected is what the URL itself serves.
func get(ctx context.Context, source string) (io.ReadCloser, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, source, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", "pkiwarden/"+readBuild().Version)
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode == http.StatusOK {
		return response.Body, nil
	}
	response.Body.Close()
	if to := response.Header.Get("Location"); to != "" {
		return nil, fmt.Errorf("%s answers %s: redirects are not followed, give %s itself", source, response.Status, to)
	}
	return nil, fmt.Errorf("%s answers %s", source, response.Status)
}
