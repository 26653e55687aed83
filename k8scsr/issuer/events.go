package issuer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

const (
	// sayAgain is how often what is still wrong is said again: the API server
	// keeps an event for an hour (--event-ttl).
	sayAgain = 30 * time.Minute

	maxQueued      = 256             // events that wait to be written; a further one is lost
	maxMessage     = 1024            // octets, also of what a request's condition says
	eventsPause    = 5 * time.Second // after one that could not be written
	eventsTries    = 12
	eventsAtTheEnd = 2 * time.Second // for those left when the work ends

	// What events of what went well may cost the API beside the work: a fleet
	// that is renewed at once would otherwise be renewed later for telling of it.
	// What is beyond is lost.
	eventsBurst = 25
	eventsEvery = 5 * time.Second
)

// events writes Kubernetes Events beside the work, which never waits for them:
// they are lost rather than late, since findings and metrics say the same. There
// is one Event for each object and reason, under a name that follows from the
// two, so that restarts and other leaders go on with it: it is counted up and
// says what was said last. (The recorders of client-go remember what they said
// only until the process ends, and log each refusal.)
type events struct {
	client   kubernetes.Interface
	log      *slog.Logger
	now      func() time.Time
	instance string

	mu     sync.Mutex
	queue  []*post // oldest first, one for each key
	wake   chan struct{}
	counts map[eventKey]int32 // as we wrote them; used by one goroutine
	failed bool               // the last one could not be written, which was said
	limit  *rate.Limiter
}

type eventKey struct {
	object corev1.ObjectReference
	reason string
}

// post is an event to be written.
type post struct {
	eventKey
	event k8scsr.Event
	times int32 // that it happened since it was written last
	first time.Time
	last  time.Time
	tries int
}

func newEvents(client kubernetes.Interface, log *slog.Logger, now func() time.Time) *events {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = ManagedBy
	}
	return &events{client: client, log: log, now: now, instance: host, wake: make(chan struct{}, 1), counts: map[eventKey]int32{},
		limit: rate.NewLimiter(rate.Every(eventsEvery), eventsBurst)}
}

// say queues an event. It never blocks.
func (e *events) say(object corev1.ObjectReference, event k8scsr.Event) {
	e.put(&post{eventKey: eventKey{object, event.Reason}, event: event, times: 1, first: e.now(), last: e.now()})
}

func (e *events) put(p *post) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, queued := range e.queue {
		if queued.eventKey != p.eventKey {
			continue
		}
		queued.times += p.times
		if p.last.Before(queued.last) {
			queued.first, queued.tries = p.first, p.tries // it comes back: what happened since is newer
		} else {
			queued.event, queued.last = p.event, p.last
		}
		return
	}
	if len(e.queue) == maxQueued {
		return
	}
	e.queue = append(e.queue, p)
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

func (e *events) take() *post {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.queue) == 0 {
		return nil
	}
	p := e.queue[0]
	e.queue = e.queue[1:]
	return p
}

// Events writes the Kubernetes Events of what happens until ctx ends, and those
// that are left then within two seconds. It returns nil. Without it, or without
// the right to (create and patch on events in the namespaces of the live
// Secrets), everything else works as it does with it; that they cannot be
// written is logged once, until they can.
func (i *Issuer) Events(ctx context.Context) error {
	for ctx.Err() == nil {
		if i.events.flush(ctx) {
			select {
			case <-ctx.Done():
			case <-i.events.wake:
			}
			continue
		}
		timer := time.NewTimer(eventsPause)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), eventsAtTheEnd)
	defer cancel()
	i.events.flush(last)
	return nil
}

// flush writes what is queued. It ends early, with false, where one has to be
// tried again later.
func (e *events) flush(ctx context.Context) bool {
	for {
		p := e.take()
		if p == nil {
			return true
		}
		if !p.event.Warning && !e.limit.Allow() {
			continue
		}
		err := e.write(ctx, p)
		if err != nil && errors.Is(ctx.Err(), context.Canceled) {
			e.put(p) // whether it was written is not known: it is for whoever comes next
			return false
		}
		switch {
		case err == nil:
			if e.failed {
				e.log.Info("writing events works again")
			}
			e.failed = false
			continue
		case !e.failed:
			e.log.Warn("events cannot be written, which hinders nothing else", "error", err)
			e.failed = true
		}
		if apierrors.IsForbidden(err) || apierrors.IsNotFound(err) || apierrors.IsInvalid(err) {
			continue // it would be the same a moment later
		}
		if p.tries++; p.tries < eventsTries {
			e.put(p)
		}
		return false
	}
}

