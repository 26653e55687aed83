package tidier

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

// RescueVault is what a rescue reads beyond what a tidy does.
type RescueVault interface {
	Issuers(context.Context, pki.Mount) ([]pki.Issuer, error)
	// Revoked calls each with the serial number of every revocation that the
	// mount keeps, octets in hexadecimal. An answer that is cut short is an error.
	Revoked(ctx context.Context, m pki.Mount, each func(serial string) error) error
	// Certificate is nil without an error where Vault stores none, and the time
	// zero where it was not revoked.
	Certificate(ctx context.Context, m pki.Mount, serial string) (*x509.Certificate, time.Time, error)
	// Capabilities is what the token may do at each of the paths.
	Capabilities(ctx context.Context, m pki.Mount, paths []string) (map[string][]string, error)
}

// ListReader reads lists entry by entry.
type ListReader interface {
	// Entries calls begin for each list of the mount, and what it returns with
	// each of its entries. It returns the lists that it read, all of them whole
	// and verified where there is no error.
	Entries(ctx context.Context, m pki.Mount, begin func(pki.Issuer) func(crl.Entry) error) ([]pki.CRL, error)
}

// RescueRequest asks for a rescue.
type RescueRequest struct {
	Vault  RescueVault
	Lists  ListReader
	Mounts []string // patterns as in [Request]; none: those that Options.Mounts selects
	Apply  bool     // carry out what is pkiwarden's; else plan, and change nothing

	// Say, where set, is told what is being done; Reading how many certificates
	// were read of those that are to be.
	Say     func(m pki.Mount, words string)
	Reading func(m pki.Mount, done, total int64)
}

// RescueReport is the plan for one mount and what became of it.
type RescueReport struct {
	Mount string `json:"mount"`
	pki.RescuePlan

	// Complete tells whether nothing remains to be done: nothing was over the
	// limit, or it was proved that nothing is any more. False without Apply
	// where something is.
	Complete bool  `json:"complete"`
	Remains  []int `json:"remains"` // steps that are still needed, or of which one is

	// Stopped is why an Apply ended before it was complete, in words; "" where it
	// is complete, and without Apply.
	Stopped string `json:"stopped,omitempty"`

	Proof *RescueProof `json:"proof"` // nil: none was attempted
}

