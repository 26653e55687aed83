// Package issuer obtains and renews certificates through the Kubernetes
// CertificateSigningRequest API and keeps them in Secrets.
//
// It observes, asks package k8scsr for the one next step, does exactly that, and
// goes on from what the API answered. What it remembers only saves requests:
// whatever another instance, a crash or an hour's absence left behind, it goes on
// from there. Two instances at once do no harm, since every write is
// compare-and-swap; they only waste requests.
package issuer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// SecretKeys names the entries of the live Secret.
type SecretKeys struct {
	Certificate string // default tls.crt
	Key         string // default tls.key
	CA          string // default ca.crt
}

// Certificate is one certificate and where it is kept.
type Certificate struct {
	Spec      k8scsr.Spec // defaults are applied by New
	Namespace string      // of the live Secret; default Options.Namespace
	Secret    string      // name of the live Secret
	Keys      SecretKeys
	Trust     TrustSource

	NamesFrom     []NameSource // whose names are added to the Spec's, as they are at each look
	ClusterDomain string       // of the names drawn from Services and StatefulSets; default cluster.local

	n       int // its number
	label   string
	unnamed []k8scsr.Finding // why the names of NamesFrom are not known
}

// Options describe an Issuer.
type Options struct {
	Client       kubernetes.Interface
	Certificates Certificates          // default: none
	Namespace    string                // where a Certificate names none
	Memory       *Memory               // of the Issuer before this one in the same process; default: none
	State        State                 // keeps the record of requests; default: none, and the signers have no budget
	Interval     time.Duration         // between two looks at a certificate at most, unless Reads makes it longer; default one minute
	Reads        float64               // what looking at all of them may cost while nothing is due, in requests a second; default 2
	Log          *slog.Logger          // default slog.Default()
	Registerer   prometheus.Registerer // default: none
	Now          func() time.Time      // default time.Now
	Chance       func() float64        // in [0, 1), spreads those who failed together; default rand.Float64
	// Report gets all findings after each Once, the empty list included.
	// Default: none.
	Report func([]k8scsr.Finding)
	// Published is called with a certificate's name after each write of its live
	// Secret, also after one that failed: what was lost may be the answer alone.
	// It must not block. Default: none.
	Published func(name string)
}

// Issuer does the cluster's work for a set of certificates.
type Issuer struct {
	client     kubernetes.Interface
	memory     *Memory // nil: none
	state      State   // nil: none
	given      Certificates
	namespace  string
	numbers    map[string]int32 // of the certificates, by label
	interval   time.Duration
	lookEvery  time.Duration // between two looks at one certificate that read it
	log        *slog.Logger
	registerer prometheus.Registerer
	now        func() time.Time
	chance     func() float64
	report     func([]k8scsr.Finding)
	published  func(name string)
	metrics    *metrics
	events     *events

	mu         sync.Mutex      // held by Once
	identity   k8scsr.Identity // ours
	identityAt time.Time       // when it was found
	books      *books          // nil: not yet opened
	outlooks   []outlook       // by the certificate's number; their labels never change
	look       under           // way
	underWay   int             // outlooks that hold a flight
	goesOn     bool            // the round under way is one of many

	trusts   map[string]trustRead // as the Once under way read them
	followed []*followed          // each source once
	trustsAt time.Time
	budgets  map[string]k8scsr.Budget // of the signers, in the Once under way

	booksAt      time.Time // when they were opened last
	booksProblem error     // what was met then, or since

	leftoversAt time.Time // when they were looked for last

	rounds         map[string]*peerRound // by the certificate's label
	peersRestUntil time.Time
	lookup         func(context.Context, string) ([]netip.Addr, error) // nil: the system's

	board board // what is known, for those who do not wait

	watching atomic.Bool // a watch is open

	watched sync.Mutex          // guards awaited, which Watch writes beside Once
	awaited map[string]*awaited // by the certificate's label
}

