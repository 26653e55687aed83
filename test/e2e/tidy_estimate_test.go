package e2e

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/crl/watch"
	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier"
	"github.com/pkiwarden/pkiwarden/pki/tidier/tidiertest"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
)

// ripens is how long the certificates of a story live that tidy is to take off,
// and remains those that it is not.
const (
	ripens  = "7s"
	remains = "50m"
)

type noLimit struct{}

func (noLimit) Limit(context.Context) crl.Limit { return crl.Limit{} }

// estimator is a tidier that measures as a running instance does, and begins
// without knowing anything.
func (v *tidyVault) estimator(state *tidiertest.State, sampleSize int) *tidier.Tidier {
	v.t.Helper()
	lists, err := watch.New(watch.Options{Vault: v.vault, Limits: noLimit{}, Thresholds: crl.Thresholds{
		Warn: crl.Threshold{Share: 0.6}, Critical: crl.Threshold{Share: 0.8},
	}})
	must(v.t, err)
	tr, err := tidier.New(tidier.Options{
		Vault: v.vault, CRLs: lists, State: state, Identity: "estimator", SampleSize: sampleSize,
		Policy: pki.Policy{
			SafetyBuffer: time.Second, AllowShortSafetyBuffer: true,
			Trigger: pki.Trigger{ReclaimableShare: 0.1}, CertStore: true, Rotate: true, Settle: time.Nanosecond,
		},
	})
	must(v.t, err)
	return tr
}

// ripe waits until what was revoked with the short life is past the buffer.
func (v *tidyVault) ripe() {
	v.t.Helper()
	life, err := time.ParseDuration(ripens)
	must(v.t, err)
	time.Sleep(life + 3*time.Second)
}

func (v *tidyVault) deletes(tr *tidier.Tidier) (predicted, deleted int64, reason string) {
	v.t.Helper()
	reports, err := tr.Tidy(v.ctx, tidier.Request{Force: true, Wait: true})
	must(v.t, err)
	if len(reports) != 1 || !reports[0].Run || reports[0].Result == nil || reports[0].Result.Deleted == nil {
		v.t.Fatalf("reports %+v", reports)
	}
	r := reports[0]
	v.t.Logf("%s: predicted %d, Vault deleted %d", r.Reason, r.Predicted.Reclaimable, *r.Result.Deleted)
	return r.Predicted.Reclaimable, *r.Result.Deleted, r.Reason
}

func (v *tidyVault) estimates(tr *tidier.Tidier) (predicted int64, reason string) {
	v.t.Helper()
	reports, err := tr.Tidy(v.ctx, tidier.Request{DryRun: true})
	must(v.t, err)
	if len(reports) != 1 {
		v.t.Fatalf("reports %+v", reports)
	}
	v.t.Logf("%s: predicted %d", reports[0].Reason, reports[0].Predicted.Reclaimable)
	return reports[0].Predicted.Reclaimable, reports[0].Reason
}

var stated = regexp.MustCompile(`about (\d+) ± (\d+)`)

// margin is the error that an estimate states.
func (v *tidyVault) margin(reason string) int64 {
	v.t.Helper()
	found := stated.FindStringSubmatch(reason)
	if found == nil {
		v.t.Fatalf("no error is stated: %s", reason)
	}
	margin, err := strconv.ParseInt(found[2], 10, 64)
	must(v.t, err)
	return margin
}

func (v *tidyVault) contains(reason, want string) {
	v.t.Helper()
	if !strings.Contains(reason, want) {
		v.t.Errorf("reason %q, want … %s …", reason, want)
	}
}

// What is predicted is what Vault then deletes: within the error that is
// stated, and exactly where none is.
func TestTidyEstimate(t *testing.T) {
	t.Parallel()
	v := startTidyVault(t, servers.VaultOptions{}, true)
	role := func(longest string) {
		v.write("pki/roles/brief", map[string]any{"allow_any_name": true, "enforce_hostnames": false, "key_type": "ec", "key_bits": 256, "max_ttl": longest})
	}
	role("55m")

	// 60 that ended are gone from the certificate store, but not from the list:
	// somebody tidies only the store.
	v.revoke(60, ripens)
	v.ripe()
	v.write("pki/tidy", map[string]any{"tidy_cert_store": true, "safety_buffer": "1s"})
	eventually(t, v.ctx, 30*time.Second, "the certificate store is tidied", func(ctx context.Context) error {
		s, err := v.vault.TidyStatus(ctx, v.mount)
		if err == nil && (s.State != pki.TidyFinished || s.CertStoreDeleted < 60) {
			err = fmt.Errorf("state %s, %d deleted", s.State, s.CertStoreDeleted)
		}
		return err
	})
	v.revoke(140, remains)
	v.revoke(100, ripens)
	must(t, v.vault.Rotate(v.ctx, v.mount))
	v.ripe()

	// By dates alone all 300 are in question. 240 can be read.
	state := new(tidiertest.State)
	predicted, deleted, reason := v.deletes(v.estimator(state, 0))
	v.contains(reason, "about 130 ± 30 of 300 entries are reclaimable (sample of 300; the certificates of 60 are no longer stored)")
	if predicted != 130 || deleted != 160 {
		t.Errorf("predicted %d, deleted %d, want 130 and 160", predicted, deleted)
	}

	v.revoke(160, ripens)
	must(t, v.vault.Rotate(v.ctx, v.mount))
	v.ripe()

	// With room for 100 certificates the estimate has an error. It may be beyond
	// that in 5 of 100 cases, and hardly ever twice as far.
	predicted, reason = v.estimates(v.estimator(state, 400))
	margin := v.margin(reason)
	v.contains(reason, "of 300 entries")
	if off := max(predicted-160, 160-predicted); margin == 0 || margin > 60 || off > 2*margin {
		t.Errorf("predicted %d ± %d, the truth is 160", predicted, margin)
	}

	// A role that was shortened makes a bound that does not hold: by it, all 300
	// would be reclaimable. Certificates that were read say otherwise.
	role(ripens)
	predicted, reason = v.estimates(v.estimator(state, 0))
	v.contains(reason, "160 of 300 entries")
	if predicted != 160 {
		t.Errorf("predicted %d with a shortened role, want 160", predicted)
	}
	role("55m")

	predicted, deleted, reason = v.deletes(v.estimator(state, 0))
	v.contains(reason, "forced; 160 of 300 entries are reclaimable")
	if predicted != 160 || deleted != 160 {
		t.Errorf("predicted %d, deleted %d, want 160 exactly", predicted, deleted)
	}
	lists, err := v.Measure(v.ctx, v.mount)
	must(t, err)
	if n := pki.SizeOf(lists).Entries; n != 140 {
		t.Errorf("%d entries are left, want 140", n)
	}
}
