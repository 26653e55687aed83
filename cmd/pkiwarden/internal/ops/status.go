package ops

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Status is the document /status.json: what an instance does, will do, and why
// not yet. Keys keep their meaning; new ones may come, so that readers pass over
// those they do not know. Times are RFC 3339 in UTC, sizes octets. A key that is
// absent is not known, or does not apply.
type Status struct {
	Status       string   `json:"status"`                 // ok, warning, critical or unknown: the worst of the findings, and unknown at least where Undetermined says something
	Undetermined []string `json:"undetermined,omitempty"` // what could not be determined, beside the findings, one sentence each

	At         time.Time  `json:"at"` // when this document was made
	Version    string     `json:"version"`
	Identity   string     `json:"identity"`            // of this instance, as the Lease would name it
	Namespace  string     `json:"namespace,omitempty"` // of this instance's pod, and so of the other candidates: those of one Lease are replicas of one workload
	Role       string     `json:"role"`                // candidate or local, which never leads
	Leadership Leadership `json:"leadership"`
	Config     ConfigFile `json:"config"`
	Loops      []Loop     `json:"loops"`

	// The leader's alone: absent where this instance does not lead, and where
	// the leader has not begun with them.
	Certificates []Certificate `json:"certificates,omitzero"`
	Signers      []Signer      `json:"signers,omitzero"`
	Mounts       []Mount       `json:"mounts,omitzero"`

	Deliveries []Delivery `json:"deliveries"` // this pod's
	Findings   []Finding  `json:"findings"`   // of this instance, the most severe first

	CertificatesBeyond int `json:"-"` // how many more there are than Certificates has

	LeftOut *LeftOut `json:"leftOut,omitempty"` // of the lists, since there was too much; absent: nothing
}

// Leadership is who does the cluster's work.
type Leadership struct {
	Leading bool      `json:"leading"`
	Since   time.Time `json:"since,omitzero"`   // of Leading, as it is
	Lease   string    `json:"lease,omitempty"`  // NAMESPACE/NAME, where a Lease decides
	Leader  string    `json:"leader,omitempty"` // absent: it is not known by now
	SeenAt  time.Time `json:"seenAt,omitzero"`  // when this instance last saw that Leader holds the Lease

	// Where Leader is not known: who held the Lease last, this instance included.
	LastLeader string    `json:"lastLeader,omitempty"`
	LastSeenAt time.Time `json:"lastSeenAt,omitzero"`

	// Where this instance led and lost the Lease, until it leads again.
	LostAt  time.Time `json:"lostAt,omitzero"`
	LostWhy string    `json:"lostWhy,omitempty"` // why it could not be renewed; absent: another instance had taken it
}

// ConfigFile is the configuration in force.
type ConfigFile struct {
	File     string    `json:"file,omitempty"` // absent: there is none, defaults and environment alone
	Accepted bool      `json:"accepted"`       // the file as it is now; false: it was refused, and an earlier one is in force
	Since    time.Time `json:"since,omitzero"` // when the one in force was read
}

// Loop is one thing that is done over and over.
type Loop struct {
	Name        string    `json:"name"`
	RunningAt   time.Time `json:"runningSince,omitzero"` // a run is under way
	LastSuccess time.Time `json:"lastSuccess,omitzero"`
	Failures    int       `json:"failures"`            // in a row, up to now
	LastError   string    `json:"lastError,omitempty"` // of the last run that failed, also when later ones did not
	LastErrorAt time.Time `json:"lastErrorAt,omitzero"`
	NextAt      time.Time `json:"nextAt,omitzero"`
}

