package pki_test

import (
	"testing"

	"github.com/pkiwarden/pkiwarden/crl"
	"github.com/pkiwarden/pkiwarden/pki"
)

// A step that is not needed says why: step 1 is named as the reason only where
// it is one.
func TestRescueSaysWhyAStepIsNotNeeded(t *testing.T) {
	unread := crl.Limit{Backend: "consul", Rule: "set consul.address"}
	const (
		nothing  = "nothing is over the limit"
		unknown  = "no list is known to be over a limit"
		off      = "the lists are switched off: none is written"
		noLimit  = "whether it is needed is not known, since the limit is not"
		notRead  = "whether it is needed is known once every certificate has been read"
		noRight  = `step 1 is enough, once "update" on path "pki/tidy" is granted`
		noFloor  = "it is at its floor, 24h"
		notFound = "to what is not known: set consul.address"
	)
	tests := []struct {
		name                        string
		rescue                      func() pki.Rescue
		step1                       pki.RescueNeed
		buffer, raise, key, disable string
	}{
		{"tidy is enough", func() pki.Rescue { return rescue(raft64K(), expired(500, 100*hour), expired(1300, -hour)) }, pki.Needed,
			"step 1 is enough", "step 1 is enough", "step 1 is enough", "step 1 is enough"},
		{"tidy would be enough, and may not", func() pki.Rescue {
			r := rescue(raft64K(), expired(500, 100*hour), expired(1300, -hour))
			r.Denied = []pki.PermissionError{{Path: "pki/tidy", Capability: "update"}}
			return r
		}, pki.Needed, noRight, noRight, noRight, noRight},
		{"tidy would be enough, and must not", func() pki.Rescue {
			r := rescue(raft64K(), expired(500, 100*hour), expired(1300, -hour))
			r.Lists[0].Doomed = []string{"0a"}
			return r
		}, pki.Needed, "step 1 is enough, once what refuses it is mended", "step 1 is enough, once what refuses it is mended", "step 1 is enough, once what refuses it is mended", "step 1 is enough, once what refuses it is mended"},
		{"all fits, and nothing has expired", func() pki.Rescue { return rescue(raft64K(), expired(1600, -hour)) }, pki.Useless, nothing, nothing, nothing, nothing},
		{"all fits, and much has expired", func() pki.Rescue { return rescue(raft64K(), expired(1600, 100*hour)) }, pki.Useless, nothing, nothing, nothing, nothing},
		{"behind, and all fits", func() pki.Rescue { return rescue(raft64K(), expired(1650, -hour)) }, pki.Useless, nothing, nothing, nothing, nothing},
		{"no limit known, and nothing behind", func() pki.Rescue { return rescue(unread, expired(1600, -hour)) }, pki.Useless, unknown, unknown, unknown, unknown},
		{"no list", func() pki.Rescue { return pki.Rescue{Mount: mount, Config: &pki.CRLConfig{}} }, pki.Useless, nothing, nothing, nothing, nothing},
		{"switched off", func() pki.Rescue {
			r := rescue(raft64K(), expired(1800, 100*hour))
			r.Config.Disabled = true
			return r
		}, pki.Useless, off, off, off, off},
		{"no limit known, behind, and nothing has expired", func() pki.Rescue { return rescue(unread, expired(1800, -hour)) }, pki.Useless,
			noFloor, notFound, noLimit, noLimit},
		{"no limit known, behind, and some has expired", func() pki.Rescue { return rescue(unread, expired(500, 100*hour), expired(1300, -hour)) }, pki.Needed,
			noFloor, notFound, noLimit, noLimit},
		{"perhaps", func() pki.Rescue {
			r := rescue(raft64K(), expired(1666, 100*hour), expired(334, -hour))
			r.Lists[0].Groups[0].Entries, r.Lists[0].Groups[0].Bytes = 10000, 390000
			return r
		}, pki.Needed, noFloor, "", notRead, notRead},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			atFloor := policy()
			atFloor.SafetyBuffer = 24 * hour
			p := pki.PlanRescue(tt.rescue(), atFloor, now)
			if p.Steps[0].Need != tt.step1 {
				t.Errorf("step 1 %s: %s", p.Steps[0].Need, p.Steps[0].Why)
			}
			for i, want := range []string{tt.buffer, tt.raise, tt.key, tt.disable} {
				if got := p.Steps[1+i]; want != "" && got.Why != want {
					t.Errorf("step %d says %q, want %q", got.Step, got.Why, want)
				}
			}
		})
	}
}
