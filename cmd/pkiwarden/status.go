package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/ops"
)

const (
	statusPath   = "/status.json"
	statusWithin = 10 * time.Second
	// statusOld is how far the document's own time may be from ours.
	statusOld = 5 * time.Minute
)

func newStatusCmd(a *app) *cobra.Command {
	var address string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say what a running instance does, what waits, and why",
		Long: `Status asks a running instance what it knows: who leads; for each certificate
what it waits for and why it was not renewed yet; what is delivered to this pod
and served; for each mount of Vault its CRLs and why it is tidied or not; and
what is wrong. It asks neither Kubernetes nor Vault.

Certificates and mounts are known to the leader alone. Another instance names
it, and how to ask it.

By default the instance of this machine or pod is asked, at listen.address of
the configuration. The verdict is that of the instance that was asked.` + codes{
			0: "all is well", exitWarning: "at least one warning", exitCritical: "critical, or the output could not be written",
			exitUnknown: "something could not be determined, or no instance answered", exitUsage: "wrong usage or configuration",
			exitInterrupted: interrupted,
		}.help(),
		Example: `  pkiwarden status
  pkiwarden status --address 10.1.2.3:9402
  pkiwarden status -o json
  kubectl exec vault-0 -c pkiwarden -- /pkiwarden status`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			at, err := statusURL(cmd, a, address)
			if err != nil {
				return err
			}
			return showStatus(cmd.Context(), a, at)
		},
	}
	cmd.Flags().StringVar(&address, "address", "", "ask the instance at this `URL`, or HOST:PORT (default: listen.address of the configuration, on this machine)")
	return cmd
}

// statusURL is where to ask: the address given, else that of the configuration.
func statusURL(cmd *cobra.Command, a *app, given string) (*url.URL, error) {
	if given == "" && cmd.Flags().Changed("address") {
		return nil, usageError(cmd, errors.New("--address is empty: want HOST:PORT, or http://HOST:PORT"))
	}
	if given != "" {
		u, err := parseAddress(given)
		if err != nil {
			return nil, usageError(cmd, err)
		}
		return u, nil
	}
	cfg, err := a.config()
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(cfg.Listen.Address)
	if err != nil {
		return nil, usageError(cmd, fmt.Errorf("listen.address %q does not say where the instance is: give --address", cfg.Listen.Address))
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return &url.URL{Scheme: "http", Host: net.JoinHostPort(host, port), Path: statusPath}, nil
}

func parseAddress(given string) (*url.URL, error) {
	wrong := fmt.Errorf("--address is %q: want HOST:PORT, or http://HOST:PORT", sourceName(given))
	text := given
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("--address is no valid URL: want HOST:PORT, or http://HOST:PORT") // any part of it may be a secret
	}
	path := strings.TrimSuffix(u.Path, "/")
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || path != "" && path != statusPath {
		return nil, wrong
	}
	if u.Port() == "" && !strings.Contains(given, "://") {
		return nil, wrong
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host, Path: statusPath}, nil
}

// showStatus asks, prints, and ends with the verdict.
func showStatus(ctx context.Context, a *app, at *url.URL) error {
	data, err := fetchStatus(ctx, at)
	if err != nil {
		if interrupted := ctx.Err(); interrupted != nil {
			return interrupted
		}
		return &exitError{code: exitUnknown, err: fmt.Errorf("asking %s: %w", at, err), hints: []string{
			"an instance answers at listen.address of its configuration; --address names another one",
		}}
	}
	s, err := decodeStatus(data)
	if err != nil {
		return &exitError{code: exitUnknown, err: fmt.Errorf("asking %s: %w", at, err)}
	}
	now := a.now()
	if a.output == outputJSON {
		err = rewriteJSON(a.stdout, data)
	} else {
		err = writeStatus(a.stdout, s, now)
	}
	if err != nil {
		return err
	}
	verdict := ops.Worse("ok", s.Status)
	if outdated(s, now) {
		verdict = ops.Worse(verdict, "unknown")
	}
	code := map[string]int{"warning": exitWarning, "critical": exitCritical, "unknown": exitUnknown}[verdict]
	if code == 0 {
		return nil
	}
	return &exitError{code: code}
}

// outdated tells whether the document is not of now: from a cache, or by another
// clock.
func outdated(s ops.Status, now time.Time) bool { return now.Sub(s.At).Abs() > statusOld }

// fetchStatus gets the document. It goes through no proxy on the own machine,
// follows no redirect, and reads no more than an instance says.
func fetchStatus(ctx context.Context, at *url.URL) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, statusWithin)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, errors.New("not a URL that can be asked for")
	}
	request.Header.Set("User-Agent", "pkiwarden/"+readBuild().Version)
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true} // localhost and loopback addresses have none
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		return nil, unanswered(err)
	}
	defer response.Body.Close()
	switch status := response.StatusCode; {
	case status == http.StatusNotFound:
		return nil, fmt.Errorf("there is no %s: it is another program, or a pkiwarden older than this command", statusPath)
	case status/100 == 3:
		return nil, fmt.Errorf("the answer is %d %s: redirects are not followed", status, http.StatusText(status))
	case status != http.StatusOK:
		return nil, fmt.Errorf("the answer is %s", strings.TrimSpace(fmt.Sprintf("%d %s", status, http.StatusText(status))))
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, ops.MaxStatusBytes+1))
	if err != nil {
		return nil, unanswered(err)
	}
	if len(data) > ops.MaxStatusBytes {
		return nil, fmt.Errorf("the answer has more than %s bytes, which no pkiwarden says", grouped(ops.MaxStatusBytes))
	}
	return data, nil
}

// unanswered is the cause without the URL, which the caller names.
func unanswered(err error) error {
	var withURL *url.Error
	if errors.As(err, &withURL) {
		err = withURL.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no whole answer within %s", statusWithin)
	}
	return err
}

// decodeStatus reads what is known of the document. What another program
// answers, or a document without what every one has, is an error.
func decodeStatus(data []byte) (ops.Status, error) {
	var s ops.Status
	err := json.Unmarshal(data, &s)
	if err == nil && (s.Version == "" || s.Status == "" || s.At.IsZero()) {
		err = errors.New("it lacks status, version or at")
	}
	if err == nil {
		return s, nil
	}
	begins := strings.TrimSpace(string(data[:min(len(data), 60)]))
	return s, fmt.Errorf("the answer is not a pkiwarden's status: %w; it begins with %q", err, strings.ToValidUTF8(begins, "?"))
}

// rewriteJSON prints the document as it was received, also what this version
// does not know.
func rewriteJSON(w io.Writer, data []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var document any
	if err := decoder.Decode(&document); err != nil {
		return err
	}
	return writeJSON(w, document)
}
