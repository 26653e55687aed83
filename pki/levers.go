package pki

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
)

// comfortable is the share of the storage's limit that levers aim at: where
// warnings begin by default.
const comfortable = 0.6

// Lever is something that makes a list smaller, or fit, where tidy cannot.
type Lever struct {
	Name   LeverName
	Action string // what to do
	Effect string // what it gives, in numbers; where there is none, what is missing

	// Bytes is what the list takes then, DER, or with RaiseLimit what is to fit.
	Bytes int64
	Known bool // Bytes is; false: Effect says what is missing
}

// LeverName names a Lever. The list is closed.
type LeverName string

// The levers, in the order in which Levers returns them.
const (
	ShorterCertificates LeverName = "shorter certificates"
	ShorterBuffer       LeverName = "shorter safety buffer"
	NewIssuerKey        LeverName = "new issuer key"
	NoList              LeverName = "no list"
	RaiseLimit          LeverName = "higher limit"
)

// String is the lever as a sentence of a list.
func (l Lever) String() string { return l.Name.String() + ": " + l.Action + "; " + l.Effect }

// String is the name.
func (n LeverName) String() string { return string(n) }

// Levers are what would make the list of o that presses most against its limit
// smaller, each with its computed effect; none where there is no list. What a
// list grows to is a steady state, see [crl.SteadyState].
func Levers(o Observation, p Policy, e Estimate, now time.Time) []Lever {
	l := e.worst()
	if l == nil {
		return nil
	}
	v := leverage{o: o, p: p, now: now, list: l.crl, each: EntryBytes}
	s := l.crl.Summary
	v.frame = max(0, s.Bytes-EntryBytes*s.Entries)
	v.sample = crl.Sample{ThisUpdate: s.ThisUpdate, At: l.crl.MeasuredAt, Bytes: s.Bytes, Entries: s.Entries}
	v.inputs = l.crl.Growth
	if v.inputs.SafetyBuffer == 0 {
		v.inputs.SafetyBuffer = p.SafetyBuffer
	}
	if v.inputs.TidyInterval == 0 {
		v.inputs.TidyInterval = p.Trigger.AtLeastEvery
	}
	v.steady = crl.SteadyState(v.sample, v.inputs, l.crl.Limit)
	return []Lever{v.certificates(), v.buffer(), v.issuer(), v.noList(), v.limit()}
}

// worst is the fullest list, else the one that reaches its limit first, else the
// largest; nil without a list.
func (e Estimate) worst() *listEstimate {
	var worst *listEstimate
	for i := range e.lists {
		if l := &e.lists[i]; worst == nil || l.worse(worst) {
			worst = l
		}
	}
	return worst
}

func (l *listEstimate) worse(than *listEstimate) bool {
	if l.share() != than.share() {
		return l.share() > than.share()
	}
	at, other := l.reachedAt(), than.reachedAt()
	if !at.Equal(other) && !at.IsZero() {
		return other.IsZero() || at.Before(other)
	}
	return at.Equal(other) && l.crl.Summary.Bytes > than.crl.Summary.Bytes
}

// leverage is what all levers are computed from.
type leverage struct {
	o      Observation
	p      Policy
	now    time.Time
	list   CRL
	sample crl.Sample
	inputs crl.SteadyInputs
	steady crl.Steady // as everything is
	frame  int64      // bytes around the entries
	each   int64      // bytes of an entry
}

// size is a size with its share of the limit.
func (v leverage) size(bytes int64) string {
	if limit := v.list.Limit; limit.Known && limit.MaxBytes > 0 {
		return fmt.Sprintf("%d bytes (%s of the limit)", bytes, percent(float64(bytes)/float64(limit.MaxBytes)))
	}
	return fmt.Sprintf("%d bytes", bytes)
}

// target is the size that is comfortable, 0 where no limit is known.
func (v leverage) target() float64 {
	if !v.list.Limit.Known {
		return 0
	}
	return comfortable * float64(v.list.Limit.MaxBytes)
}

// grown is where growth stops with other inputs.
func (v leverage) grown(change func(*crl.SteadyInputs)) crl.Steady {
	in := v.inputs
	change(&in)
	return crl.SteadyState(v.sample, in, v.list.Limit)
}

