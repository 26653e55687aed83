package tidier_test

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier"
	"github.com/pkiwarden/pkiwarden/pki/tidier/tidiertest"
)

// full is a world whose storage takes lists of about 200 entries: 100 long
// expired and 40 live ones are served, and more were revoked since, of which
// Vault could not write a list.
func full(t *testing.T, ripe, live int, change ...func(*tidiertest.Mount)) (*world, *tidiertest.Rescued) {
	t.Helper()
	begin := time.Now()
	w := newWorld(t, func(m *tidiertest.Mount) {
		m.Revoked, m.Enforce = nil, true
		m.Limit = crl.Storage{Backend: "raft", VaultVersion: "1.21.1", Raft: crl.RaftLimits{MaxEntrySize: 8192}}.Limit()
		m.Revoke(100, begin.Add(-200*hour), begin.Add(-190*hour)) // numbers 401 to 500
		m.Revoke(40, begin.Add(-hour), begin.Add(20*hour))        // 501 to 540
	})
	w.vault.Change(func(_ *pki.Health, mounts []*tidiertest.Mount) {
		mounts[0].Revoke(ripe, begin.Add(-200*hour), begin.Add(-190*hour))
		mounts[0].Revoke(live, begin.Add(-hour), begin.Add(20*hour))
		for _, f := range change {
			f(mounts[0])
		}
	})
	return w, &tidiertest.Rescued{Vault: w.vault}
}

func (w *world) rescue(r *tidiertest.Rescued, apply bool, mounts ...string) (tidier.RescueReport, error) {
	w.t.Helper()
	reports, err := w.instance("job").Rescue(w.t.Context(), tidier.RescueRequest{Vault: r, Lists: r, Apply: apply, Mounts: mounts})
	if len(reports) != 1 {
		w.t.Fatalf("%d reports, %v", len(reports), err)
	}
	return reports[0], err
}

func in(t *testing.T, f func(*testing.T)) { t.Helper(); synctest.Test(t, f) }

func TestRescuePlansAndChangesNothing(t *testing.T) {
	in(t, func(t *testing.T) {
		w, r := full(t, 80, 20)
		r.Vault.Before = func(op string, _ pki.Mount) error {
			if op == "StartTidy" || op == "Rotate" || op == "CancelTidy" {
				t.Errorf("asked for %s", op)
			}
			return nil
		}
		got, err := w.rescue(r, false)
		if err != nil || got.Status != pki.RescueOver || got.Verdict != "over the limit: steps 1, 6 and 7 are enough" || got.Complete || got.Proof != nil || got.Refused != "" {
			t.Errorf("%+v, %v", got, err)
		}
		l := got.Lists[0]
		if l.Served.Entries != 140 || l.Next.Entries != 240 || l.Missing != 100 || l.Stale != 0 || l.Read != 240 || r.Reads != 240 {
			t.Errorf("list %+v, %d reads", l, r.Reads)
		}
		if after := got.Steps[0].After[0]; after.Entries != 60 || !*after.Fits {
			t.Errorf("after tidy %+v", after)
		}
		if !slices.Equal(got.Remains, []int{1, 6, 7}) {
			t.Errorf("remains %v", got.Remains)
		}
		if w.record().Version != 0 {
			t.Errorf("record %+v", w.record())
		}
	})
}

// Tidy, crl/rotate and the proof, whether or not tidy rebuilds the list itself.
func TestRescueApplies(t *testing.T) {
	for _, auto := range []bool{false, true} {
		t.Run(fmt.Sprintf("auto_rebuild=%t", auto), func(t *testing.T) {
			in(t, func(t *testing.T) {
				w, r := full(t, 80, 20, func(m *tidiertest.Mount) { m.Config.AutoRebuild = auto })
				w.policy.Trigger, w.policy.Enabled = pki.Trigger{}, false
				got, err := w.rescue(r, true)
				if err != nil || !got.Complete || len(got.Remains) != 0 || got.Status != pki.RescueFits {
					t.Fatalf("%+v, %v", got, err)
				}
				p := got.Proof
				if p.Kept != 60 || p.Unexpired != 60 || p.Found != 60 || p.Lost != 0 || p.Expired != 100 || len(p.Lists) != 1 || p.Lists[0].Entries != 60 || *p.Lists[0].Room < 130 || *p.Lists[0].Room > 145 {
					t.Errorf("proof %+v", p)
				}
				if got.Verdict != "rescued: all 60 revoked certificates that have not expired are on the lists; 100 expired ones were taken off" {
					t.Error(got.Verdict)
				}
				if got.Steps[0].Done != "deleted 180 revocations" || got.Steps[5].Done != "the tidy did" || got.Steps[6].Done == "" {
					t.Errorf("done %q %q %q", got.Steps[0].Done, got.Steps[5].Done, got.Steps[6].Done)
				}
				w.want("runs", float64(w.mount.Runs), 1)
				w.concluded(1, pki.OutcomeOK, "")
				// Again: nothing is left to do.
				got, err = w.rescue(r, true)
				if err != nil || !got.Complete || got.Proof != nil {
					t.Errorf("again: %+v, %v", got, err)
				}
				w.want("runs", float64(w.mount.Runs), 1)
			})
		})
	}
}