// write creates the event, or counts it up where it exists.
func (e *events) write(ctx context.Context, p *post) error {
	count, known := e.counts[p.eventKey]
	if !known {
		if len(e.counts) > 4*maxQueued {
			clear(e.counts) // they can be read again
		}
		err := e.create(ctx, p)
		if !apierrors.IsAlreadyExists(err) {
			return err
		}
		was, err := e.patch(ctx, p, 0)
		if err != nil {
			return err
		}
		count = was.Count
	}
	_, err := e.patch(ctx, p, count+p.times)
	if apierrors.IsNotFound(err) { // it was kept for an hour
		delete(e.counts, p.eventKey)
		return e.create(ctx, p)
	}
	if err == nil {
		e.counts[p.eventKey] = count + p.times
	}
	return err
}

func (e *events) create(ctx context.Context, p *post) error {
	kind := corev1.EventTypeNormal
	if p.event.Warning {
		kind = corev1.EventTypeWarning
	}
	event := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: p.object.Namespace, Name: p.name()},
		InvolvedObject: p.object, Reason: p.reason, Message: k8scsr.Plain(p.event.Message, maxMessage), Type: kind,
		Source:         corev1.EventSource{Component: ManagedBy, Host: e.instance},
		FirstTimestamp: metav1.NewTime(p.first), LastTimestamp: metav1.NewTime(p.last), Count: p.times,
		ReportingController: ManagedBy, ReportingInstance: e.instance,
	}
	_, err := do(ctx, call{"create", "events", p.object.Namespace, ""}, func(ctx context.Context) (*corev1.Event, error) {
		return e.client.CoreV1().Events(p.object.Namespace).Create(ctx, event, metav1.CreateOptions{FieldManager: ManagedBy})
	})
	if err == nil {
		e.counts[p.eventKey] = p.times
	}
	return err
}

// patch says what happened last; a count of 0 leaves it as it is.
func (e *events) patch(ctx context.Context, p *post, count int32) (*corev1.Event, error) {
	change := map[string]any{"message": k8scsr.Plain(p.event.Message, maxMessage), "lastTimestamp": metav1.NewTime(p.last)}
	if count > 0 {
		change["count"] = count
	}
	data, err := json.Marshal(change)
	if err != nil {
		return nil, fmt.Errorf("encoding an event: %w", err)
	}
	return do(ctx, call{"patch", "events", p.object.Namespace, p.name()}, func(ctx context.Context) (*corev1.Event, error) {
		return e.client.CoreV1().Events(p.object.Namespace).Patch(ctx, p.name(), types.MergePatchType, data, metav1.PatchOptions{FieldManager: ManagedBy})
	})
}

// name follows from the object and the reason.
func (k eventKey) name() string {
	sum := sha256.Sum256([]byte(string(k.object.UID) + " " + k.object.Kind + " " + k.object.Name + " " + k.reason))
	return strings.TrimRight(k.object.Name[:min(len(k.object.Name), 200)], ".-") + "." + hex.EncodeToString(sum[:8])
}

// about is the object that events of the certificate are about: its live
// Secret; where there is none yet, NAME-next; and where there is not that
// either, the live Secret by the name that it will have.
func (c *Certificate) about(o *outlook) corev1.ObjectReference {
	ref := corev1.ObjectReference{Kind: "Secret", APIVersion: "v1", Namespace: c.Namespace, Name: c.Secret, UID: types.UID(o.about)}
	if o.aboutNext {
		ref.Name = c.nextName()
	}
	return ref
}

// isAbout keeps which object that is.
func (o *outlook) isAbout(seen *observation) {
	o.about, o.aboutNext = "", seen.live == nil && seen.next != nil
	switch {
	case seen.live != nil:
		o.about = string(seen.live.UID)
	case seen.next != nil:
		o.about = string(seen.next.UID)
	}
}

// tell says what a look at a certificate brought: what was done, and what is
// wrong, each of the latter when it is new or changed, and twice an hour.
func (i *Issuer) tell(c *Certificate, found []k8scsr.Finding, done []k8scsr.Event) {
	o, now := i.outlook(c), i.now()
	for _, event := range done {
		i.events.say(c.about(o), event)
	}
	var said map[k8scsr.Event]time.Time
	for _, f := range found {
		event, told := f.Event()
		if !told {
			continue
		}
		at, before := o.said[event]
		if !before || now.Sub(at) >= sayAgain || now.Before(at) {
			i.events.say(c.about(o), event)
			at = now
		}
		if said == nil {
			said = map[k8scsr.Event]time.Time{}
		}
		said[event] = at
	}
	o.said = said
}