// certificates: half the lifetime, and the one that keeps the list comfortable.
func (v leverage) certificates() Lever {
	l := Lever{Name: ShorterCertificates, Action: "issue certificates for half as long"}
	longest := v.o.LongestTTL
	if longest.Known() {
		l.Action += fmt.Sprintf(" (%s in place of %s, %s)", longest.Duration/2, longest.Duration, longest.Source)
	}
	if !v.steady.Known {
		l.Effect = "effect " + v.steady.Why
		return l
	}
	life := v.inputs.RemainingLife
	half := v.grown(func(in *crl.SteadyInputs) { in.RemainingLife = life / 2 })
	l.Bytes, l.Known = half.Bytes, true
	l.Effect = fmt.Sprintf("growth then stops at %s in place of %d", v.size(half.Bytes), v.steady.Bytes)
	target := v.target()
	if target <= 0 {
		return l
	}
	perLife := float64(v.steady.Bytes-half.Bytes) / float64(life-life/2)
	wanted := time.Duration(float64(life) - (float64(v.steady.Bytes)-target)/perLife)
	switch {
	case perLife <= 0 || wanted >= life:
		l.Effect += fmt.Sprintf("; %s of the limit is kept as it is", percent(comfortable))
	case wanted < time.Minute:
		l.Effect += fmt.Sprintf("; no lifetime alone keeps it below %s: safety buffer and time between runs take more", percent(comfortable))
	case longest.Known():
		ttl := time.Duration(float64(longest.Duration) * float64(wanted) / float64(life)).Truncate(time.Minute)
		l.Effect += fmt.Sprintf("; %s at the longest keep it below %s of the limit", ttl, percent(comfortable))
	default:
		l.Effect += fmt.Sprintf("; %s left of life when revoked, in place of %s, keep it below %s of the limit",
			wanted.Truncate(time.Minute), life.Truncate(time.Minute), percent(comfortable))
	}
	return l
}

// buffer: what a run with the shortest buffer that is sound would take off.
func (v leverage) buffer() Lever {
	l := Lever{Name: ShorterBuffer, Action: fmt.Sprintf("set tidy.safetyBuffer: %s in place of %s", hours(SafetyBufferFloor), hours(v.p.SafetyBuffer))}
	if v.p.SafetyBuffer <= SafetyBufferFloor {
		l.Action = "none"
		l.Effect = fmt.Sprintf("the safety buffer of %s is at its floor already", hours(v.p.SafetyBuffer))
		return l
	}
	e := v.o.Sample.Estimate([]CRL{v.list}, v.o.LongestTTL, SafetyBufferFloor, v.now)
	l.Bytes, l.Known = v.sample.Bytes-v.each*e.Low, e.LowKnown
	switch {
	case e.High == 0:
		l.Bytes, l.Known = v.sample.Bytes, true
		l.Effect = fmt.Sprintf("a run takes nothing off now, and could from %s on", instant(e.EarliestAt))
	case e.sampled && e.Margin > 0:
		l.Bytes, l.Known = v.sample.Bytes-v.each*e.Likely, true
		l.Effect = fmt.Sprintf("a run then takes about %d ± %d of %d entries off, which leaves about %s", e.Likely, e.Margin, v.sample.Entries, v.size(l.Bytes))
	case e.sampled, e.LowKnown && e.Low == e.High:
		l.Bytes, l.Known = v.sample.Bytes-v.each*e.Likely, true
		l.Effect = fmt.Sprintf("a run then takes %d of %d entries off, which leaves %s", e.Likely, v.sample.Entries, v.size(l.Bytes))
	case e.LowKnown:
		l.Effect = fmt.Sprintf("a run then takes %d to %d of %d entries off, which leaves at most %s", e.Low, e.High, v.sample.Entries, v.size(l.Bytes))
	default:
		l.Effect = fmt.Sprintf("a run then takes at most %d of %d entries off; at least how many is unknown: the longest TTL is missing", e.High, v.sample.Entries)
	}
	if steady := v.grown(func(in *crl.SteadyInputs) { in.SafetyBuffer = SafetyBufferFloor }); steady.Known {
		l.Effect += fmt.Sprintf("; growth stops at %s in place of %d", v.size(steady.Bytes), v.steady.Bytes)
	}
	return l
}

