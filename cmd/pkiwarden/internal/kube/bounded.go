package kube

import (
	"context"
	"io"
	"net/http"
	"time"
)

// bounded gives every request but a watch a deadline, to the last byte of its
// answer, and a size cap. Watches last as long as their callers' contexts.
type bounded struct {
	next    http.RoundTripper
	timeout time.Duration
	maxBody int64
}

func (b *bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	switch r.URL.Query().Get("watch") {
	case "1", "true":
		return b.next.RoundTrip(r)
	}
	ctx, cancel := context.WithTimeout(r.Context(), b.timeout)
	resp, err := b.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = &cancelBody{http.MaxBytesReader(nil, resp.Body, b.maxBody), cancel}
	return resp, nil
}

// WrappedRoundTripper lets client-go reach the transport below.
func (b *bounded) WrappedRoundTripper() http.RoundTripper { return b.next }

type cancelBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *cancelBody) Close() error {
	b.cancel()
	return b.ReadCloser.Close()
}
