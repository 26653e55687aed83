package issuer

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// What the API answers about an object, be it to a read or to a write, is so
// until somebody changes the object; and each of our writes carries the
// resourceVersion, so that it succeeds only while it is still so (Kubernetes API
// conventions, "Concurrency Control and Consistency"). A step therefore starts as
// well from the last answer as from a new read: where that is out of date the
// write fails, everything is forgotten, and read. A renewal then takes five
// requests: store the next key, make the request, approve it, publish, drop the
// next key; that the signer has answered is seen by the watch.

// mostUnderWay is how many certificates are remembered with all that their
// attempts need, keys included. Of the others everything is read.
const mostUnderWay = 256

// madeRequest is the request that was made last for a certificate.
type madeRequest struct {
	name, uid string
	at        time.Time
}

// atRest is what is remembered of a certificate that waits for its renewal. It
// holds no key, and nothing of Secrets that have more in them than we write.
type atRest struct {
	readAt instant
	ca     []byte // PEM, of the live Secret; nil: it has none
	packed []byte // the live Secret, its chain in DER, and NAME-next; see pack
}

// ownMarks are the annotations that we write.
const ownMarks = "pkiwarden.io/"

// knownMarks are names that a number stands for where they are packed.
var knownMarks = []string{AnnotationSigner, AnnotationIssuedAt, AnnotationRequest, AnnotationRecord, AnnotationTrusted}

// remember keeps what the last step left: all of it while the signer of a
// request is awaited that we approved ourselves, and what fits into atRest while
// there is nothing to do.
func (i *Issuer) remember(c *Certificate, look *outlook, o *observation, step k8scsr.Step) {
	switch {
	case step.Kind == k8scsr.AwaitIssue && o.csr != nil && o.csr.Size() <= largestKept && i.underWay < mostUnderWay:
		i.underWay++
		look.flight = o
		if o.awaitsAt.IsZero() {
			o.awaitsAt = i.now()
		}
		o.State = k8scsr.State{}
	case step.Kind == k8scsr.Nothing && !o.Pending.Active() && len(o.Obstacles) == 0:
		look.rest = c.rest(o)
	}
}

// forget drops what is remembered.
func (i *Issuer) forget(look *outlook) {
	if look.flight != nil {
		i.underWay--
	}
	look.flight, look.rest = nil, nil
}

// recall is what was remembered of a certificate, which is then forgotten; nil:
// it is to be read. What is at rest is read anew once in lookEvery, and what waits
// for a signer once in the interval.
func (i *Issuer) recall(c *Certificate, look *outlook, now time.Time) *observation {
	flight, rest := look.flight, look.rest
	i.forget(look)
	old := func(readAt time.Time, every time.Duration) bool {
		return now.Sub(readAt) >= every*7/10 || now.Before(readAt)
	}
	switch {
	case flight != nil && old(flight.awaitsAt, i.interval):
		return nil
	case flight != nil:
		if csr := i.arrived(c.label); csr != nil && csr.Name == flight.csr.Name && csr.UID == flight.csr.UID {
			flight.csr = csr
		} else {
			flight.csrName = "" // read it
		}
		return flight
	case rest == nil || old(rest.readAt.time(), i.lookEvery):
		return nil
	}
	o := &observation{readAt: rest.readAt.time(), keyKept: true}
	packed := rest.packed
	o.live = c.unpack(&packed, c.Secret, c.secretType())
	chain := unpackPart(&packed)
	o.next = c.unpack(&packed, c.nextName(), corev1.SecretTypeOpaque)
	o.live.Data = map[string][]byte{c.Keys.Certificate: pemOf([]byte(chain))}
	if rest.ca != nil {
		o.live.Data[c.Keys.CA] = rest.ca
	}
	return o
}

// rest is what can be remembered, nil where something is not as we write it.
func (c *Certificate) rest(o *observation) *atRest {
	if o.live == nil || !o.Live.Managed || o.Live.Problem != "" || o.Live.Leaf == nil ||
		!c.ours(o.live, c.Keys.Certificate, c.Keys.Key, c.Keys.CA) || o.next != nil && !c.ours(o.next) {
		return nil
	}
	r := &atRest{readAt: instantOf(o.readAt)}
	var chain strings.Builder
	for _, cert := range o.Live.Chain {
		chain.Write(cert.Raw)
	}
	if size := o.live.Size() + o.next.Size(); size > largestKept {
		return nil
	}
	r.packed = bytes.Clone(pack(packPart(pack(nil, o.live), chain.String()), o.next))
	if ca, has := o.live.Data[c.Keys.CA]; has && bytes.Equal(ca, o.Trust.PEM) {
		r.ca = o.Trust.PEM // most have the same
	} else if has {
		r.ca = bytes.Clone(ca)
	}
	return r
}

