package watch_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/crl/watch"
	"github.com/pkiwarden/pkiwarden/crl/watch/watchtest"
)

// What is known of each list is shown with its moment: also what a reading that
// failed left in place.
func TestStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		if all := b.watch.Status(); len(all) != 0 {
			t.Errorf("before the first look: %+v", all)
		}
		m := b.vault.Mount("pki")
		b.vault.Issuer(m, "root", watchtest.IssuerOptions{})
		b.vault.Issuer(m, "imported", watchtest.IssuerOptions{NoKey: true})
		b.publish(m, "root", 3)
		at := time.Now()
		b.once()

		only := func() (root, imported watch.ListStatus) {
			t.Helper()
			all := b.watch.Status()
			if len(all) != 1 || all[0].Mount.Name() != "pki" || !all[0].Listed || all[0].Err != nil {
				t.Fatalf("mounts %+v", all)
			}
			for _, l := range all[0].Lists {
				switch l.Issuer {
				case "root":
					root = l
				case "imported":
					imported = l
				}
			}
			return root, imported
		}
		root, imported := only()
		if root.Err != nil || !root.MeasuredAt.Equal(at) || root.Bytes != int64(len(b.vault.List(m, "root"))) || root.Entries != 3 ||
			root.Limit != 1000000 || root.Rule != "a rule" || !root.NextUpdate.Equal(at.Truncate(time.Second).Add(72*time.Hour)) || !root.LimitReachedAt.IsZero() || root.CannotSign {
			t.Errorf("the list: %+v", root)
		}
		if imported.Issuer != "" && (!imported.CannotSign || !imported.MeasuredAt.IsZero()) {
			t.Errorf("a list that is none: %+v", imported)
		}

		b.vault.FailCRL(m, "root", errors.New("broken pipe"))
		time.Sleep(10 * time.Minute)
		_ = b.watch.Once(t.Context())
		if root, _ = only(); root.Err == nil || !root.MeasuredAt.Equal(at) || root.Entries != 3 {
			t.Errorf("after a reading that failed: %+v", root)
		}
	})
}
