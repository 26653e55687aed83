package kube

import (
	"context"
	"io"
	"net/http"
	"time"
)

// How much of an answer is read, in octets. An object of the 1.5 MiB that etcd
// stores is at most 9.5 MiB of JSON, where every octet is escaped; a page of
// several is to be asked for again as a smaller one.
const (
	maxBody   = 32 << 20
	maxObject = 10 << 20 // a page of one object
	maxPage   = 4 << 20  // a page of more
)

// bounded gives every request but a watch a deadline, to the last byte of its
// answer, and a size cap. Watches last as long as their callers' contexts.
type bounded struct {
	next    http.RoundTripper
	timeout time.Duration
	maxBody int64
}

func (b *bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	query := r.URL.Query()
	switch query.Get("watch") {
	case "1", "true":
		return b.next.RoundTrip(r)
	}
	most := b.maxBody
	switch query.Get("limit") {
	case "", "0":
	case "1":
		most = min(most, maxObject)
	default:
		most = min(most, maxPage)
	}
	ctx, cancel := context.WithTimeout(r.Context(), b.timeout)
	resp, err := b.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = &cancelBody{http.MaxBytesReader(nil, resp.Body, most), cancel}
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