// ours tells whether the Secret has no more than what we write: then it can be
// written anew without having been read.
func (c *Certificate) ours(s *corev1.Secret, entries ...string) bool {
	if len(s.OwnerReferences)+len(s.Finalizers) > 0 || s.Immutable != nil || len(s.Labels) != 2 ||
		s.Labels[LabelManagedBy] != ManagedBy || s.Labels[LabelCertificate] != c.label {
		return false
	}
	for name := range s.Annotations {
		if !strings.HasPrefix(name, ownMarks) {
			return false
		}
	}
	for name := range s.Data {
		if !slices.Contains(entries, name) {
			return false
		}
	}
	return true
}

// pack appends a Secret but for its data, its labels, and what the certificate
// says of it anyway: parts of any length, first how many annotations it has; none
// of the rest for nil.
func pack(to []byte, s *corev1.Secret) []byte {
	if s == nil {
		return packPart(to, "")
	}
	to = packPart(to, strconv.Itoa(len(s.Annotations)))
	to = packPart(packPart(to, string(s.UID)), s.ResourceVersion)
	for name, value := range s.Annotations {
		if n := slices.Index(knownMarks, name); n >= 0 {
			name = strconv.Itoa(n) // all names have a slash
		}
		to = packPart(packPart(to, name), value)
	}
	return to
}

// unpack takes from the front what pack appended.
func (c *Certificate) unpack(from *[]byte, name string, kind corev1.SecretType) *corev1.Secret {
	marks := unpackPart(from)
	if marks == "" {
		return nil
	}
	out := &corev1.Secret{Type: kind, ObjectMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: name, Annotations: map[string]string{}}}
	out.UID, out.ResourceVersion = types.UID(unpackPart(from)), unpackPart(from)
	n, _ := strconv.Atoi(marks)
	for range n {
		mark := unpackPart(from)
		if known, err := strconv.Atoi(mark); err == nil {
			mark = knownMarks[known]
		}
		out.Annotations[mark] = unpackPart(from)
	}
	c.mark(&out.ObjectMeta)
	return out
}

func packPart(to []byte, part string) []byte {
	return append(binary.AppendUvarint(to, uint64(len(part))), part...)
}

func unpackPart(from *[]byte) string {
	length, n := binary.Uvarint(*from)
	part := string((*from)[n : n+int(length)])
	*from = (*from)[n+int(length):]
	return part
}

// pemOf encodes certificates that follow each other in DER.
func pemOf(chain []byte) []byte {
	certs, err := x509.ParseCertificates(chain)
	if err != nil {
		return nil // it was parsed before
	}
	var out bytes.Buffer
	for _, cert := range certs {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	}
	return out.Bytes()
}

// Memory is what an Issuer remembers, for the next one in the same process: where
// the configuration changes, or leadership comes back, nothing has to be read
// that has not changed. The zero value is ready. It holds no key.
type Memory struct {
	mu     sync.Mutex
	rests  map[string]handedOver // by the certificate's label
	counts map[eventKey]int32
}

type handedOver struct {
	keys    SecretKeys
	rest    *atRest
	cleared cleared
}

// cleared tells that no request of an earlier attempt was open while NAME-next was
// as it is: each attempt begins with a write to it.
type cleared struct {
	known   bool
	version string // of NAME-next; "" while there is none
}

func versionOf(s *corev1.Secret) string {
	if s == nil {
		return ""
	}
	return s.ResourceVersion
}

// at tells whether it is known of NAME-next as it is; where that is gone, its
// record is gone too, and everything is asked anew.
func (c cleared) at(next *corev1.Secret) bool {
	return c.known && next != nil && c.version == next.ResourceVersion
}

// take moves what is remembered to a new Issuer.
func (m *Memory) take(i *Issuer) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for n := range i.outlooks {
		look := &i.outlooks[n]
		if h, known := m.rests[look.label]; known && h.keys == i.certificate(n).Keys {
			look.rest, look.cleared = h.rest, h.cleared
		}
	}
	maps.Copy(i.events.counts, m.counts)
	m.rests, m.counts = nil, nil
}

// keep takes what an Issuer remembers whose work has ended.
func (m *Memory) keep(i *Issuer) {
	if m == nil {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rests, m.counts = map[string]handedOver{}, i.events.counts
	for n := range i.outlooks {
		if look := &i.outlooks[n]; look.rest != nil {
			m.rests[look.label] = handedOver{i.certificate(n).Keys, look.rest, look.cleared}
		}
	}
}
