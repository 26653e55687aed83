package vaultpki

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/pkiwarden/pkiwarden/pki"
)

// maxAnswer caps what is read of an answer, a CRL's excepted.
const maxAnswer = 8 << 20

// maxErrorText caps what is read of an error's answer.
const maxErrorText = 64 << 10

// request is one request to Vault.
type request struct {
	method    string // GET, LIST or POST
	path      string // below /v1/, as a policy names it
	namespace string // added to nothing: replaces the client's own where not empty
	query     url.Values
	since     time.Time // If-Modified-Since, unless zero
	body      any

	public bool // needs no token, and is sent without one
	system bool // lives in the root namespace only
	slow   bool // may rebuild a CRL
}

// answer is the part of Vault's answers that is common to all.
type answer struct {
	status   int
	Data     json.RawMessage `json:"data"`
	Warnings []string        `json:"warnings"`
}

// warns tells whether a warning contains text.
func (a answer) warns(text string) bool {
	for _, w := range a.Warnings {
		if strings.Contains(w, text) {
			return true
		}
	}
	return false
}

// read sends r and decodes the data of its answer into data.
func (v *Vault) read(ctx context.Context, r request, data any) error {
	a, err := v.do(ctx, r)
	if err != nil {
		return err
	}
	if len(a.Data) == 0 {
		return fmt.Errorf("reading %s: %w: answer without data", r.path, pki.ErrNotVault)
	}
	if err := json.Unmarshal(a.Data, data); err != nil {
		return fmt.Errorf("reading %s: %w: decoding answer: %w", r.path, pki.ErrNotVault, err)
	}
	return nil
}

// readBare sends r and decodes its whole answer into data: the endpoints below
// sys that have no envelope.
func (v *Vault) readBare(ctx context.Context, r request, data any) error {
	_, body, err := v.fetch(ctx, r)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, data); err != nil {
		return fmt.Errorf("reading %s: %w: decoding answer: %w", r.path, pki.ErrNotVault, err)
	}
	return nil
}

// do sends r and reads its answer. An answer without content has no data.
func (v *Vault) do(ctx context.Context, r request) (answer, error) {
	status, body, err := v.fetch(ctx, r)
	if err != nil {
		return answer{}, err
	}
	a := answer{status: status}
	if len(body) == 0 {
		return a, nil
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return answer{}, fmt.Errorf("reading %s: %w: decoding answer: %w", r.path, pki.ErrNotVault, err)
	}
	return a, nil
}

// fetch sends r and reads its answer's body, up to maxAnswer.
func (v *Vault) fetch(ctx context.Context, r request) (int, []byte, error) {
	ctx, cancel := v.deadline(ctx, r)
	defer cancel()
	resp, err := v.send(ctx, r)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return 0, nil, fmt.Errorf("reading %s: %w: %w", r.path, pki.ErrUnreachable, err)
	}
	if len(body) > maxAnswer {
		return 0, nil, fmt.Errorf("reading %s: %w: it is longer than %d bytes", r.path, pki.ErrNotVault, maxAnswer)
	}
	return resp.StatusCode, body, nil
}

func (v *Vault) deadline(ctx context.Context, r request) (context.Context, context.CancelFunc) {
	timeout := v.timeout
	if r.slow {
		timeout = v.slow
	}
	return context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %s", timeout))
}

// send sends r and returns an answer of a status below 300, whose body the
// caller reads and closes. Any other answer is an error.
func (v *Vault) send(ctx context.Context, r request) (*http.Response, error) {
	req, err := v.build(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("making request for %s: %w", quote(r.path), err)
	}
	resp, err := v.http.Do(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			if errors.Is(cause, context.Canceled) {
				return nil, fmt.Errorf("asking Vault for %s: %w", r.path, cause)
			}
			return nil, fmt.Errorf("asking Vault for %s: %w: %w", r.path, pki.ErrUnreachable, cause)
		}
		return nil, fmt.Errorf("asking Vault for %s: %w: %w", r.path, pki.ErrUnreachable, err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, v.refusal(r, resp)
}

func (v *Vault) build(ctx context.Context, r request) (*http.Request, error) {
	if err := checkPath(r.path); err != nil {
		return nil, err
	}
	ar := v.client.NewRequest(r.method, "/v1/"+r.path)
	if r.method == "LIST" {
		ar.Method = http.MethodGet
		ar.Params.Set("list", "true")
	}
	for key, values := range r.query {
		ar.Params[key] = values
	}
	if r.public {
		ar.ClientToken = ""
	}
	if ar.Headers == nil {
		ar.Headers = make(http.Header)
	}
	ar.WrapTTL = ""
	switch {
	case r.system:
		ar.Headers.Del(api.NamespaceHeaderName)
	case r.namespace != "":
		ar.Headers.Set(api.NamespaceHeaderName, r.namespace)
	}
	if !r.since.IsZero() {
		ar.Headers.Set("If-Modified-Since", r.since.UTC().Format(http.TimeFormat))
	}
	if r.body != nil {
		body, err := json.Marshal(r.body)
		if err != nil {
			return nil, err
		}
		ar.BodyBytes = body
		ar.Headers.Set("Content-Type", "application/json")
	}
	req, err := ar.ToHTTP()
	if err != nil {
		return nil, err
	}
	if ar.BodyBytes != nil {
		req.ContentLength = int64(len(ar.BodyBytes))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(ar.BodyBytes)), nil }
	}
	return req.WithContext(ctx), nil
}

