package e2e

import (
	"sync"
	"testing"

	"github.com/pkiwarden/pkiwarden/test/e2e/matrix"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers/serverstest"
)

// One trial of each fault; `make matrix` makes a thousand.
func TestMatrix(t *testing.T) {
	t.Parallel()
	ctx := serverstest.Context(t)
	var making sync.Mutex
	outcomes, err := matrix.Run(ctx, matrix.Options{
		Runs: len(matrix.Cases()), Lanes: 3, Seed: 1,
		NewSet: func() (*servers.Set, error) {
			making.Lock()
			defer making.Unlock()
			return serverstest.New(t), nil
		},
	})
	must(t, err)
	if len(outcomes) != len(matrix.Cases()) || len(outcomes) < 29 {
		t.Errorf("%d trials", len(outcomes))
	}
	for _, o := range outcomes {
		if why := o.Failed(); why != "" {
			t.Errorf("%s, seed %d: %s\n%s", o.Case, o.Seed, why, o.Logs)
		}
	}
	table, _, _, _ := matrix.Table(outcomes)
	t.Log("\n" + table)
}