// Rescue plans for each mount the way out of a list that no longer fits into
// Vault's storage and, where the request says so, carries out the steps that
// are pkiwarden's: a tidy, as Tidy would run it and never beside another run,
// without waiting for thresholds, windows or Policy.MinInterval; crl/rotate;
// and the proof that no revoked certificate was lost that has not expired. It
// stops before what is not pkiwarden's.
//
// It returns a report for each mount that it could look at, with an error where
// one could not be, where a right is missing, where Vault failed, and where ctx
// ended: its text then says in which step. Calling it again goes on from what is
// there.
func (t *Tidier) Rescue(ctx context.Context, o RescueRequest) ([]RescueReport, error) {
	leave, err := t.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	var s *survey
	err = t.retry(ctx, func() (err error) {
		s, err = t.survey(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	mounts, err := t.wanted(s, Request{Mounts: o.Mounts})
	if err != nil {
		return nil, err
	}
	var reports []RescueReport
	var errs []error
	for _, m := range mounts {
		r := &rescuing{t: t, dossier: dossier{t: t, o: o, mount: m, version: s.health.Version, cluster: s.cluster}, step: "reading what there is"}
		report, err := r.rescue(ctx)
		if report != nil {
			reports = append(reports, *report)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("rescue of mount %s, %s: %w", m.Name(), r.step, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return reports, errors.Join(errs...)
}

// rescuing is the rescue of one mount.
type rescuing struct {
	t *Tidier
	dossier
	step   string // where it is, in words
	report RescueReport
}

func (r *rescuing) rescue(ctx context.Context) (*RescueReport, error) {
	if err := r.open(ctx); err != nil {
		return nil, err
	}
	if err := r.read(ctx, false); err != nil {
		return nil, err
	}
	r.report = RescueReport{Mount: r.mount.Name(), RescuePlan: r.plan()}
	r.report.conclude()
	if !r.o.Apply || !r.wanted() {
		return &r.report, nil
	}
	why, err := r.apply(ctx)
	r.report.conclude()
	switch {
	case r.report.Complete:
	case err != nil:
		r.report.Stopped = fmt.Sprintf("%s: %v", r.step, err)
	default:
		r.report.Stopped = cmp.Or(why, r.report.Verdict)
	}
	return &r.report, err
}

// wanted tells whether there is something to carry out. A mount that rebuilds
// by time is behind as a rule: it is brought up to date where it was named, not just taken in by a pattern.
func (r *rescuing) wanted() bool {
	switch r.report.Status {
	case pki.RescueDisabled:
		return false
	case pki.RescueFits:
		missing := int64(0)
		for _, l := range r.report.Lists {
			missing += l.Missing
		}
		named := slices.ContainsFunc(r.o.Mounts, func(p string) bool { return strings.Trim(p, "/") == r.mount.Name() })
		return missing > 0 && named
	}
	return true
}

// conclude says what remains.
func (r *RescueReport) conclude() {
	r.Remains = []int{}
	r.Complete = r.Proof != nil && r.Proof.Lost == 0 || r.Proof == nil && (r.Status == pki.RescueFits || r.Status == pki.RescueDisabled)
	if r.Complete {
		return
	}
	for _, s := range r.Steps {
		if s.Done == "" && s.Need != pki.Useless {
			r.Remains = append(r.Remains, s.Step)
		}
	}
}

// rescueRotations is how many rotations a rescue asks for at most. What one of
// them is refused with may say more of the limit than was known, so that a tidy
// is wanted, and one after that tries again.
const rescueRotations = 3

// apply takes the steps that are pkiwarden's, in order, and begins anew where
// the storage's answer to a rotation says that another one comes first. Where it
// ends without an error and before the proof, it says why.
func (r *rescuing) apply(ctx context.Context) (why string, err error) {
	if refused := r.report.Refused; refused != "" {
		return "", r.refusal(refused)
	}
	// From here on nothing is guessed.
	if err := r.read(ctx, true); err != nil {
		return "", err
	}
	r.report.RescuePlan = r.plan()
	if refused := r.report.Refused; refused != "" {
		return "", r.refusal(refused)
	}
	for range rescueRotations {
		rebuilt, err := r.tidy(ctx)
		if err != nil {
			return "", err
		}
		if r.report.Status == pki.RescueOver && r.report.Enough != nil && !*r.report.Enough {
			return r.report.Verdict, nil // what is next is not ours
		}
		if r.tooLarge != nil { // that would be refused again
			return "crl/rotate was refused, and no tidy takes anything off: " + r.tooLarge.Message, nil
		}
		if rebuilt { // perhaps the tidy has done it all
			proved, err := r.prove(ctx)
			if proved {
				r.done(pki.StepRotate, "the tidy did")
			}
			if err != nil || proved {
				return "", err
			}
		}
		if refused := r.report.Refused; refused != "" { // what was lost since is not to be lost from the list
			r.step = "before step 6 (crl/rotate)"
			return "", cmp.Or(r.lost(), errors.New(refused))
		}
		if err := r.rotate(ctx); err != nil {
			return "", err
		}
		if r.tooLarge == nil {
			_, err = r.prove(ctx)
			return "", cmp.Or(err, r.lost())
		}
	}
	return fmt.Sprintf("crl/rotate was refused %d times: %s", rescueRotations, r.tooLarge.Message), nil
}

// lost is the error of a proof that failed, nil without one.
func (r *rescuing) lost() error {
	if p := r.report.Proof; p != nil && p.Lost > 0 {
		return fmt.Errorf("%s; revoke each again: vault write %s/revoke serial_number=…", p.words(), r.mount.Path)
	}
	return nil
}

// refusal is the error of a plan that may not be carried out.
func (r *rescuing) refusal(words string) error {
	r.step = "before anything was changed"
	for _, e := range r.denied {
		if e.Error() == words {
			return &e
		}
	}
	return errors.New(words)
}

func (r *rescuing) done(step int, words string) { r.report.Steps[step-1].Done = words }

// rescueRuns is how many runs of tidy a rescue follows at most: somebody else's,
// and one of its own, and one more for what expired meanwhile.
const rescueRuns = 3

// tidy takes step 1, and tells whether lists were rebuilt.
func (r *rescuing) tidy(ctx context.Context) (rebuilt bool, err error) {
	p := r.t.o.Policy
	p.Enabled, p.Asked, p.Force, p.MinInterval = true, true, true, 0
	said := ""
	for range rescueRuns {
		on, err := r.runIsOn(ctx)
		if err != nil {
			return rebuilt, err
		}
		if !on && !r.report.Needs(pki.StepTidy) {
			break
		}
		r.step = "step 1 (tidy)"
		r.say("step 1: tidy")
		began := r.t.now()
		report, err := r.t.tidyMount(ctx, &view{mount: r.mount}, p, Request{Wait: true})
		switch _, denied := isDenied(err); {
		case ctx.Err() != nil, denied:
			return rebuilt, err
		case err != nil && (report == nil || report.Result == nil):
			return rebuilt, err
		case report.Result == nil:
			return rebuilt, errors.New("tidy was not run: " + report.Reason)
		}
		if err == nil {
			rebuilt = true
		}
		result := report.Result
		switch {
		case !report.Run:
			said = "followed a run that was on"
		case result.Deleted != nil:
			said = fmt.Sprintf("deleted %d revocations", *result.Deleted)
		default:
			said = "Vault forgot the run"
		}
		// It may have failed at its end, where it writes the list; what is left
		// decides.
		r.step = "reading what the tidy left"
		deleted := result.Deleted == nil || *result.Deleted > 0
		if deleted {
			r.tooLarge = nil // it was said of more than Vault keeps now
		}
		if err := r.relist(ctx); err != nil {
			return rebuilt, err
		}
		r.done(pki.StepTidy, said)
		r.t.log.Debug("rescue: tidied", "mount", r.mount.Name(), "took", r.t.now().Sub(began), "status", r.report.Status)
		if report.Run && !deleted {
			break
		}
	}
	return rebuilt, nil
}

// runIsOn tells whether somebody tidies the mount, or left a run to be seen
// through: it is, before anything else.
func (r *rescuing) runIsOn(ctx context.Context) (bool, error) {
	v := &view{mount: r.mount, key: r.mount.StateKey(stateKind, r.cluster)}
	if err := r.t.load(ctx, v); err != nil || v.record.Run != nil {
		return true, err
	}
	status, err := r.t.o.Vault.TidyStatus(ctx, r.mount)
	return status.State.Active(), err
}

// relist reads what Vault keeps now, and plans anew. What was done stays said.
func (r *rescuing) relist(ctx context.Context) error {
	if err := r.list(ctx); err != nil {
		return err
	}
	if err := r.read(ctx, true); err != nil {
		return err
	}
	was := r.report.Steps
	r.report.RescuePlan = r.plan()
	for i := range r.report.Steps {
		r.report.Steps[i].Done = was[i].Done
	}
	return nil
}

// rotate takes step 6. That the list is too large is part of the plan then, and
// no error.
func (r *rescuing) rotate(ctx context.Context) error {
	r.step = "step 6 (crl/rotate)"
	r.say("step 6: crl/rotate")
	err := r.t.o.Vault.Rotate(ctx, r.mount)
	var tooLarge *pki.TooLargeError
	switch {
	case errors.As(err, &tooLarge):
		r.tooLarge = tooLarge
		for i := range r.lists {
			r.lists[i].Limit = pki.RefusedLimit(r.lists[i].Limit, tooLarge, r.version)
		}
		return r.relist(ctx)
	case err != nil:
		return err
	}
	r.done(pki.StepRotate, "rebuilt")
	return nil
}