// What tidy leaves does not fit: the rescue stops before what is not its own,
// without asking for a list that cannot be written. The limit raised, it goes on.
func TestRescueStopsBeforeWhatIsNotOurs(t *testing.T) {
	in(t, func(t *testing.T) {
		w, r := full(t, 80, 220)
		rotations := 0
		r.Vault.Before = func(op string, _ pki.Mount) error {
			if op == "Rotate" {
				rotations++
			}
			return nil
		}
		got, err := w.rescue(r, true)
		if err != nil || got.Complete || got.Status != pki.RescueOver || !strings.HasPrefix(got.Verdict, "over the limit: not enough without one of the steps 3, 4 and 5") {
			t.Fatalf("%+v, %v", got, err)
		}
		if got.Steps[0].Done != "deleted 180 revocations" || !slices.Equal(got.Remains, []int{3, 4, 5, 6, 7}) {
			t.Errorf("done %q, remains %v", got.Steps[0].Done, got.Remains)
		}
		// The run itself tries once, at its end; the rescue does not.
		w.want("rotations", float64(rotations), 1)
		set := got.Steps[2].Ways[0][0]
		if set.Name != "max_entry_size" || set.Least <= 8192 || set.Value <= set.Least {
			t.Errorf("setting %+v", set)
		}

		w.vault.Change(func(_ *pki.Health, mounts []*tidiertest.Mount) {
			mounts[0].Limit = crl.Storage{Backend: "raft", Raft: crl.RaftLimits{MaxEntrySize: set.Least}}.Limit()
		})
		got, err = w.rescue(r, false)
		if err != nil || got.Status != pki.RescueStale || got.Complete {
			t.Errorf("with the limit raised: %+v, %v", got, err)
		}
		got, err = w.rescue(r, true)
		if err != nil || !got.Complete || got.Proof.Unexpired != 260 || got.Proof.Found != 260 || got.Proof.Unstored != 100 || got.Steps[5].Done != "rebuilt" || got.Steps[0].Done != "" {
			t.Errorf("with the limit raised: %+v, %+v, %v", got, got.Proof, err)
		}
	})
}