// New makes an Issuer and registers its metrics. It tells every problem of every
// certificate at once. It starts nothing.
func New(o Options) (*Issuer, error) {
	i := &Issuer{
		client: o.Client, memory: o.Memory, state: o.State, interval: cmp.Or(o.Interval, time.Minute), log: o.Log, registerer: o.Registerer,
		now: o.Now, report: o.Report, published: o.Published, chance: o.Chance,
		given: o.Certificates, namespace: o.Namespace, awaited: map[string]*awaited{}, trusts: map[string]trustRead{},
	}
	if i.given == nil {
		i.given = List(nil)
	}
	i.metrics = newMetrics(&i.board)
	if i.log == nil {
		i.log = slog.Default()
	}
	if i.now == nil {
		i.now = time.Now
	}
	i.events = newEvents(i.client, i.log, i.now)
	if i.chance == nil {
		i.chance = rand.Float64
	}
	if i.report == nil {
		i.report = func([]k8scsr.Finding) {}
	}
	if i.published == nil {
		i.published = func(string) {}
	}
	var problems []error
	if o.Client == nil {
		problems = append(problems, errors.New("making issuer: it has no Kubernetes client"))
	}
	problems = append(problems, i.enlist()...)
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	i.memory.take(i)
	each := time.Duration(readsPerLook / cmp.Or(o.Reads, 2) * float64(time.Second))
	i.lookEvery = max(i.interval, time.Duration(len(i.outlooks))*each)
	if i.registerer != nil {
		if err := i.metrics.register(i.registerer); err != nil {
			return nil, err
		}
	}
	return i, nil
}

// Unregister removes the metrics, for when leadership is lost: an instance that
// no longer looks must not go on to say what it saw. What it remembers is kept in
// Options.Memory. Its work must have ended.
func (i *Issuer) Unregister() {
	i.memory.keep(i)
	if i.registerer != nil {
		i.metrics.unregister(i.registerer, len(i.metrics.all()))
	}
}

func (c *Certificate) setDefaults() {
	c.Keys.Certificate = cmp.Or(c.Keys.Certificate, corev1.TLSCertKey)
	c.Keys.Key = cmp.Or(c.Keys.Key, corev1.TLSPrivateKeyKey)
	c.Keys.CA = cmp.Or(c.Keys.CA, corev1.ServiceAccountRootCAKey)
	for _, ref := range []**KeyRef{&c.Trust.ConfigMap, &c.Trust.Secret} {
		if *ref != nil {
			filled := **ref
			filled.Namespace = cmp.Or(filled.Namespace, c.Namespace)
			filled.Key = cmp.Or(filled.Key, corev1.ServiceAccountRootCAKey)
			*ref = &filled
		}
	}
	c.ClusterDomain = cmp.Or(c.ClusterDomain, k8scsr.DefaultClusterDomain)
	c.NamesFrom = slices.Clone(c.NamesFrom)
	for n := range c.NamesFrom {
		c.NamesFrom[n].Namespace = cmp.Or(c.NamesFrom[n].Namespace, c.Namespace)
	}
	c.Spec.NamesFollow = len(c.NamesFrom) > 0
	if c.label == "" {
		c.label = labelFor(c.Namespace, c.Secret)
	}
}

