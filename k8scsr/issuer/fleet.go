package issuer

import (
	"cmp"
	"fmt"
	"time"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// Certificates are those that an Issuer keeps. It asks for one when it looks at
// it, and holds none: of ten thousand, what each wants would take more memory than
// all that is known of it. At has to give the same each time, to several
// goroutines at once, and need not be cheap.
type Certificates interface {
	Len() int
	At(n int) Certificate // of n from 0 to below Len
}

// List is some Certificates that are held anyway.
type List []Certificate

// Len implements [Certificates].
func (l List) Len() int { return len(l) }

// At implements [Certificates].
func (l List) At(n int) Certificate { return l[n] }

// certificate is the one with that number, its defaults filled in.
func (i *Issuer) certificate(n int) *Certificate {
	c := i.given.At(n)
	c.n, c.label = n, i.outlooks[n].label
	c.Spec = c.Spec.WithDefaults()
	c.Namespace = cmp.Or(c.Namespace, i.namespace)
	c.setDefaults()
	return &c
}

// outlook is what is known of the certificate.
func (i *Issuer) outlook(c *Certificate) *outlook { return &i.outlooks[c.n] }

// declared tells whether there is a certificate with that label.
func (i *Issuer) declared(label string) bool {
	_, is := i.numbers[label]
	return is
}

// followed is a source of trust, and its content as it was last.
type followed struct {
	source  TrustSource
	content string
	known   bool
	changed bool
}

// outlook is what is kept of one certificate, and what the last look at it left.
// There is one for each, so its size counts.
type outlook struct {
	label  string
	signer string
	trust  *followed     // nil: none is configured
	period time.Duration // from one renewal to the next, as was granted, where that is known

	pace     k8scsr.Pace
	findings []k8scsr.Finding
	err      error        // of the last look; nil: it worked
	seen     *version     // of the request that it waits for; nil: none
	flight   *observation // see remember
	rest     *atRest      // see remember
	made     *madeRequest // see [k8scsr.State.Made]; nil: none
	line     uint64       // sum of the last log line
	cleared  cleared      // whether requests of earlier attempts have been looked for

	deniedAt time.Time // for the first time before settled
	settled  bool      // an answer of the API can be taken as it is; see tooSoon

	aboutNext bool                       // NAME-next is the object that its events are about,
	about     string                     // and this that object's UID
	said      map[k8scsr.Event]time.Time // of the findings, and when; nil: nothing
}

// under is a look, or several, under way at one certificate.
type under struct {
	done []k8scsr.Event // of its steps
	// decided is told each step with what it was decided from: the Spec with the
	// names drawn from objects, and what was observed at now. Nil: nobody is.
	decided func(want k8scsr.Spec, s k8scsr.State, step k8scsr.Step, now time.Time)
}

// instant is a time in little space: microseconds since the zero time, which 0 is.
type instant int64

var zeroMicro = time.Time{}.UnixMicro()

// instantOf rounds up: what is due then is due.
func instantOf(t time.Time) instant {
	return instant(t.Add(time.Microsecond-1).UnixMicro() - zeroMicro)
}

func (t instant) time() time.Time {
	if t == 0 {
		return time.Time{}
	}
	return time.UnixMicro(int64(t) + zeroMicro).UTC()
}

// enlist makes what is kept of each certificate, and tells every problem of every
// one.
func (i *Issuer) enlist() (problems []error) {
	n := i.given.Len()
	i.outlooks, i.numbers = make([]outlook, n), make(map[string]int32, n)
	i.board.names, i.board.all = make([]string, n), make([]noted, n)
	names, sources := make(map[string]bool, n), map[string]*followed{}
	for n := range i.outlooks {
		c := i.certificate(n)
		problems = append(problems, c.validate()...)
		if names[c.Spec.Name] {
			problems = append(problems, fmt.Errorf("certificate %q: there are two of this name", c.Spec.Name))
		}
		if other, taken := i.numbers[c.label]; taken {
			problems = append(problems, fmt.Errorf("certificate %q: Secret %s/%s is that of certificate %q already", c.Spec.Name, c.Namespace, c.Secret, i.given.At(int(other)).Spec.Name))
		}
		names[c.Spec.Name], i.numbers[c.label] = true, int32(n)
		i.outlooks[n] = outlook{label: c.label, signer: c.Spec.Signer, period: c.Spec.Period(k8scsr.Live{})}
		i.board.names[n] = c.Spec.Name
		if !c.Trust.configured() {
			continue
		}
		source := c.Trust.String()
		if sources[source] == nil {
			sources[source] = &followed{source: c.Trust}
			i.followed = append(i.followed, sources[source])
		}
		i.outlooks[n].trust = sources[source]
	}
	return problems
}
