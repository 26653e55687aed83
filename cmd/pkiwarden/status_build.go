package main

import (
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/leader"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/loop"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/ops"
	"github.com/pkiwarden/pkiwarden/crl/watch"
	"github.com/pkiwarden/pkiwarden/k8scsr"
	"github.com/pkiwarden/pkiwarden/k8scsr/deliver"
	"github.com/pkiwarden/pkiwarden/k8scsr/issuer"
	"github.com/pkiwarden/pkiwarden/k8scsr/signer"
	"github.com/pkiwarden/pkiwarden/pki"
	"github.com/pkiwarden/pkiwarden/pki/tidier"
)

// loopLate is how long a run of a loop may take, and how late one may begin,
// before it is not known any more whether the loop still works: each bounds its
// own waits well below.
const loopLate = 15 * time.Minute

// lookLate is how long ago a certificate may have been looked at before it is not
// known any more how it is: the looks are a minute apart at most, and further
// where there are so many that each is looked at less often.
const lookLate = 3 * time.Minute

// known is where an instance finds what its status shows. What the leader's work
// is asked for is set while that work goes on, and gone with it.
type known struct {
	mu           sync.Mutex
	leading      bool
	leadingSince time.Time // zero: it has not campaigned yet
	accepted     bool      // the configuration file as it is now
	acceptedAt   time.Time // zero: not told yet
	certificates func() iter.Seq[issuer.Status]
	signers      func() []signer.Status
	vault        *vaultWork
}

func (k *known) change(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f()
}

// setLeader says whether this instance leads, to the metrics too.
func (i *instance) setLeader(leading bool) {
	i.metrics.SetLeader(leading)
	i.known.change(func() { i.known.leading, i.known.leadingSince = leading, i.now() })
}

// setConfig says whether the configuration file is accepted as it is, to the
// metrics too.
func (i *instance) setConfig(accepted bool, inUseSince time.Time) {
	i.metrics.SetConfig(accepted, inUseSince)
	i.known.change(func() { i.known.accepted, i.known.acceptedAt = accepted, inUseSince })
}

// status is the document /status.json, made of what is known at this moment.
func (i *instance) status() ops.Status {
	k := &i.known
	k.mu.Lock()
	leading, since, accepted, acceptedAt, certificates, signers, work := k.leading, k.leadingSince, k.accepted, k.acceptedAt, k.certificates, k.signers, k.vault
	k.mu.Unlock()
	now := i.now()
	s := ops.Status{
		At: utc(now), Version: i.build.Version, Identity: i.cluster.identity, Namespace: i.cluster.podNamespace(), Role: i.cfg.LeaderElection.Role,
		Leadership: ops.Leadership{Leading: leading, Since: utc(since)},
		Config:     ops.ConfigFile{File: i.cfg.File, Accepted: accepted, Since: utc(acceptedAt)},
		Loops:      []ops.Loop{}, Deliveries: []ops.Delivery{}, Findings: append([]ops.Finding{}, i.findings.All()...),
	}
	doubt := func(format string, args ...any) {
		s.Undetermined = append(s.Undetermined, fmt.Sprintf(format, args...))
	}

	if lease, ok := i.elector.(*leader.Lease); ok {
		s.Leadership.Lease = i.cluster.namespace + "/" + i.cfg.LeaderElection.Name
		if leading {
			s.Leadership.Leader = s.Identity
		} else {
			followed(&s.Leadership, lease, s.Identity, doubt)
		}
	}
	s.Loops = loopsOf(i.loops.States(), now, doubt)
	for _, d := range i.deliveries {
		s.Deliveries = append(s.Deliveries, deliveryOf(d.deliverer.Status(), doubt))
	}
	if leading && len(i.cfg.Certificates) > 0 {
		addCertificates(&s, certificates, now, doubt)
	}
	if leading && len(i.cfg.Signers) > 0 {
		s.Signers = signersOf(signers, now, doubt)
	}
	if leading && i.cfg.Vault.Address != "" {
		s.Mounts = i.mountsOf(work, doubt)
	}
	s.Judge()
	if !accepted && !acceptedAt.IsZero() {
		s.Status = ops.Worse(s.Status, "warning")
	}
	return s
}

