package kube

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// throttle hands a server's wish for a pause to the caller. client-go would
// wait itself, inside the request, up to ten times and for as long as it is
// told, while the caller's deadline passes; and then the wish is lost. Here the
// answer comes back at once, as a Status whose details say after how many
// seconds to come again (see apierrors.SuggestsClientDelay).
type throttle struct{ next http.RoundTripper }

// maxStatus bounds how much of such an answer is read.
const maxStatus = 64 << 10

func (t *throttle) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(r)
	if err != nil || resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode < http.StatusInternalServerError {
		return resp, err
	}
	seconds, asked := retryAfter(resp.Header.Get("Retry-After"), time.Now())
	if !asked {
		return resp, nil
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxStatus)) // what can be read of it
	_ = resp.Body.Close()
	body, err := json.Marshal(statusOf(text, resp.StatusCode, seconds))
	if err != nil {
		return nil, err
	}
	resp.Header.Del("Retry-After")
	resp.Header.Del("Content-Encoding")
	resp.Header.Set("Content-Type", "application/json")
	resp.Header.Set("Content-Length", strconv.Itoa(len(body)))
	resp.ContentLength = int64(len(body))
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// WrappedRoundTripper lets client-go reach the transport below.
func (t *throttle) WrappedRoundTripper() http.RoundTripper { return t.next }

// statusOf is the server's own Status, or one made of its text, with the pause.
func statusOf(text []byte, code int, seconds int32) metav1.Status {
	var status metav1.Status
	if err := json.Unmarshal(text, &status); err != nil || status.Kind != "Status" {
		status = metav1.Status{Message: string(bytes.TrimSpace(text[:min(len(text), 256)]))}
		switch code {
		case http.StatusTooManyRequests:
			status.Reason = metav1.StatusReasonTooManyRequests
		case http.StatusServiceUnavailable:
			status.Reason = metav1.StatusReasonServiceUnavailable
		default:
			status.Reason = metav1.StatusReasonInternalError
		}
	}
	status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	status.Status, status.Code = metav1.StatusFailure, int32(code)
	if status.Details == nil {
		status.Details = &metav1.StatusDetails{}
	}
	status.Details.RetryAfterSeconds = max(status.Details.RetryAfterSeconds, seconds)
	return status
}

// retryAfter reads both forms of the header (RFC 9110 section 10.2.3).
func retryAfter(value string, now time.Time) (seconds int32, asked bool) {
	if n, err := strconv.ParseInt(value, 10, 32); err == nil {
		return int32(max(n, 0)), true
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	return int32(max(at.Sub(now)+time.Second-1, 0) / time.Second), true
}