func (c *Certificate) validate() []error {
	var problems []error
	add := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("certificate %q: "+format, append([]any{c.Spec.Name}, args...)...))
	}
	if err := c.Spec.Validate(); err != nil {
		problems = append(problems, err)
	}
	if c.Namespace == "" || c.Secret == "" {
		add("secret: namespace %q and name %q must both be given", c.Namespace, c.Secret)
	}
	if len(c.nextName()) > 253 {
		add("secret.name: %q is too long: with %q it must fit into 253 octets", c.Secret, NextSuffix)
	}
	if c.Keys.Certificate == c.Keys.Key || c.Keys.Certificate == c.Keys.CA || c.Keys.Key == c.Keys.CA {
		add("secretKeys: certificate %q, key %q and ca %q must differ", c.Keys.Certificate, c.Keys.Key, c.Keys.CA)
	}
	sources := 0
	for _, set := range []bool{c.Trust.ConfigMap != nil, c.Trust.Secret != nil, c.Trust.File != ""} {
		if set {
			sources++
		}
	}
	if sources > 1 {
		add("trust: give one of configMap, secret and file, not %d", sources)
	}
	for _, ref := range []*KeyRef{c.Trust.ConfigMap, c.Trust.Secret} {
		if ref != nil && ref.Name == "" {
			add("trust: it has no name")
		}
	}
	if ref := c.Trust.Secret; ref != nil && ref.Namespace == c.Namespace &&
		(ref.Name == c.nextName() || ref.Name == c.Secret && slices.Contains([]string{c.Keys.Certificate, c.Keys.Key, c.Keys.CA}, ref.Key)) {
		add("trust: Secret %s/%s, key %s, is written by the issuer itself", ref.Namespace, ref.Name, ref.Key)
	}
	problems = append(problems, c.validatePeers()...)
	return append(problems, c.validateSources()...)
}

// maxSteps bounds how far one certificate is brought in one go; a whole renewal
// is five writes.
const maxSteps = 20

// contended is when to look again after others kept changing what we read.
const contended = 2 * time.Second

// advance takes steps until one waits. What goes wrong in the program itself is
// an error of this certificate alone.
func (i *Issuer) advance(ctx context.Context, c *Certificate) (next time.Time, findings []k8scsr.Finding, err error) {
	defer i.contain(c, &err)
	if c, err = i.named(ctx, c); err != nil {
		return time.Time{}, nil, err
	}
	look := i.outlook(c)
	o := i.recall(c, look, i.now())
	for range maxSteps {
		now := i.now()
		o, err = i.observe(ctx, c, o, now)
		if errors.Is(err, errChanged) {
			o = nil
			continue
		}
		if err != nil {
			return time.Time{}, nil, err
		}
		look.seen = o.waitsFor()
		look.isAbout(o)
		if o.Live.Leaf != nil {
			look.period = c.Spec.Period(o.Live)
		}
		findings = k8scsr.Findings(o.State, c.Spec, now)
		step := k8scsr.Next(o.State, c.Spec, now)
		if i.look.decided != nil {
			i.look.decided(c.Spec, o.State, step, now)
		}
		i.say(c, step)
		i.board.observed(c, o, step, now)
		if step.Waits() {
			i.remember(c, look, o, step)
			return step.LookAgainAt, findings, nil
		}
		err = i.perform(ctx, c, o, step, now)
		if step.Kind == k8scsr.Publish || step.Kind == k8scsr.PublishTrust {
			i.published(c.Spec.Name)
		}
		switch {
		case err == nil:
			i.metrics.count(step.Result)
			if step.Event != nil {
				i.look.done = append(i.look.done, *step.Event)
			}
		case changedMeanwhile(err):
			i.log.Debug("changed meanwhile, observing again", "certificate", c.Spec.Name, "step", step.Kind, "error", err)
			o = nil
		default:
			return time.Time{}, findings, err
		}
	}
	return i.now().Add(contended), findings, nil
}

// readsPerLook is what a look at a certificate costs that is at rest.
const readsPerLook = 2

// lines makes the sums of log lines.
var lines = maphash.MakeSeed()

// say logs a step, unless it is the one that was logged last.
func (i *Issuer) say(c *Certificate, step k8scsr.Step) {
	line, look := maphash.String(lines, string(step.Kind)+" "+step.Reason), i.outlook(c)
	if look.line == line {
		return
	}
	look.line = line
	i.log.Info("next step", "certificate", c.Spec.Name, "step", string(step.Kind), "reason", step.Reason)
}
