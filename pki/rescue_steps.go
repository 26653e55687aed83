package pki

import (
	"fmt"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
)

// steps are all seven, in order.
func (q *planner) steps() []RescueStep {
	steps := []RescueStep{q.stepTidy(), q.stepBuffer(), q.stepRaise(), q.stepNewKey(), q.stepDisable(), q.stepRotate(), q.stepProve()}
	for i := range steps {
		s := &steps[i]
		s.Step = i + 1
		if s.After == nil {
			s.After = []RescueSize{}
		}
		if s.Commands == nil {
			s.Commands = []string{}
		}
		if s.Ways == nil {
			s.Ways = [][]RescueSetting{}
		}
	}
	return steps
}

// open tells whether something has to be done about a limit.
func (q *planner) open() bool {
	return q.plan.Status == RescueOver || q.plan.Status == RescueUnknown
}

// short tells whether tidy with the configured buffer surely does not suffice.
func (q *planner) short() bool { return q.open() && surelyNo(q.fit) }

// spared is why none of the steps that are not pkiwarden's is needed, "" where
// one is, or may be.
func (q *planner) spared() string {
	switch {
	case q.plan.Status == RescueDisabled:
		return "the lists are switched off: none is written"
	case !q.open() && !q.limitKnown():
		return "no list is known to be over a limit"
	case !q.open():
		return "nothing is over the limit"
	case !surely(q.fit):
		return ""
	}
	why := "step 1 is enough"
	switch right := q.right("/tidy", "update"); {
	case len(q.doomed()) > 0:
		why += ", once what refuses it is mended"
	case right.Granted != nil && !*right.Granted:
		why += fmt.Sprintf(", once %q on path %q is granted", right.Capability, right.Path)
	}
	return why
}

// lastResort is why a last resort is not taken, or not yet.
func (q *planner) lastResort() string {
	switch spared := q.spared(); {
	case spared != "":
		return spared
	case !q.limitKnown():
		return "whether it is needed is not known, since the limit is not"
	}
	return "whether it is needed is known once every certificate has been read"
}

// right is one of those of pkiwarden's own steps.
func (q *planner) right(path, capability string) *RescueRight {
	r := &RescueRight{Path: q.r.Mount.Path + path, Capability: capability}
	if q.r.DeniedUnknown != "" {
		return r
	}
	r.Granted = new(true)
	for _, e := range q.r.Denied {
		if e.Path == r.Path && e.Capability == capability {
			r.Granted = new(false)
		}
	}
	return r
}

// yours is the right for a step that is not pkiwarden's.
func (q *planner) yours(path string) *RescueRight {
	return &RescueRight{Path: q.r.Mount.Path + path, Capability: "update"}
}

func total(sizes []RescueSize) (most, least int64) {
	for _, s := range sizes {
		most, least = most+s.Entries, least+s.EntriesLeast
	}
	return most, least
}

func (q *planner) stepTidy() RescueStep {
	s := RescueStep{
		What: fmt.Sprintf("tidy, with the configured safety buffer of %s", words(q.p.SafetyBuffer)), By: ByPkiwarden,
		Capability: q.right("/tidy", "update"), Need: Useless, After: q.tidied,
		Commands: []string{fmt.Sprintf("pkiwarden tidy --rescue --apply --mount %s", q.r.Mount.Name())},
	}
	kept, _ := total(q.all)
	most, least := total(q.tidied)
	switch {
	case q.plan.Status == RescueDisabled, kept == 0:
		s.Why = "there is no list to make shorter"
	case least == kept:
		s.Why = fmt.Sprintf("none of the %d revocations has been expired for longer than that", kept)
	case !q.open():
		s.Why = "the next lists fit without it"
	default:
		s.Need = Needed
		s.Why = fmt.Sprintf("%s of %d revocations are of certificates that expired longer ago", between(kept-most, kept-least), kept)
	}
	return s
}

// between is a range in words.
func between(least, most int64) string {
	if least == most {
		return fmt.Sprint(least)
	}
	return fmt.Sprintf("%d to %d", least, most)
}

