package e2e

import (
	"strings"
	"sync"
	"testing"

	"github.com/pkiwarden/pkiwarden/test/e2e/matrix"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers/serverstest"
)

// A trial of every kind of fault, and of every fifth point at which a process is
// killed; `make matrix` makes a thousand, of all.
func TestMatrix(t *testing.T) {
	t.Parallel()
	ctx := serverstest.Context(t)
	var making sync.Mutex
	var cases []string
	for n, name := range matrix.Cases() {
		if !strings.HasPrefix(name, "SIGKILL ") || n%5 == 1 {
			cases = append(cases, name)
		}
	}
	outcomes, err := matrix.Run(ctx, matrix.Options{
		Runs: len(cases), Cases: cases, Lanes: 2, Seed: 1,
		NewSet: func() (*servers.Set, error) {
			making.Lock()
			defer making.Unlock()
			return serverstest.New(t), nil
		},
	})
	must(t, err)
	if len(outcomes) != 20 {
		t.Errorf("%d trials", len(outcomes))
	}
	for _, o := range outcomes {
		if why := o.Failed(); why != "" {
			t.Errorf("%s: %s\n%s\n%s", o.Case, why, o.Command(), o.Logs)
		}
	}
	t.Log("\n" + matrix.Table(outcomes))
}
