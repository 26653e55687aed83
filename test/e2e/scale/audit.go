package scale

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// Call is a kind of request to the API server.
type Call struct{ Verb, Resource string }

func (c Call) String() string { return c.Verb + " " + c.Resource }

// Resources that are told apart from others of their kind.
const (
	leases  = "leases"
	events  = "events"
	pending = "secrets NAME-next"
	records = "configmaps of the state"

	watching = "watch"
)

// Calls are requests as the API server's audit log has them.
type Calls struct {
	By        map[Call]int
	Throttled int // answered with 429
	Conflicts int // answered with 409
	Failed    int // answered with any other code from 400 on, but for a GET's 404
}

// Total is how many requests there were, watches and those for the Lease
// included.
func (c Calls) Total() int {
	sum := 0
	for _, n := range c.By {
		sum += n
	}
	return sum
}

// Counted is Total without what does not depend on the certificates: watches,
// which last for minutes, and those for the Lease.
func (c Calls) Counted() int {
	sum := 0
	for call, n := range c.By {
		if call.Verb != watching && call.Resource != leases {
			sum += n
		}
	}
	return sum
}

// Writes are those that change something, but for the Lease.
func (c Calls) Writes() int {
	sum := 0
	for call, n := range c.By {
		if call.Resource != leases && !slices.Contains([]string{"get", "list", watching}, call.Verb) {
			sum += n
		}
	}
	return sum
}

// Since is what was added to an earlier c.
func (c Calls) Since(earlier Calls) Calls {
	out := Calls{By: map[Call]int{}, Throttled: c.Throttled - earlier.Throttled, Conflicts: c.Conflicts - earlier.Conflicts, Failed: c.Failed - earlier.Failed}
	for call, n := range c.By {
		if n -= earlier.By[call]; n != 0 {
			out.By[call] = n
		}
	}
	return out
}

// auditPolicy lets the API server log what the users ask, without contents: a
// watch when it begins, everything else when it is answered.
func auditPolicy(users ...string) string {
	list, _ := json.Marshal(users) // strings can be encoded
	return fmt.Sprintf(`apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
    users: %s
  - level: None
`, list)
}

// auditEvent is what is read of a line (audit.k8s.io/v1, Event).
type auditEvent struct {
	Stage, RequestURI, Verb string
	User                    struct{ Username string }
	ObjectRef               *struct{ Resource, Subresource, Namespace, Name string }
	ResponseStatus          struct{ Code int }
}

// call is what kind of request an event is of; false for an event that tells
// nothing new of it.
func (e auditEvent) call() (Call, bool) {
	if begun := e.Stage == "ResponseStarted"; begun != (e.Verb == watching) || !begun && e.Stage != "ResponseComplete" && e.Stage != "Panic" {
		// One that never began was refused.
		if e.Verb != watching || e.Stage != "ResponseComplete" || e.ResponseStatus.Code < http.StatusBadRequest {
			return Call{}, false
		}
	}
	if e.ObjectRef == nil || e.ObjectRef.Resource == "" {
		path, _, _ := strings.Cut(e.RequestURI, "?")
		return Call{e.Verb, path}, true
	}
	resource := e.ObjectRef.Resource
	switch {
	case resource == "secrets" && strings.HasSuffix(e.ObjectRef.Name, nextSuffix):
		resource = pending
	case resource == "configmaps" && e.ObjectRef.Namespace == world.ControllerNamespace:
		resource = records
	}
	if e.ObjectRef.Subresource != "" {
		resource += "/" + e.ObjectRef.Subresource
	}
	return Call{e.Verb, resource}, true
}

// auditLog counts the lines of the API server's audit log while it grows.
type auditLog struct {
	mu    sync.Mutex
	users map[string]*Calls
	err   error
}

func newAuditLog(users ...string) *auditLog {
	a := &auditLog{users: map[string]*Calls{}}
	for _, user := range users {
		a.users[user] = &Calls{By: map[Call]int{}}
	}
	return a
}

// calls are those of one user so far.
func (a *auditLog) calls(user string) Calls {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := *a.users[user]
	c.By = maps.Clone(c.By)
	return c
}

// problem is why counting has ended.
func (a *auditLog) problem() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

const auditPause = 100 * time.Millisecond

// follow counts until ctx ends. It waits for the file.
func (a *auditLog) follow(ctx context.Context, path string) {
	if err := a.read(ctx, path); err != nil && ctx.Err() == nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.err = fmt.Errorf("counting the API server's audit log: %w", err)
	}
}

func (a *auditLog) read(ctx context.Context, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewReaderSize(f, 64<<10)
	var line []byte
	for {
		part, err := lines.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			if err := a.count(line); err != nil {
				return err
			}
			line = line[:0]
		case errors.Is(err, io.EOF): // the rest is not written yet
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(auditPause):
			}
		case !errors.Is(err, bufio.ErrBufferFull):
			return err
		}
	}
}

func (a *auditLog) count(line []byte) error {
	var e auditEvent
	if err := json.Unmarshal(line, &e); err != nil {
		return fmt.Errorf("reading a line: %w", err)
	}
	call, ok := e.call()
	if !ok {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.users[e.User.Username]
	if c == nil {
		return nil
	}
	c.By[call]++
	switch code := e.ResponseStatus.Code; {
	case code == http.StatusTooManyRequests:
		c.Throttled++
	case code == http.StatusConflict:
		c.Conflicts++
	case code >= http.StatusBadRequest && (code != http.StatusNotFound || e.Verb != "get"):
		c.Failed++
	}
	return nil
}