// Certificate is one declared certificate.
type Certificate struct {
	Name   string `json:"name"`
	Secret string `json:"secret"` // NAMESPACE/NAME
	Paused bool   `json:"paused"`

	// State is what it waits for: good (for its renewal), paused, hindered (by
	// what somebody has to remove), held-back (a new one is wanted, and it is too
	// early to ask), unknown (the last look failed, or there was none yet), or the
	// step of its lifecycle: await-approval, await-issue, and, for a moment each,
	// those that pkiwarden takes itself. Two are judged by At: expired (NotAfter
	// has passed, whatever it waits for), and unknown also where the last look was
	// three minutes ago, since there is one at least once a minute; an expired one
	// of which as little is known is in Undetermined.
	State      string    `json:"state"`
	Step       string    `json:"step,omitempty"`      // of the lifecycle, "nothing" while there is none to take
	Reason     string    `json:"reason,omitempty"`    // why it was not renewed yet, in words
	ObservedAt time.Time `json:"observedAt,omitzero"` // when Step, the certificate, Request and names were as said here
	LookedAt   time.Time `json:"lookedAt,omitzero"`   // the last attempt to look; later than ObservedAt where it failed
	NextAt     time.Time `json:"lookAgainAt,omitzero"`

	NotBefore time.Time `json:"notBefore,omitzero"` // of the stored certificate; absent: there is none
	NotAfter  time.Time `json:"notAfter,omitzero"`
	RenewAt   time.Time `json:"renewAt,omitzero"`  // when its renewal begins
	Adopted   bool      `json:"adopted,omitempty"` // somebody else wrote the stored pair
	Request   string    `json:"request,omitempty"` // the CertificateSigningRequest under way

	Trust *Trust `json:"trust,omitempty"` // absent: none is configured, or it is not known

	LastFailure *Failure `json:"lastFailure,omitempty"` // of an attempt, since the last success
	Names       *Names   `json:"names,omitempty"`       // that it is to have, those drawn from objects included; absent: they are not known
}

// Trust is the bundle that clients of a certificate follow, and how far a change
// of its CA has come.
type Trust struct {
	// State is as-configured, or what a change waits for: blocked, publishing,
	// settling (clients take up a new CA), changing-leaf, awaiting-peers, or kept
	// (an old CA, until it expires, for want of peers to ask).
	State       string      `json:"state"`
	Reason      string      `json:"reason"`
	Authorities []Authority `json:"authorities"`
	Peers       []Peer      `json:"peers,omitempty"`   // while they decide
	LeftOut     int         `json:"leftOut,omitempty"` // of both, since there are too many
}

// Authority is one CA of a bundle.
type Authority struct {
	Subject     string    `json:"subject"`
	SHA256      string    `json:"sha256"`
	NotAfter    time.Time `json:"notAfter"`
	State       string    `json:"state"` // wanted, or leaving
	PublishedAt time.Time `json:"publishedAt,omitzero"`
}

// Peer is a server that presents the certificate.
type Peer struct {
	Address string `json:"address"`
	State   string `json:"state"` // moved, behind or unknown
	Detail  string `json:"detail,omitempty"`
}

// Failure is how an attempt to obtain a certificate failed.
type Failure struct {
	Rule    string    `json:"rule"`
	Summary string    `json:"summary"`
	At      time.Time `json:"at"`
	InARow  int       `json:"inARow"`
}

// Names are those of a certificate.
type Names struct {
	DNS     []string `json:"dns,omitempty"`
	IP      []string `json:"ip,omitempty"`
	URI     []string `json:"uri,omitempty"`
	LeftOut int      `json:"leftOut,omitempty"` // of DNS, since there are too many
}

// Signer is one signer name whose requests are signed here.
type Signer struct {
	Name   string `json:"name"`
	Secret string `json:"secret"` // NAMESPACE/NAME, of the CA

	// State is good, unusable (of the CA: nothing is signed), expired (the CA has
	// ended since it was looked at), or unknown (the last look failed, was three
	// minutes ago, or there was none yet).
	State    string    `json:"state"`
	Reason   string    `json:"reason,omitempty"` // why it is not good
	LookedAt time.Time `json:"lookedAt,omitzero"`

	NotBefore time.Time `json:"notBefore,omitzero"` // of the CA; absent: there is none, or it is not known
	NotAfter  time.Time `json:"notAfter,omitzero"`  // of the CA, or of the first above it that ends sooner

	Signed       int       `json:"signed"`  // requests, since this instance leads
	Refused      int       `json:"refused"` // requests, since this instance leads
	LastSignedAt time.Time `json:"lastSignedAt,omitzero"`
}

// Delivery is one certificate that is delivered to this pod.
type Delivery struct {
	Certificate string     `json:"certificate"`
	Delivered   bool       `json:"delivered"`
	Error       string     `json:"error,omitempty"` // why the stored one did not reach this pod in the last pass
	LookedAt    time.Time  `json:"lookedAt,omitzero"`
	NotAfter    time.Time  `json:"notAfter,omitzero"`     // of what is in place
	Fingerprint string     `json:"fingerprint,omitempty"` // of what is in place: SHA-256 of the leaf, in hex
	Addresses   []Listener `json:"addresses,omitempty"`
}

