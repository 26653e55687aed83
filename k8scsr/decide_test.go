package k8scsr

import (
	"strings"
	"testing"
)

// TestRequestThatIsNotExact: a request under our name and for our key that is not
// exactly what is wanted was changed on its way, or made by somebody else. Nobody
// is told to approve it, and it is denied only where we have the right, which is
// for the wanted signer alone: else a person would be told to give us the right
// for whatever signer stands in it.
func TestRequestThatIsNotExact(t *testing.T) {
	changes := map[string]func(*Request){
		"its signer is":    func(r *Request) { r.Signer = "kubernetes.io/kube-apiserver-client" },
		"its usages are":   func(r *Request) { r.Usages = []string{"any"} },
		"its requester is": func(r *Request) { r.Requester.Username = "system:serviceaccount:default:tenant" },
		"its lifetime is":  func(r *Request) { r.ExpirationSeconds = nil },
	}
	for why, change := range changes {
		for _, approve := range []bool{true, false} {
			w := newWorld(t)
			w.request(0)
			w.want.Approve = approve
			change(w.Request)
			step := Next(w.State, w.want, w.now)
			want := DropPending
			if approve && w.Request.Signer == w.want.Signer {
				want = Deny
			}
			if step.Kind != want || !strings.Contains(step.Reason, why) || strings.Contains(step.Reason, "kubectl certificate approve") {
				t.Errorf("%s, approve %v: %s (%s), want %s", why, approve, step.Kind, step.Reason, want)
			}
			if f := step.Record.LastFailure; want == DropPending && (f == nil || f.Rule != RuleForeign) {
				t.Errorf("%s, approve %v: failure %+v", why, approve, f)
			}
		}
	}
}
