package watch_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/crl/watch"
	"github.com/pkiwarden/pkiwarden/crl/watch/watchtest"
)

// A list of a mount that is measured for tidy alone is news where it is another
// one than before, and else for who looks for mistakes.
func TestUnwatchedListIsToldOfOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		b := newBench(t, func(o *watch.Options) {
			o.Mounts = []string{"!pki"}
			o.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		})
		m := b.vault.Mount("pki")
		b.vault.Issuer(m, "root", watchtest.IssuerOptions{})
		told := func(level string) int {
			return strings.Count(log.String(), "level="+level+` msg="CRL measured" mount=pki issuer=root`)
		}
		for i, want := range []struct {
			entries     int // published before; 0: as before
			info, debug int
		}{{5, 1, 0}, {0, 1, 1}, {0, 1, 2}, {6, 2, 2}, {0, 2, 3}} {
			if want.entries > 0 {
				b.publish(m, "root", want.entries)
			}
			if _, err := b.watch.Measure(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			if told("INFO") != want.info || told("DEBUG") != want.debug {
				t.Errorf("after measurement %d: told of %d times, and %d at DEBUG; want %d and %d:\n%s", i+1, told("INFO"), told("DEBUG"), want.info, want.debug, log.String())
			}
			time.Sleep(10 * time.Minute)
		}
	})
}