// Listener is an address that has to serve what was delivered.
type Listener struct {
	Address    string    `json:"address"`
	Served     *bool     `json:"served,omitempty"` // absent: not known
	Error      string    `json:"error,omitempty"`  // why it is not known, or what is served instead
	VerifiedAt time.Time `json:"verifiedAt,omitzero"`
}

// Mount is one PKI mount of Vault.
type Mount struct {
	Name  string `json:"name"`
	Error string `json:"error,omitempty"` // why its issuers could not be listed
	CRLs  []CRL  `json:"crls,omitzero"`   // absent: it is not watched, or not known yet
	Tidy  *Tidy  `json:"tidy,omitempty"`  // absent: it is not to be tidied, or nothing was decided yet
}

// CRL is the list of one issuer. Without MeasuredAt it was not measured yet.
type CRL struct {
	Issuer     string    `json:"issuer"`
	NoList     bool      `json:"noList,omitempty"` // it has none, and is to have none
	Error      string    `json:"error,omitempty"`  // why the last attempt did not measure it: the figures are of MeasuredAt
	MeasuredAt time.Time `json:"measuredAt,omitzero"`
	Bytes      int64     `json:"bytes"`
	Limit      int64     `json:"limitBytes,omitempty"` // absent: there is none, or it is not known, as LimitRule says
	LimitRule  string    `json:"limitRule,omitempty"`
	Entries    int64     `json:"entries"`
	ThisUpdate time.Time `json:"thisUpdate,omitzero"`
	NextUpdate time.Time `json:"nextUpdate,omitzero"`
	LimitAt    time.Time `json:"limitReachedAt,omitzero"` // as forecast
	Forecast   string    `json:"forecast,omitempty"`      // what it rests on, or why there is none
	Headroom   *float64  `json:"rolloutHeadroom,omitempty"`
}

// Tidy is what was decided about tidying a mount.
type Tidy struct {
	Enabled   bool      `json:"enabled"` // by the configuration; false: it is only said what would be done
	Run       bool      `json:"run"`     // a run is due now, and would be begun
	Verdict   string    `json:"verdict"` // run, follow, wait or cannotHelp
	Reason    string    `json:"reason"`
	DecidedAt time.Time `json:"decidedAt,omitzero"`
	NextAt    time.Time `json:"nextAt,omitzero"` // when one may be due
	Owed      bool      `json:"rotationOwed,omitempty"`
	Current   string    `json:"currentStep,omitempty"` // of a run that is not concluded
	LastRun   *TidyRun  `json:"lastRun,omitempty"`
}

// TidyRun is the latest run that was concluded.
type TidyRun struct {
	Outcome       string    `json:"outcome"`
	EndedAt       time.Time `json:"endedAt,omitzero"`
	Deleted       *int64    `json:"deleted,omitempty"` // revocations
	EntriesBefore int64     `json:"entriesBefore"`
	EntriesAfter  *int64    `json:"entriesAfter,omitempty"`
	Error         string    `json:"error,omitempty"`
	Foreign       bool      `json:"foreign,omitempty"` // somebody else's
}

// LeftOut counts what a document leaves out.
type LeftOut struct {
	Certificates int `json:"certificates,omitempty"`
	Signers      int `json:"signers,omitempty"`
	Mounts       int `json:"mounts,omitempty"`
	Deliveries   int `json:"deliveries,omitempty"`
	Findings     int `json:"findings,omitempty"`
	Loops        int `json:"loops,omitempty"`
	Undetermined int `json:"undetermined,omitempty"`
}

// The bounds of the document.
const (
	MaxStatusBytes = 4 << 20
	MaxListed      = 1000 // of each list
	maxNames       = 100  // of one certificate
	maxTrust       = 20   // CAs, and peers, of one certificate
	maxText        = 2000 // octets of one text
)

// statusRanks orders the values of Status.Status: what cannot be determined is
// worse than a warning and better than a certainty.
var statusRanks = map[string]int{"ok": 0, "warning": 1, "unknown": 2, "critical": 3}

// Worse is the worse of two values of Status.Status. One that is not among them
// counts as unknown.
func Worse(a, b string) string {
	for _, s := range []*string{&a, &b} {
		if _, known := statusRanks[*s]; !known {
			*s = "unknown"
		}
	}
	if statusRanks[b] > statusRanks[a] {
		return b
	}
	return a
}

// Judge sets Status by the findings and by what is undetermined.
func (s *Status) Judge() {
	s.Status = "ok"
	for _, f := range s.Findings {
		if f.Severity != "info" {
			s.Status = Worse(s.Status, f.Severity)
		}
	}
	if len(s.Undetermined) > 0 {
		s.Status = Worse(s.Status, "unknown")
	}
}