// followed is what an instance that does not lead knows of who does.
func followed(l *ops.Leadership, lease elections, self string, doubt func(string, ...any)) {
	lostAt, why := lease.Lost()
	l.LostAt, l.LostWhy = utc(lostAt), text(why)
	holder, seenAt := lease.Holder()
	if holder != "" && holder != self { // itself: it is about to lead, or has just stopped
		l.Leader, l.SeenAt = holder, utc(seenAt)
		return
	}
	last, lastAt := lease.LastHolder()
	l.LastLeader, l.LastSeenAt = last, utc(lastAt)
	switch {
	case holder != "":
	case last == "":
		doubt("who leads: nobody was seen to hold Lease %s", l.Lease)
	case last == self:
		doubt("who leads: nobody was seen to hold Lease %s since this instance did, last at %s", l.Lease, stamped(lastAt))
	default:
		doubt("who leads: nobody was seen to hold Lease %s since %s did, last seen at %s", l.Lease, last, stamped(lastAt))
	}
	if !lostAt.IsZero() {
		doubt("certificates and mounts: nothing is known of them since %s, when this instance lost Lease %s", stamped(lostAt), l.Lease)
	}
}

// elections is what [leader.Lease] tells.
type elections interface {
	Holder() (identity string, seenAt time.Time)
	LastHolder() (identity string, seenAt time.Time)
	Lost() (at time.Time, why error)
}