// An unknown limit is found by trying.
func TestRescueWithoutALimit(t *testing.T) {
	in(t, func(t *testing.T) {
		w, r := full(t, 0, 220, func(m *tidiertest.Mount) { m.Revoked = m.Revoked[100:] })
		w.vault.After = func(op string, _ pki.Mount) error {
			if op == "Rotate" {
				return &pki.TooLargeError{Limit: 8192, Message: "put failed due to value being too large; got 10600 bytes, max: 8192 bytes"}
			}
			return nil
		}
		w.vault.Change(func(_ *pki.Health, mounts []*tidiertest.Mount) {
			mounts[0].Limit = crl.Limit{Backend: "raft", Rule: "may not read max_entry_size"}
		})
		got, err := w.rescue(r, false)
		if err != nil || got.Status != pki.RescueUnknown || got.Enough != nil || !strings.Contains(got.Verdict, "may not read max_entry_size") {
			t.Errorf("%+v, %v", got, err)
		}
		got, err = w.rescue(r, true)
		if err != nil || got.Status != pki.RescueOver || got.Complete || len(got.Steps[2].Ways) != 1 || got.Steps[2].Ways[0][0].Name != "max_entry_size" || !slices.Contains(got.Remains, 3) {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

// A missing right is named before anything is done.
func TestRescueRefused(t *testing.T) {
	for path, capability := range map[string]string{"pki/tidy": "update", "pki/crl/rotate": "read"} {
		in(t, func(t *testing.T) {
			w, r := full(t, 80, 20)
			r.Denied = []string{path}
			want := fmt.Sprintf("permission denied: needs capability %q on path %q", capability, path)
			got, err := w.rescue(r, false)
			if err != nil || got.Refused != want {
				t.Errorf("plan: %+v, %v", got, err)
			}
			got, err = w.rescue(r, true)
			var denied *pki.PermissionError
			if !errors.As(err, &denied) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "before anything was changed") || got.Complete {
				t.Errorf("%+v, %v", got, err)
			}
			w.want("runs", float64(w.mount.Runs), 0)
			w.want("rotations", float64(w.mount.Rotations), 0)
		})
	}
	in(t, func(t *testing.T) { // it may not ask: it goes on
		w, r := full(t, 80, 20)
		r.Silent = true
		got, err := w.rescue(r, false)
		if err != nil || got.Steps[0].Capability.Granted != nil {
			t.Errorf("plan: %+v, %v", got, err)
		}
		if got, err = w.rescue(r, true); err != nil || !got.Complete {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

// Nothing is rebuilt that would take a certificate off the list which is
// revoked, has not expired, and whose revocation Vault has lost.
func TestRescueKeepsWhatVaultLost(t *testing.T) {
	in(t, func(t *testing.T) {
		w, r := full(t, 80, 20, func(m *tidiertest.Mount) { m.Revoked = slices.Delete(m.Revoked, 120, 122) })
		r.Extra = map[int64]time.Time{521: time.Now().Add(20 * hour), 522: time.Now().Add(-hour)}
		got, err := w.rescue(r, true)
		if err == nil || !strings.Contains(err.Error(), "the served list has 1 certificates that have not expired and whose revocation Vault no longer keeps ("+tidiertest.Serial(521)+")") || got.Complete {
			t.Errorf("%+v, %v", got, err)
		}
		w.want("runs", float64(w.mount.Runs), 0)
		w.want("rotations", float64(w.mount.Rotations), 0)
	})
}

// A Vault that loses a revocation on the way is found out.
func TestRescueFindsWhatIsLost(t *testing.T) {
	in(t, func(t *testing.T) {
		w, r := full(t, 80, 20)
		w.vault.After = func(op string, _ pki.Mount) error {
			if op == "StartTidy" {
				w.vault.Change(func(_ *pki.Health, mounts []*tidiertest.Mount) {
					m := mounts[0]
					m.Revoked = slices.Delete(m.Revoked, 110, 111) // number 511, which is live
				})
			}
			return nil
		}
		got, err := w.rescue(r, true)
		if err == nil || got.Complete || got.Proof == nil || got.Proof.Lost != 1 || !slices.Equal(got.Proof.LostOnes, []string{tidiertest.Serial(511)}) || got.Proof.Unexpired != 60 {
			t.Errorf("%+v, %+v, %v", got, got.Proof, err)
		}
		if err != nil && !strings.Contains(err.Error(), "1 of 60 revoked certificates that have not expired are not on the lists: ["+tidiertest.Serial(511)+"]") {
			t.Error(err)
		}
	})
}

// Interrupted, it says where it is; called again, it goes on.
func TestRescueInterrupted(t *testing.T) {
	in(t, func(t *testing.T) {
		w, r := full(t, 80, 20)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			time.Sleep(5 * time.Second) // of the 20 that the run takes
			cancel()
		}()
		_, err := w.instance("job-1").Rescue(ctx, tidier.RescueRequest{Vault: r, Lists: r, Apply: true})
		if !errors.Is(err, context.Canceled) || !strings.HasPrefix(err.Error(), "rescue of mount pki, step 1 (tidy): ") {
			t.Errorf("error %v", err)
		}
		got, err := w.rescue(r, true)
		if err != nil || !got.Complete {
			t.Errorf("%+v, %v", got, err)
		}
		w.want("runs", float64(w.mount.Runs), 1)
	})
}

// Somebody else's run is awaited, never doubled; what it left is then ours.
func TestRescueBesideAnotherRun(t *testing.T) {
	in(t, func(t *testing.T) {
		w, r := full(t, 80, 20)
		started, err := w.vault.StartTidy(t.Context(), w.mount.Mount, pki.TidyParams{RevokedCerts: true, SafetyBuffer: 300 * hour})
		if err != nil || !started {
			t.Fatal(err)
		}
		running := time.Now()
		r.Vault.Before = func(op string, _ pki.Mount) error {
			if op == "StartTidy" && time.Since(running) < 20*time.Second {
				t.Error("a run was asked for beside another")
			}
			return nil
		}
		got, err := w.rescue(r, true)
		if err != nil || !got.Complete {
			t.Errorf("%+v, %v", got, err)
		}
		w.want("runs", float64(w.mount.Runs), 2)
	})
}

// A plan reads a part of many certificates, a rescue all of them.
func TestRescueReadsAsMuchAsItNeeds(t *testing.T) {
	in(t, func(t *testing.T) {
		w, r := full(t, 9000, 20)
		got, err := w.rescue(r, false)
		if err != nil || got.Verdict != "over the limit: steps 1, 6 and 7 are enough" || r.Reads != 2140 {
			t.Errorf("%d reads, %+v, %v", r.Reads, got, err)
		}
		after := got.Steps[0].After[0]
		// 60 stay: the 40 that are served, and 20 of 9020, of which 2000 were drawn.
		if after.EntriesLeast < 40 || after.EntriesLeast > 80 || after.Entries <= after.EntriesLeast || after.Entries > 160 || got.Lists[0].Next.Entries != 9160 {
			t.Errorf("after tidy %+v", after)
		}
		r.Reads = 0
		got, err = w.rescue(r, true)
		if err != nil || !got.Complete || got.Proof.Unexpired != 60 || r.Reads != 9160 {
			t.Errorf("%d reads, %+v, %v", r.Reads, got.Proof, err)
		}
	})
}

// Certificates that Vault no longer stores have expired, or somebody deleted
// them: the plan leaves both open, tidy knows.
func TestRescueOfWhatIsNotStored(t *testing.T) {
	in(t, func(t *testing.T) {
		w, r := full(t, 80, 20)
		r.Unstored = func(n int64) bool { return n <= 500 || n > 540 && n <= 620 }
		got, err := w.rescue(r, false)
		if err != nil || got.Enough != nil || got.Steps[0].After[0].Entries != 240 || got.Steps[0].After[0].EntriesLeast != 60 {
			t.Errorf("%+v, %v", got, err)
		}
		got, err = w.rescue(r, true)
		if err != nil || !got.Complete || got.Proof.Unstored != 100 || got.Proof.Unexpired != 60 {
			t.Errorf("%+v, %+v, %v", got, got.Proof, err)
		}
	})
}

// In a mount that rebuilds by time, what is missing comes by itself: only who
// names the mount has it rebuilt now.
func TestRescueLeavesWellAlone(t *testing.T) {
	in(t, func(t *testing.T) {
		w, r := full(t, 0, 5, func(m *tidiertest.Mount) { m.Config.AutoRebuild = true })
		got, err := w.rescue(r, true)
		if err != nil || !got.Complete || got.Proof != nil || w.mount.Rotations != 0 {
			t.Errorf("%+v, %v", got, err)
		}
		got, err = w.rescue(r, true, "pki")
		if err != nil || !got.Complete || got.Proof == nil || got.Proof.Lists[0].Entries != 145 || w.mount.Rotations != 1 || w.mount.Runs != 0 {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

// twoLists is a Vault of two issuers with a list each, and one issuer without.
type twoLists struct {
	*tidiertest.Rescued
	issuers []pki.Issuer
	of      map[string]string // issuer's name by serial number, of what is revoked
}

func (v *twoLists) Issuers(context.Context, pki.Mount) ([]pki.Issuer, error) { return v.issuers, nil }

func (v *twoLists) Revoked(_ context.Context, _ pki.Mount, each func(string) error) error {
	for serial := range v.of {
		if err := each(serial); err != nil {
			return err
		}
	}
	return nil
}

func (v *twoLists) Certificate(_ context.Context, _ pki.Mount, serial string) (*x509.Certificate, time.Time, error) {
	name := v.of[serial]
	return &x509.Certificate{RawIssuer: []byte(name), AuthorityKeyId: []byte(name), NotAfter: time.Now().Add(hour)}, time.Now(), nil
}

func (v *twoLists) Entries(_ context.Context, m pki.Mount, begin func(pki.Issuer) func(crl.Entry) error) ([]pki.CRL, error) {
	var lists []pki.CRL
	for _, i := range v.issuers[:2] {
		begin(i)
		lists = append(lists, pki.CRL{Mount: m, Issuer: i, Summary: crl.Summary{Bytes: 246}})
	}
	return lists, nil
}

// Each revocation counts for the list of its issuer; one by an issuer that is
// not there counts for the default issuer's, one by an issuer without a list for
// none.
func TestRescueTellsListsApart(t *testing.T) {
	in(t, func(t *testing.T) {
		w, r := full(t, 0, 0)
		v := &twoLists{Rescued: r, of: map[string]string{}}
		for n, name := range []string{"one", "two", "listless"} {
			v.issuers = append(v.issuers, pki.Issuer{ID: name, Name: name, Default: n == 1, Certificate: &x509.Certificate{
				Raw: []byte(name), RawSubject: []byte(name), SubjectKeyId: []byte(name), RawSubjectPublicKeyInfo: []byte(name),
				Subject: pkix.Name{CommonName: name}, SerialNumber: big.NewInt(int64(n + 1)),
			}})
		}
		for n := range int64(40) {
			v.of[tidiertest.Serial(n)] = []string{"one", "two", "listless", "deleted"}[n%4]
		}
		reports, err := w.instance("job").Rescue(t.Context(), tidier.RescueRequest{Vault: v, Lists: v})
		if err != nil || len(reports) != 1 {
			t.Fatalf("%+v, %v", reports, err)
		}
		if l := reports[0].Lists; len(l) != 2 || l[0].Issuer != "one" || l[0].Next.Entries != 10 || l[1].Issuer != "two" || l[1].Next.Entries != 20 {
			t.Errorf("lists %+v", l)
		}
	})
}