// encode is the document, of at most MaxStatusBytes: where it would be larger,
// its lists are cut, and it says so.
func (s Status) encode() ([]byte, error) {
	for listed := MaxListed; ; listed /= 2 {
		data, err := json.Marshal(s.cut(listed))
		if err != nil {
			return nil, fmt.Errorf("encoding the status: %w", err)
		}
		if len(data) < MaxStatusBytes {
			return append(data, '\n'), nil
		}
		if listed == 0 {
			return nil, fmt.Errorf("encoding the status: it takes %d octets, and %d are allowed", len(data), MaxStatusBytes)
		}
	}
}

// cut is s with at most n of each list, and texts of bounded length.
func (s Status) cut(n int) Status {
	var left LeftOut
	s.Undetermined = first(s.Undetermined, n, &left.Undetermined)
	s.Loops = first(s.Loops, n, &left.Loops)
	s.Certificates = first(s.Certificates, n, &left.Certificates)
	left.Certificates += s.CertificatesBeyond
	s.Signers = first(s.Signers, n, &left.Signers)
	s.Mounts = first(s.Mounts, n, &left.Mounts)
	s.Deliveries = first(s.Deliveries, n, &left.Deliveries)
	s.Findings = first(s.Findings, n, &left.Findings)
	if left != (LeftOut{}) {
		s.LeftOut = &left
	}
	shorten(&s.Leadership.LostWhy)
	shorten(each(s.Undetermined, func(t *string) []*string { return []*string{t} })...)
	shorten(each(s.Loops, func(l *Loop) []*string { return []*string{&l.LastError} })...)
	for i := range s.Certificates {
		c := &s.Certificates[i]
		shorten(&c.Reason)
		if c.LastFailure != nil {
			failure := *c.LastFailure
			shorten(&failure.Summary)
			c.LastFailure = &failure
		}
		if c.Trust != nil {
			c.Trust = c.Trust.cut()
		}
		if c.Names != nil && len(c.Names.DNS) > maxNames {
			names := *c.Names
			names.DNS = first(names.DNS, maxNames, &names.LeftOut)
			c.Names = &names
		}
	}
	shorten(each(s.Signers, func(s *Signer) []*string { return []*string{&s.Reason} })...)
	shorten(each(s.Deliveries, func(d *Delivery) []*string { return []*string{&d.Error} })...)
	for i := range s.Mounts {
		m := &s.Mounts[i]
		shorten(&m.Error)
		m.CRLs = slices.Clone(m.CRLs)
		shorten(each(m.CRLs, func(c *CRL) []*string { return []*string{&c.Error, &c.Forecast, &c.LimitRule} })...)
		if m.Tidy != nil {
			tidy := *m.Tidy
			shorten(&tidy.Reason)
			m.Tidy = &tidy
		}
	}
	shorten(each(s.Findings, func(f *Finding) []*string {
		return []*string{&f.Summary, &f.Evidence, &f.Remedy, &f.Citation, &f.Subject}
	})...)
	return s
}

// cut keeps those CAs that are to leave, which there is something to say of.
func (t Trust) cut() *Trust {
	var cas, peers int
	t.Authorities = slices.Clone(t.Authorities)
	if len(t.Authorities) > maxTrust {
		slices.SortStableFunc(t.Authorities, func(a, b Authority) int { return strings.Compare(a.State, b.State) })
	}
	t.Authorities = first(t.Authorities, maxTrust, &cas)
	t.Peers = first(t.Peers, maxTrust, &peers)
	t.LeftOut = cas + peers
	shorten(&t.Reason)
	shorten(each(t.Peers, func(p *Peer) []*string { return []*string{&p.Address, &p.Detail} })...)
	return &t
}

// first is a copy of the first n, nil only for nil.
func first[S ~[]E, E any](list S, n int, left *int) S {
	if list == nil {
		return nil
	}
	if len(list) > n {
		*left = len(list) - n
		list = list[:n]
	}
	return append(S{}, list...)
}

func each[E any](list []E, texts func(*E) []*string) []*string {
	var all []*string
	for i := range list {
		all = append(all, texts(&list[i])...)
	}
	return all
}

func shorten(texts ...*string) {
	for _, t := range texts {
		if len(*t) > maxText {
			*t = strings.ToValidUTF8((*t)[:maxText], "") + "…"
		}
	}
}
