package loop

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A loop that begins again, also in another registry, goes on counting.
func TestLoopGoesOnCounting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := NewMetrics(nil)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		once := func(context.Context) error {
			if n++; n == 1 {
				return errors.New("down")
			}
			return nil
		}
		for _, want := range []string{`loop_runs_total{loop="test",result="ok"} 1`, `loop_runs_total{loop="test",result="ok"} 2`} {
			reg := prometheus.NewRegistry()
			if err := reg.Register(m); err != nil {
				t.Fatal(err)
			}
			_, end := start(t, Options{Interval: time.Minute, Metrics: m, Once: once})
			time.Sleep(10 * time.Second)
			got := exposition(reg)
			if !strings.Contains(got, want) || !strings.Contains(got, `loop_runs_total{loop="test",result="error"} 1`) {
				t.Errorf("want %s in\n%s", want, got)
			}
			end()
			if got := exposition(reg); strings.Contains(got, `loop="test"`) {
				t.Errorf("series outlive the loop:\n%s", got)
			}
		}
	})
}
