package pki_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

func TestNeediestMountFirst(t *testing.T) {
	ca := newAuthority(t, "root")
	need := func(path string, list pki.CRL, change func(*pki.Observation)) pki.Need {
		o := observation(list)
		o.Mount = pki.Mount{Path: path, UUID: path}
		if change != nil {
			change(&o)
		}
		return pki.NeedOf(o, pki.Plan(o, policy(), now), now)
	}
	at := func(list pki.CRL, d time.Duration) pki.CRL {
		list.Projection = crl.Projection{LimitReachedAt: now.Add(d)}
		return list
	}
	half := ca.list(t, 0, 8000, batch{100, hour})    // 4 kB of 8
	most := ca.list(t, 0, 5000, batch{100, hour})    // of 5
	over := ca.list(t, 0, 4000, batch{100, hour})    // of 4
	ripe := ca.list(t, 0, 0, batch{100, 200 * hour}) // no limit known
	more := ca.list(t, 0, 0, batch{120, 200 * hour}) //
	open := func(o *pki.Observation) { o.Record.Run = &pki.Run{} }
	running := func(o *pki.Observation) { o.Status.State = pki.TidyRunning }

	want := []pki.Need{
		need("i-open", half, open),
		need("h-running", half, running),
		need("g-over-the-limit", over, nil),
		need("f-in-two-days", at(half, 2*days), nil),
		need("e-in-ten-days", at(most, 10*days), nil),
		need("d-fuller", most, nil),
		need("c-half-full-and-far", at(half, 300*days), nil),
		need("b-more-to-reclaim", more, nil),
		need("a-less", ripe, nil),
		need("a-less-too", ripe, nil),
	}
	got := slices.Clone(want)
	r := rand.New(rand.NewPCG(7, 8))
	for range 200 {
		r.Shuffle(len(got), func(i, j int) { got[i], got[j] = got[j], got[i] })
		slices.SortFunc(got, pki.Need.Compare)
		if !slices.Equal(got, want) {
			var names []string
			for _, n := range got {
				names = append(names, n.Mount.Path)
			}
			t.Fatalf("order %s", strings.Join(names, ", "))
		}
	}
}

// The order is total: no two mounts are equal, none comes before itself, and
// what holds between neighbours holds between all.
func TestNeedIsATotalOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	draw := func() pki.Need {
		n := pki.Need{
			Open: r.IntN(4) == 0, On: r.IntN(4) == 0, Share: float64(r.IntN(3)) / 2, Reclaimable: int64(r.IntN(3)),
			Mount: pki.Mount{Path: fmt.Sprint(r.IntN(4)), UUID: fmt.Sprint(r.IntN(3))},
		}
		if r.IntN(2) == 0 {
			n.LimitAt = now.Add(time.Duration(r.IntN(3)) * hour)
		}
		return n
	}
	for range 50_000 {
		a, b, c := draw(), draw(), draw()
		ab, bc, ac := a.Compare(b), b.Compare(c), a.Compare(c)
		switch {
		case a.Compare(a) != 0, ab != -b.Compare(a):
			t.Fatalf("not antisymmetric: %+v, %+v", a, b)
		case ab == 0 && a != b:
			t.Fatalf("equal: %+v, %+v", a, b)
		case ab <= 0 && bc <= 0 && ac > 0:
			t.Fatalf("not transitive: %+v, %+v, %+v", a, b, c)
		}
	}
}