func stamped(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// podNamespace is that of this pod; "" without Kubernetes.
func (c *cluster) podNamespace() string {
	if c.kube == nil {
		return ""
	}
	return c.kube.Namespace
}

func loopsOf(states []loop.State, now time.Time, doubt func(string, ...any)) []ops.Loop {
	out := []ops.Loop{}
	for _, l := range states {
		out = append(out, ops.Loop{
			Name: l.Name, RunningAt: utc(l.RunningAt), LastSuccess: utc(l.LastSuccess), Failures: l.Failures,
			LastError: oneLine(l.LastError), LastErrorAt: utc(l.LastErrorAt), NextAt: utc(l.NextAt),
		})
		switch {
		case !l.RunningAt.IsZero() && now.Sub(l.RunningAt) > loopLate:
			doubt("loop %s: its run goes on since %s, and should have ended", l.Name, stamped(l.RunningAt))
		case !l.NextAt.IsZero() && now.Sub(l.NextAt) > loopLate:
			doubt("loop %s: its next run was due at %s, and has not begun", l.Name, stamped(l.NextAt))
		case l.Failures > 0:
			doubt("loop %s fails: %s", l.Name, oneLine(l.LastError))
		case l.LastSuccess.IsZero():
			doubt("loop %s has not worked once yet", l.Name)
		}
	}
	return out
}

func deliveryOf(d deliver.Status, doubt func(string, ...any)) ops.Delivery {
	if d.LookedAt.IsZero() {
		doubt("delivery of %s: nothing was looked at yet", d.Certificate)
	}
	out := ops.Delivery{
		Certificate: d.Certificate, Delivered: d.Delivered, Error: text(d.Err), LookedAt: utc(d.LookedAt),
		NotAfter: utc(d.NotAfter), Fingerprint: d.Fingerprint,
	}
	for _, a := range d.Addresses {
		l := ops.Listener{Address: a.Address, Error: oneLine(a.Err), VerifiedAt: utc(a.VerifiedAt)}
		if a.Known {
			l.Served = new(a.Served)
		}
		out.Addresses = append(out.Addresses, l)
	}
	return out
}

// addCertificates adds the first of the certificates, as many as are shown, and
// the doubts about all of them and the findings of those that have expired since
// anybody looked. One at a time: there can be ten thousand.
func addCertificates(s *ops.Status, statuses func() iter.Seq[issuer.Status], now time.Time, doubt func(string, ...any)) {
	if statuses == nil {
		doubt("certificates: looking at them has not begun")
		return
	}
	known := map[string]bool{}
	for _, f := range s.Findings {
		if f.Rule == k8scsr.RuleExpired {
			known[f.Subject] = true
		}
	}
	s.Certificates = []ops.Certificate{}
	var expired []ops.Finding
	for c := range statuses() {
		shown, unknown := certificateOf(c, now)
		if unknown {
			doubt("certificate %s: %s", c.Name, shown.Reason)
		}
		if subject := "certificate " + c.Name; shown.State == stateExpired && !known[subject] {
			expired = append(expired, expiredUnseen(subject, shown))
		}
		if len(s.Certificates) < ops.MaxListed {
			s.Certificates = append(s.Certificates, shown)
		} else {
			s.CertificatesBeyond++
		}
	}
	s.Findings = append(expired, s.Findings...)
}

func expiredUnseen(subject string, c ops.Certificate) ops.Finding {
	return ops.Finding{
		Rule: k8scsr.RuleExpired, Severity: string(k8scsr.Critical), Subject: subject,
		Summary:  "the certificate expired " + stamped(c.NotAfter),
		Evidence: "it was last observed at " + stamped(c.ObservedAt),
		Remedy:   "see what keeps it from being looked at: the loop certificates, and the log",
		Citation: "RFC 5280 section 4.1.2.5",
	}
}

// The states of a certificate that are not steps of its lifecycle.
const (
	stateGood     = "good"
	statePaused   = "paused"
	stateHindered = "hindered"
	stateHeldBack = "held-back"
	stateUnknown  = "unknown"
	stateExpired  = "expired"
)

// interval says how often, of what is done once in it.
func interval(d time.Duration) string {
	if d <= time.Minute {
		return "a minute"
	}
	return "in " + d.Round(time.Minute).String()
}

// certificateOf is c as it is at now, and whether it is not known how it is.
func certificateOf(c issuer.Status, now time.Time) (out ops.Certificate, unknown bool) {
	looked := c.LookedAt
	if c.ObservedAt.After(looked) {
		looked = c.ObservedAt // by a look that has not ended
	}
	out = ops.Certificate{
		Name: c.Name, Secret: c.Namespace + "/" + c.Secret, Paused: c.Paused,
		Step: string(c.Step.Kind), Reason: oneLine(c.Step.Reason), ObservedAt: utc(c.ObservedAt), LookedAt: utc(c.LookedAt), NextAt: utc(c.NextAt),
		NotBefore: utc(c.NotBefore), NotAfter: utc(c.NotAfter), RenewAt: utc(c.RenewAt), Adopted: c.Adopted, Request: c.Request,
		Trust: trustOf(c.Trust),
	}
	switch {
	case !looked.IsZero() && now.Sub(looked) > lookLate && now.Sub(c.NextAt) > max(lookLate, c.Every/2):
		out.State, out.Reason = stateUnknown, fmt.Sprintf("last looked at %s, and it should be once %s", stamped(looked), interval(c.Every))
		if c.Err != nil {
			out.Reason += "; that look failed: " + text(c.Err)
		}
	case c.Err != nil:
		out.State, out.Reason = stateUnknown, "the last look failed: "+text(c.Err)
	case c.ObservedAt.IsZero():
		out.State, out.Reason = stateUnknown, "it was not looked at yet"
	case c.Paused:
		out.State = statePaused
	case c.Hindered:
		out.State = stateHindered
	case c.Step.Kind != k8scsr.Nothing:
		out.State = string(c.Step.Kind)
	case c.Due:
		out.State = stateHeldBack
	default:
		out.State = stateGood
	}
	unknown = out.State == stateUnknown
	if !c.NotAfter.IsZero() && !now.Before(c.NotAfter) {
		expired := "expired " + stamped(c.NotAfter)
		switch {
		case out.State == stateGood:
			out.Reason = expired + ", and was not looked at since"
		case !strings.Contains(out.Reason, expired):
			out.Reason = expired + "; " + out.Reason
		}
		out.State = stateExpired
	}
	if f := c.Failure; f != nil {
		out.LastFailure = &ops.Failure{Rule: f.Rule, Summary: oneLine(f.Summary), At: utc(f.At), InARow: c.Failures}
	}
	if c.NamesKnown {
		out.Names = &ops.Names{DNS: c.DNSNames, IP: c.IPAddresses, URI: c.URIs}
	}
	return out, unknown
}

// mountsOf joins what is known of the lists and of tidy.
func (i *instance) mountsOf(work *vaultWork, doubt func(string, ...any)) []ops.Mount {
	if work == nil {
		doubt("mounts: looking at them has not begun")
		return nil
	}
	if !work.watch.Complete() {
		doubt("mounts: not all of their lists were looked at yet")
	}
	at := map[pki.Mount]int{}
	out := []ops.Mount{}
	mount := func(m pki.Mount) *ops.Mount {
		n, there := at[m]
		if !there {
			n = len(out)
			at[m] = n
			out = append(out, ops.Mount{Name: m.Name()})
		}
		return &out[n]
	}
	for _, m := range work.watch.Status() {
		shown := mount(m.Mount)
		shown.Error = text(m.Err)
		if m.Listed {
			shown.CRLs = crlsOf(m.Lists)
		}
	}
	for _, t := range work.tidier.Status() {
		mount(t.Mount).Tidy = i.tidyOf(t)
	}
	slices.SortStableFunc(out, func(a, b ops.Mount) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func crlsOf(lists []watch.ListStatus) []ops.CRL {
	out := []ops.CRL{}
	for _, l := range lists {
		out = append(out, ops.CRL{
			Issuer: l.Issuer, NoList: l.CannotSign, Error: text(l.Err), MeasuredAt: utc(l.MeasuredAt),
			Bytes: l.Bytes, Limit: l.Limit, LimitRule: l.Rule, Entries: l.Entries, ThisUpdate: utc(l.ThisUpdate), NextUpdate: utc(l.NextUpdate),
			LimitAt: utc(l.LimitReachedAt), Forecast: l.Forecast, Headroom: l.Headroom,
		})
	}
	return out
}

func (i *instance) tidyOf(t tidier.Status) *ops.Tidy {
	out := &ops.Tidy{
		Enabled: i.cfg.Tidy.Enabled, Run: t.Verdict == pki.RunNow, Verdict: string(t.Verdict), Reason: oneLine(t.Reason),
		DecidedAt: utc(t.DecidedAt), NextAt: utc(t.NextAt), Owed: t.Owed,
	}
	if t.Run != nil {
		out.Current = string(t.Run.Step)
	}
	if last := t.Last; last != nil {
		out.LastRun = &ops.TidyRun{
			Outcome: string(last.Outcome), EndedAt: utc(last.EndedAt), Deleted: last.Deleted, EntriesBefore: last.Before.Entries,
			Error: oneLine(last.Error), Foreign: last.Foreign,
		}
		if last.After != nil {
			out.LastRun.EntriesAfter = new(last.After.Entries)
		}
	}
	return out
}

// utc is t as the document has it: whole seconds, zero stays zero.
func utc(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC().Truncate(time.Second)
}

// text is an error on one line, "" for nil.
func text(err error) string {
	if err == nil {
		return ""
	}
	return oneLine(err.Error())
}

// trustOf is nil where nothing is known.
func trustOf(t issuer.TrustStatus) *ops.Trust {
	if t.State == "" {
		return nil
	}
	out := &ops.Trust{State: string(t.State), Reason: oneLine(t.Reason), Authorities: []ops.Authority{}}
	for _, a := range t.Authorities {
		shown := ops.Authority{Subject: oneLine(a.Subject), SHA256: a.SHA256, NotAfter: utc(a.NotAfter), State: "leaving", PublishedAt: utc(a.PublishedAt)}
		if a.Wanted {
			shown.State = "wanted"
		}
		out.Authorities = append(out.Authorities, shown)
	}
	for _, p := range t.Peers {
		out.Peers = append(out.Peers, ops.Peer{Address: p.Address, State: p.State, Detail: oneLine(p.Detail)})
	}
	return out
}