// words is a duration without what is zero at its end.
func words(d time.Duration) string {
	switch {
	case d >= time.Hour && d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d >= time.Minute && d%time.Minute == 0:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return d.String()
}

// floor is the shortest buffer that the policy lets be configured.
func (q *planner) floor() time.Duration {
	if q.p.AllowShortSafetyBuffer {
		return time.Second
	}
	return SafetyBufferFloor
}

// buffer is the longest safety buffer with which every list fits after a tidy;
// false where none does. It is rounded down to what a person would write.
func (q *planner) buffer() (time.Duration, bool) {
	longest := q.p.SafetyBuffer
	for i, l := range q.r.Lists {
		if surely(q.tidied[i].Fits) {
			continue
		}
		until, found := l.fitsOnce()
		if !found {
			return 0, false
		}
		longest = min(longest, time.Duration(q.now.Unix()-until-1)*time.Second)
	}
	if longest <= 0 {
		return longest, false
	}
	for _, unit := range []time.Duration{time.Hour, time.Minute} {
		if longest > 2*unit {
			return longest.Truncate(unit), true
		}
	}
	return longest, true
}

func (q *planner) stepBuffer() RescueStep {
	s := RescueStep{What: "shorten tidy.safetyBuffer", By: ByYou, Need: Useless}
	floor := q.floor()
	if why := q.spared(); why != "" {
		s.Why = why
		return s
	}
	if q.p.SafetyBuffer <= floor {
		s.Why = fmt.Sprintf("it is at its floor, %s", words(floor))
		return s
	}
	needed, found := q.buffer()
	if found && needed >= floor {
		s.What = fmt.Sprintf("shorten tidy.safetyBuffer to %s, and rescue again", words(needed))
		s.Why = fmt.Sprintf("the longest buffer with which the lists fit; clients whose clocks lag by more would take what it removes for good again; its floor is %s", words(floor))
		s.Commands = []string{fmt.Sprintf("tidy: {safetyBuffer: %s}", words(needed))}
		s.After = q.sizes(q.keepAfter(needed))
		s.Need = Instead
		return s
	}
	s.After = q.sizes(q.keepAfter(floor))
	s.What = fmt.Sprintf("shorten tidy.safetyBuffer to its floor, %s", words(floor))
	most, _ := total(s.After)
	kept, _ := total(q.tidied)
	s.Why = fmt.Sprintf("does not help enough: it would take %d more entries off", max(0, kept-most))
	if found && !q.p.AllowShortSafetyBuffer {
		s.Why += fmt.Sprintf("; %s would, which needs tidy.allowShortSafetyBuffer: true", words(needed))
	}
	return s
}

func (q *planner) stepRaise() RescueStep {
	s := RescueStep{What: "raise the limit", By: ByYou, Need: Useless}
	if why := q.spared(); why != "" {
		s.Why = why
		return s
	}
	roomy, least := q.raise(q.tidied)
	if !q.limitKnown() || len(least.Ways) == 0 && q.r.TooLarge != nil {
		s.Why = fmt.Sprintf("to what is not known: %s", q.plan.Limit.Rule)
		if q.r.TooLarge != nil {
			s.Why = "to more than this: " + q.r.TooLarge.Message
		}
		if q.short() {
			s.Need = Instead
		}
		return s
	}
	if len(least.Ways) == 0 {
		s.Why = "not possible: " + least.Words
		if least.Words == "" {
			s.Why = "no setting of this storage is known that would help"
		}
		return s
	}
	s.Need = Instead
	if !q.short() {
		s.Need = Useless // perhaps
	}
	s.What = roomy.Words
	s.Why = fmt.Sprintf("the lists take %s of that limit then; at the least: %s", percent(roomShare), least.Words)
	for i, way := range roomy.Ways {
		settings := make([]RescueSetting, 0, len(way))
		for j, setting := range way {
			settings = append(settings, RescueSetting{Name: setting.Name, Value: setting.Value, Least: leastOf(least.Ways, i, j, setting)})
			if setting.Name == "max_crl_entries" {
				s.Capability = q.yours("/config/crl")
				s.Commands = []string{fmt.Sprintf("vault write %s/config/crl max_crl_entries=%d", q.r.Mount.Path, setting.Value)}
			}
		}
		s.Ways = append(s.Ways, settings)
	}
	yes := new(true)
	for _, size := range q.tidied {
		size.Fits = yes
		s.After = append(s.After, size)
	}
	return s
}

// leastOf is the value that the way of the least raise gives to a setting. Where
// that way does not have it, today's value would do, and the roomy one is said.
func leastOf(ways [][]crl.Setting, i, j int, roomy crl.Setting) int64 {
	if i < len(ways) && j < len(ways[i]) && ways[i][j].Name == roomy.Name {
		return ways[i][j].Value
	}
	return roomy.Value
}

// shrinks is when the lists fit by themselves, with the configured buffer and
// tidy going on; zero where that is not known or never.
func (q *planner) shrinks() time.Time {
	var last time.Time
	for i, l := range q.r.Lists {
		if surely(q.tidied[i].Fits) {
			continue
		}
		until, found := l.fitsOnce()
		if !found {
			return time.Time{}
		}
		if at := time.Unix(until+1, 0).Add(q.p.SafetyBuffer); at.After(last) {
			last = at
		}
	}
	return last
}

func (q *planner) stepNewKey() RescueStep {
	path := q.r.Mount.Path
	s := RescueStep{What: "issue new certificates by a new issuer in a mount of its own", By: ByYou, Need: Useless, After: q.tidied}
	if !q.short() {
		s.Why, s.After = q.lastResort(), nil
		return s
	}
	s.Need = Instead
	s.Capability = &RescueRight{Path: "sys/mounts/" + path + "-next", Capability: "update"}
	s.Commands = []string{
		fmt.Sprintf("vault secrets enable -path=%s-next -max-lease-ttl=87600h pki", path),
		fmt.Sprintf("vault write %s-next/root/generate/internal common_name=… issuer_name=next", path),
	}
	s.Why = "copy the roles and point clients at it: revocations of new certificates then work at once; not in this mount, since Vault builds all lists of a mount or none, and generating an issuer builds them too; an intermediate comes by intermediate/generate/internal and intermediate/set-signed"
	if at := q.shrinks(); at.IsZero() {
		s.Why += "; when the old list fits by itself is not known"
	} else {
		s.Why += fmt.Sprintf("; the old list stays as it is served and fits by itself at %s, with tidy going on and no more revocations of its issuer", instant(at))
	}
	return s
}

func (q *planner) stepDisable() RescueStep {
	path := q.r.Mount.Path
	s := RescueStep{What: "switch the lists off, where every relying party asks OCSP", By: ByYou, Need: Useless}
	if !q.short() {
		s.Why = q.lastResort()
		return s
	}
	s.Need = Instead
	s.Capability = q.yours("/config/crl")
	s.Commands = []string{
		fmt.Sprintf("vault write %s/config/urls ocsp_servers=https://VAULT/v1/%s/ocsp", path, path),
		fmt.Sprintf("vault write %s/config/crl disable=true ocsp_disable=false", path),
	}
	s.Why = "the last resort: revocations work again at once, and OCSP answers from them (new certificates name it); but the lists become empty, and whoever reads them takes every revoked certificate for good"
	s.After = q.sizes(func(RescueGroup) (most, least amount) { return amount{}, amount{} })
	return s
}

func (q *planner) stepRotate() RescueStep {
	s := RescueStep{
		What: "rebuild the lists (crl/rotate)", By: ByPkiwarden, Need: Useless, Capability: q.right("/crl/rotate", "read"),
		Commands: []string{fmt.Sprintf("vault read %s/crl/rotate", q.r.Mount.Path)},
	}
	switch {
	case q.plan.Status == RescueDisabled:
		s.Why = "it would publish empty lists"
	case q.plan.Status == RescueFits && q.missing() == 0:
		s.Why = "what is served is what Vault keeps"
	case q.plan.Status == RescueFits:
		s.Why, s.After = "Vault does it by itself in time (auto_rebuild)", q.all
	default:
		s.Need, s.Why, s.After = Needed, "publishes what Vault keeps", q.all
		if q.open() {
			s.After = q.tidied
		}
		if q.short() {
			s.Why += ", once it fits"
		}
	}
	return s
}

func (q *planner) stepProve() RescueStep {
	s := RescueStep{
		What: "prove it: fetch the lists, verify them, and find in them every revoked certificate that has not expired", By: ByPkiwarden,
		Need: Useless, Capability: q.right("/certs/revoked", "list"), Why: "nothing was changed",
	}
	if rotate := q.stepRotate(); rotate.Need == Needed {
		s.Need, s.After = Needed, rotate.After
		s.Why = "of those on the old lists and those that Vault keeps none may be lost"
	}
	return s
}
