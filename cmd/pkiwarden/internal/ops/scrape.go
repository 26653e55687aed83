package ops

import (
	"compress/gzip"
	"log/slog"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// scrape answers with the metrics: first those of most collectors, gathered at
// once, then family by family those of which there can be many ([Registry.Many]),
// each written before the next is gathered. All of ten thousand certificates
// would else be in memory together.
func (s *Server) scrape(w http.ResponseWriter, r *http.Request) {
	defer s.scraped.Add(-1)
	if s.scraped.Add(1) > maxScrapes {
		answer(w, http.StatusServiceUnavailable, "too many ask for the metrics at once\n")
		return
	}
	// What is in between compresses the whole, and none of its parts.
	out := &scraped{ResponseWriter: w}
	if acceptsGzip(r.Header) {
		w.Header().Set("Content-Encoding", "gzip")
		out.zip, _ = gzip.NewWriterLevel(w, gzip.BestSpeed)
		defer out.end()
	}
	options := promhttp.HandlerOpts{
		ErrorLog:           slog.NewLogLogger(s.o.Log.Handler(), slog.LevelWarn),
		ErrorHandling:      promhttp.ContinueOnError,
		DisableCompression: true,
	}
	most := options
	most.Timeout = scrapeWithin
	promhttp.HandlerFor(s.o.Gatherer, most).ServeHTTP(out, r)
	if s.o.Many == nil {
		return
	}
	for _, family := range s.o.Many() {
		if out.failed {
			return
		}
		promhttp.HandlerFor(family, options).ServeHTTP(out, r)
	}
}

// scraped is an answer that is written in parts.
type scraped struct {
	http.ResponseWriter
	zip    *gzip.Writer // nil: it is not compressed
	begun  bool
	failed bool
	broken bool // it failed when part of it was written
}

// WriteHeader writes the first, and notices an error, whose text is not
// compressed.
func (s *scraped) WriteHeader(status int) {
	if status != http.StatusOK {
		s.failed = true
	}
	if s.begun {
		s.broken = s.failed
		return
	}
	s.begun = true
	if s.failed {
		s.Header().Del("Content-Encoding")
		s.zip = nil
	}
	s.ResponseWriter.WriteHeader(status)
}

func (s *scraped) Write(data []byte) (int, error) {
	if !s.begun {
		s.WriteHeader(http.StatusOK)
	}
	if s.broken {
		return len(data), nil // an error's text is no metric; it is in the log
	}
	if s.zip == nil {
		return s.ResponseWriter.Write(data)
	}
	return s.zip.Write(data)
}

func (s *scraped) end() {
	if s.zip != nil {
		_ = s.zip.Close()
	}
}

// acceptsGzip tells whether an answer may be compressed (RFC 9110 section 12.5.3).
func acceptsGzip(h http.Header) bool {
	for _, accepted := range h.Values("Accept-Encoding") {
		for one := range strings.SplitSeq(accepted, ",") {
			coding, weight, weighted := strings.Cut(strings.ReplaceAll(one, " ", ""), ";")
			if strings.EqualFold(coding, "gzip") && (!weighted || strings.Trim(weight, "qQ=0.") != "") {
				return true
			}
		}
	}
	return false
}

// many is a collector that says so of itself.
type many interface{ Many() bool }

func isMany(c prometheus.Collector) bool {
	m, says := c.(many)
	return says && m.Many()
}
