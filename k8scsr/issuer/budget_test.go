package issuer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/pkiwarden/pkiwarden/k8scsr"
	"github.com/pkiwarden/pkiwarden/pki"
)

// kept is a store that outlives the processes of a test.
type kept struct {
	data        []byte
	version     int
	gets, puts  int
	getErr, put error
	before      func() // runs once, before a Put
}

func (k *kept) Get(context.Context, string) ([]byte, string, error) {
	k.gets++
	if k.getErr != nil || k.version == 0 {
		return nil, "", k.getErr
	}
	return k.data, fmt.Sprint(k.version), nil
}

func (k *kept) Put(_ context.Context, key string, data []byte, version string) (string, error) {
	if f := k.before; f != nil {
		k.before = nil
		f()
	}
	k.puts++
	switch {
	case k.put != nil:
		return "", k.put
	case key != "certificates" || len(data) > 64<<10:
		return "", fmt.Errorf("%d bytes under %s", len(data), key)
	case version == "" && k.version > 0 || version != "" && version != fmt.Sprint(k.version):
		return "", fmt.Errorf("putting: %w", pki.ErrConflict)
	}
	k.data, k.version = data, k.version+1
	return fmt.Sprint(k.version), nil
}

func (c *cluster) issuerWith(state State, pod string, certificates ...Certificate) *subject {
	return c.issuerOn(c.process(pod).client(), func(o *Options) { o.State = state }, certificates...)
}

func fleet(n int) (out []Certificate) {
	for k := range n {
		out = append(out, numbered(k))
	}
	return out
}

// deny answers every open request.
func (c *cluster) deny(match string) {
	for _, csr := range c.csrs() {
		if strings.Contains(csr.Name, match) && len(csr.Status.Conditions) == 0 {
			c.decide(csr, certificatesv1.CertificateDenied, "no")
		}
	}
}

// TestFleetIsBorn: two hundred certificates are issued at once. The first ten
// are written to the record one by one, the others by elevens: each write counts
// ten, a twentieth of the fleet, ahead.
func TestFleetIsBorn(t *testing.T) {
	n := 200
	if testing.Short() {
		n = 40
	}
	c, state := newCluster(t), &kept{}
	c.mayOpen = n
	s := c.issuerWith(state, "pod-a", fleet(n)...)
	s.once(t)
	if len(c.keysUsed) != n || len(s.findings) != 0 {
		t.Errorf("%d requests, findings %s", len(c.keysUsed), s.rules())
	}
	if want := map[int]int{200: 28, 40: 20}[n]; state.puts != want || state.gets > 3 {
		t.Errorf("the record was written %d times and read %d times", state.puts, state.gets)
	}
}

// TestBudgetHoldsOverRestarts lets ten certificates be denied for a day, by a
// new process every time, and takes their own records away at times: the record
// of all holds what was asked for. An eleventh, which is well, is renewed all
// the while.
func TestBudgetHoldsOverRestarts(t *testing.T) {
	c, state := newCluster(t), &kept{}
	c.mayOpen = 20
	good := vaultTLS(func(c *Certificate) { c.Spec.Lifetime = time.Hour })
	bad := fleet(10)
	for n := range bad {
		bad[n].Spec.Approve = false
	}
	var made []time.Time
	known, found := map[string]bool{}, false
	pause := 2 * time.Minute // between two rounds at least
	if testing.Short() {
		pause = 6 * time.Minute
	}
	for begin, round := c.now, 0; c.now.Before(begin.Add(24 * time.Hour)); round++ {
		s := c.issuerWith(state, fmt.Sprintf("pod-%d", round%3), append(bad, good)...)
		next := s.once(t)
		for _, csr := range c.csrs() {
			if !known[csr.Name] {
				known[csr.Name] = true
				made = append(made, c.now)
			}
			if c.now.Sub(csr.CreationTimestamp.Time) > time.Hour {
				delete(c.objects, "certificatesigningrequests//"+csr.Name)
			}
		}
		c.deny("server-")
		found = found || strings.Contains(s.rules(), k8scsr.RuleBudget)
		if leaf := c.leaf(); leaf == nil || c.now.After(leaf.NotAfter.Add(-15*time.Minute)) {
			t.Fatalf("at %v the good one is not renewed: %+v", c.now, s.findings)
		}
		if every := int(200 * time.Minute / pause); round%every == every-1 { // somebody deletes what the certificates' own bounds rest on
			for key := range c.objects {
				if strings.HasPrefix(key, "secrets/vault/server-") {
					delete(c.objects, key)
				}
			}
		}
		if next = c.now.Add(max(next.Sub(c.now), pause)); next.After(c.now) {
			c.now = next
		}
	}
	// Ten for a day each, one for an hour: 12 + 2*(10*1 + 1*2) an hour and
	// 96 + 3*(10*2 + 1*37) a day, of which the good one has 36.
	for n := range made {
		if n >= 36 && made[n].Sub(made[n-36]) < time.Hour {
			t.Fatalf("37 requests within %v", made[n].Sub(made[n-36]))
		}
	}
	if len(made) > 267 || len(made) < 120 {
		t.Errorf("%d requests within a day", len(made))
	}
	if !found {
		t.Errorf("never found: %s", k8scsr.RuleBudget)
	}
}