// refusal turns an answer of a status of 300 or more into an error.
func (v *Vault) refusal(r request, resp *http.Response) error {
	text := errorText(resp.Body)
	switch status := resp.StatusCode; {
	case status == http.StatusNotModified:
		return fmt.Errorf("asking Vault for %s: %w", r.path, pki.ErrNotModified)
	case status < 400:
		return fmt.Errorf("asking Vault for %s: %w", r.path, redirect(v.client.Address(), resp))
	case status == http.StatusForbidden:
		return &pki.PermissionError{Path: r.path, Capability: r.capability(), InvalidToken: strings.Contains(text, "invalid token")}
	case status == http.StatusServiceUnavailable && strings.Contains(text, "sealed"):
		return fmt.Errorf("asking Vault for %s: %w", r.path, pki.ErrSealed)
	case strings.Contains(text, "no active Vault instance found"), strings.Contains(text, "active cluster node not found"), strings.Contains(text, "node is not active"):
		return fmt.Errorf("asking Vault for %s: %w: %s", r.path, pki.ErrNoActiveNode, text)
	case tooLarge(text) != nil:
		return tooLarge(text)
	case status == http.StatusTooManyRequests || status >= 500:
		return fmt.Errorf("asking Vault for %s: %w", r.path, &pki.FailingError{Status: status, RetryAfter: retryAfter(resp.Header), Message: text})
	default:
		return &pki.RefusedError{Path: r.path, Status: status, Message: text}
	}
}

// retryAfter is what an answer asks to wait, in whole seconds; 0 where it does
// not, or by a date.
func retryAfter(h http.Header) time.Duration {
	n, err := strconv.ParseUint(h.Get("Retry-After"), 10, 16)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Second
}

// capability is what a policy must grant for r.
func (r request) capability() string {
	switch r.method {
	case "LIST":
		return "list"
	case http.MethodGet:
		return "read"
	}
	return "update"
}

func redirect(address string, resp *http.Response) error {
	e := &pki.RedirectError{Address: address, Location: "an address that it does not name"}
	if to, err := resp.Location(); err == nil {
		e.Location = to.Scheme + "://" + to.Host
	}
	return e
}

// errorText is Vault's errors in one line.
func errorText(body io.Reader) string {
	raw, err := io.ReadAll(io.LimitReader(body, maxErrorText))
	if err != nil {
		return "its error could not be read: " + err.Error()
	}
	var e struct {
		Errors []string `json:"errors"`
	}
	if json.Unmarshal(raw, &e) != nil {
		const enough = 200
		return strconv.QuoteToASCII(string(raw[:min(len(raw), enough)]))
	}
	text := strings.Join(strings.Fields(strings.Join(e.Errors, "; ")), " ")
	return cmp.Or(printable(text), "no error named")
}

// The ways in which Vault's storage, and Vault itself, say that a value is too
// large. Consul's body limit is not recognised by Vault 1.21, which passes
// Consul's words on (physical/consul/consul.go).
var tooLargeForms = []*regexp.Regexp{
	regexp.MustCompile(`max value size for key \S+ is (\d+)`),                                   // raft, the value
	regexp.MustCompile(`put failed due to value being too large.*max: (\d+)`),                   // raft, the entry
	regexp.MustCompile(`Request body(?:\(\d+ bytes\))? too large, max size: (\d+)`),             // Consul, transaction or KV body
	regexp.MustCompile(`is too large \(\d+ > (\d+) bytes\)`),                                    // Consul, KV value in a transaction
	regexp.MustCompile(`[Vv]alue.*exceeds (\d+) byte limit`),                                    // Consul, KV value
	regexp.MustCompile(`revocation list size \(\d+\) exceeds configured maximum \((\d+)\)`),     // max_crl_entries
	regexp.MustCompile(`put failed due to value being too large()|[Vv]alue exceeds .* limit()`), // any other
}

// tooLarge is the error that text stands for, nil when it is another one.
func tooLarge(text string) error {
	for _, form := range tooLargeForms {
		if m := form.FindStringSubmatch(text); m != nil {
			limit, _ := strconv.ParseInt(m[1], 10, 64) // 0 where it names none
			return &pki.TooLargeError{Limit: limit, Message: printable(text)}
		}
	}
	return nil
}

// seconds is a duration as Vault's JSON gives it: a number of seconds or a
// string such as "72h".
type seconds time.Duration

// UnmarshalJSON accepts both forms, and null as zero.
func (s *seconds) UnmarshalJSON(raw []byte) error {
	text := strings.Trim(string(raw), `"`)
	if text == "null" || text == "" {
		*s = 0
		return nil
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		*s = seconds(time.Duration(n) * time.Second)
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("decoding duration: %w", err)
	}
	*s = seconds(d)
	return nil
}