// issuer: a new key has a list of its own.
func (v leverage) issuer() Lever {
	l := Lever{
		Name: NewIssuerKey, Action: "issue from a new issuer key",
		Bytes: v.frame, Known: true,
		Effect: fmt.Sprintf("its list begins at about %d bytes", v.frame),
	}
	limit := v.list.Limit
	if perDay := v.list.Projection.BytesPerDay; v.list.Projection.GrowthKnown && perDay > 0 && limit.Known && limit.MaxBytes > v.frame {
		days := float64(limit.MaxBytes-v.frame) / perDay
		l.Effect += fmt.Sprintf(" and grows by %.0f a day, to the limit in %.0f days", perDay, math.Floor(days))
	}
	l.Effect += "; the present list gets shorter as its certificates expire"
	if longest := v.o.LongestTTL; longest.Known() {
		l.Effect += fmt.Sprintf(", and a run after %s leaves nothing in it", instant(v.now.Add(longest.Duration+v.p.SafetyBuffer).Truncate(time.Minute)))
	} else {
		l.Effect += "; by when is unknown: the longest TTL is missing"
	}
	return l
}

// noList: what is never listed.
func (v leverage) noList() Lever {
	return Lever{
		Name:   NoList,
		Action: "where all clients ask OCSP, vault write " + v.o.Mount.Path + "/config/crl disable=true; no_store=true for roles whose certificates are too short-lived to be revoked",
		Effect: fmt.Sprintf("the list is then empty, about %d bytes; revocations are still kept, for OCSP and for tidy. With no_store, nothing that is issued from then on can be revoked", v.frame),
		Bytes:  v.frame, Known: true,
	}
}

// limit: so much that what the list grows to is comfortable.
func (v leverage) limit() Lever {
	l := Lever{Name: RaiseLimit, Action: "raise the storage's limit"}
	limit := v.list.Limit
	switch {
	case !limit.Known:
		l.Effect = "to what is unknown: the limit itself is missing"
		if limit.Rule != "" {
			l.Effect += " (" + limit.Rule + ")"
		}
		return l
	case limit.MaxBytes <= 0:
		l.Action, l.Effect = "none", "this storage sets no limit"
		return l
	}
	grown, of := v.sample.Bytes, "what it takes now"
	if v.steady.Known && v.steady.Bytes > grown {
		grown, of = v.steady.Bytes, "what it grows to"
	}
	wanted := (grown*5 + 2) / 3 // of which grown is comfortable, rounded up
	if wanted <= limit.MaxBytes {
		l.Action, l.Bytes, l.Known = "none", grown, true
		l.Effect = fmt.Sprintf("%s, %s, is below %s of it", of, v.size(grown), percent(comfortable))
		return l
	}
	raise := limit.Raise(wanted)
	if raise.Words == "" {
		l.Effect = "with which setting is unknown: the limit was configured (crl.limit), so name crl.limit.backend in place of bytes"
		if limit.Storage.Backend != "" {
			l.Effect = "with which setting of storage " + limit.Storage.Backend + " is unknown"
		}
		return l
	}
	l.Action = raise.Words
	if len(raise.Ways) == 0 {
		l.Effect = fmt.Sprintf("%s, %d bytes, does not stay below %s of %d", of, grown, percent(comfortable), limit.MaxBytes)
		return l
	}
	l.Bytes, l.Known = wanted, true
	l.Effect = fmt.Sprintf("a list of %d bytes then fits, of which %s, %d, is %s", wanted, of, grown, percent(comfortable))
	return l
}

// leverWords says what all levers are, for a finding.
func leverWords(levers []Lever) string {
	var words []string
	for i, l := range levers {
		if l.Action == "none" {
			continue
		}
		words = append(words, fmt.Sprintf("(%d) %s", i+1, l))
	}
	return strings.Join(words, ". ")
}

// hours is a duration as the configuration has it: 72h.
func hours(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