// TestBudgetIsWrittenFirst: no request without its place in the record, and one
// place for a request, however often it is tried.
func TestBudgetIsWrittenFirst(t *testing.T) {
	c, state := newCluster(t), &kept{}
	c.denied["create certificatesigningrequests"] = true
	for range 5 {
		if _, err := c.issuerWith(state, "pod-a", vaultTLS()).Once(context.Background()); err == nil {
			t.Fatal("it was made")
		}
	}
	if state.puts != 1 || !strings.Contains(string(state.data), `"vault_vault-tls"`) {
		t.Errorf("written %d times: %s", state.puts, state.data)
	}
	clear(c.denied)
	c.issuerWith(state, "pod-b", vaultTLS()).once(t)
	if c.leaf() == nil || state.puts != 1 {
		t.Errorf("leaf %v, written %d times", c.leaf(), state.puts)
	}
}

// TestBudgetOfTwoLeaders: what another one wrote meanwhile is counted too.
func TestBudgetOfTwoLeaders(t *testing.T) {
	c, state := newCluster(t), &kept{}
	c.mayOpen = 2
	state.before = func() { c.issuerWith(state, "pod-b", numbered(1)).once(t) }
	c.issuerWith(state, "pod-a", vaultTLS()).once(t)
	l, err := k8scsr.ParseLedger(state.data)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, count := range l.Signers["kubernetes.io/kubelet-serving"].Hours {
		n += count
	}
	if n != 2 || c.leaf() == nil {
		t.Errorf("%d are counted: %s", n, state.data)
	}
}

// TestRecordOfRequestsLost: what the cluster still has is counted, and said;
// nothing is overwritten that cannot be read, and nothing stops.
func TestRecordOfRequestsLost(t *testing.T) {
	ofHour := func(t *testing.T, c *cluster, n int) {
		// A permanent failure that used the room of this hour.
		for k := range n {
			csr := c.csrs()[0].DeepCopy()
			csr.Name = fmt.Sprintf("earlier-%d", k)
			csr.CreationTimestamp.Time = c.now.Add(-time.Duration(k) * time.Minute)
			csr.Labels = map[string]string{LabelCertificate: "other_gone"}
			c.put(csr)
			c.decide(csr, certificatesv1.CertificateDenied, "no")
		}
	}
	for name, tc := range map[string]struct {
		state *kept
		rules string
		says  string
	}{
		"none yet":    {&kept{}, "", "those that the cluster still has are counted"},
		"damaged":     {&kept{data: []byte("{"), version: 7}, k8scsr.RuleBudgetUnknown, "unexpected end of JSON input"},
		"unreadable":  {&kept{getErr: errors.New("no right")}, k8scsr.RuleBudgetUnknown, "no right"},
		"unwritable":  {&kept{data: []byte(`{"version":1}`), version: 1, put: errors.New("read-only")}, k8scsr.RuleBudgetUnknown, "read-only"},
		"a newer one": {&kept{data: []byte(`{"version":9}`), version: 9}, k8scsr.RuleBudgetUnknown, "it has version 9"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			c := newCluster(t)
			c.mayOpen = 2
			was := string(tc.state.data)
			s := c.issuerWith(tc.state, "pod-a", vaultTLS())
			s.once(t)
			if c.leaf() == nil || s.rules() != tc.rules || !strings.Contains(fmt.Sprint(s.findings)+s.log.String(), tc.says) {
				t.Fatalf("leaf %v, findings %+v\n%s", c.leaf(), s.findings, &s.log)
			}
			if tc.rules != "" && string(tc.state.data) != was {
				t.Errorf("overwritten: %s", tc.state.data)
			}
			// One that fails finds the hour's room used up by what the cluster has.
			ofHour(t, c, 16)
			if tc.rules == "" {
				tc.state.version = 0 // lost again
			}
			failing := func(c *Certificate) { c.Spec.Approve = false }
			s = c.issuerWith(tc.state, "pod-b", vaultTLS(), numbered(1, failing))
			s.once(t)
			c.deny("server-1")
			c.now = c.now.Add(time.Second)
			s.once(t)
			c.now = c.now.Add(5 * time.Minute)
			s = c.issuerWith(tc.state, "pod-b", vaultTLS(), numbered(1, failing))
			s.once(t)
			if !strings.Contains(s.rules(), k8scsr.RuleBudget+" ") && !strings.HasSuffix(s.rules(), k8scsr.RuleBudget) {
				t.Errorf("findings %s", s.rules())
			}
			// It is told until it is mended, and then no more.
			tc.state.getErr, tc.state.put = nil, nil
			if tc.rules != "" {
				tc.state.data, tc.state.version = []byte(`{"version":1}`), 20
			}
			c.now = c.now.Add(time.Minute)
			s.once(t)
			if strings.Contains(s.rules(), k8scsr.RuleBudgetUnknown) {
				t.Errorf("findings after it was mended: %s", s.rules())
			}
		})
	}
}
