// Package matrix puts pkiwarden through faults again and again, each time with
// other chance: a real process on real servers is killed, cut off, slowed or
// doubled at a named point of a renewal, and what it promises is checked after
// each of its writes and at the end.
package matrix

import (
	"slices"
	"strings"
)

// step is a request of a renewal on its way to the API server.
type step string

const (
	look          step = "look"           // reads NAME-next, which begins each observation
	storeKey      step = "store-key"      // writes NAME-next with the new key
	createRequest step = "create-request" // makes the CSR
	recordRequest step = "record-request" // writes NAME-next with the CSR's UID: only where it waits, or somebody else goes on
	approve       step = "approve"        // updates the CSR's approval
	fetch         step = "fetch"          // reads the CSR that carries the certificate: only where the watch did not show it
	publish       step = "publish"        // writes the live Secret
	dropKey       step = "drop-key"       // writes NAME-next without a key
)

// writes are the steps of every renewal that change the world, in their order.
var writes = []step{storeKey, createRequest, approve, publish, dropKey}

// The points beyond the API server.
const (
	filesBegun = "files begun"      // the folder has changed
	filesDone  = "files done"       // the new pair is there
	reloaded   = "reloaded"         // Vault serves the new pair
	proofBegun = "before the proof" // the handshake that proves it begins
	proofDone  = "after the proof"
)

// killPoints are the points at which a process is killed. "before" a request
// means that the API server never gets it; "after", that it has answered and
// the answer is lost.
func killPoints() []string {
	points := []string{"before " + string(look), "after " + string(look)}
	for _, s := range writes {
		points = append(points, "before "+string(s), "after "+string(s))
	}
	return append(points, filesBegun, filesDone, reloaded, proofBegun, proofDone)
}

// The faults other than a kill. Each begins at a point that chance chooses.
const (
	apiAway      = "API server away"
	apiSlow      = "API server slow"
	apiBusy      = "API server answers 429"
	apiFailing   = "API server answers 500"
	etcdKilled   = "etcd killed"
	splitBrain   = "paused while another goes on"
	second       = "second controller"
	standby      = "leader killed beside another"
	rightsLost   = "rights removed"
	tokenRotated = "token rotated"
	signerAway   = "signer away"
	signerClock  = "signer with another clock"
	approved     = "approved by somebody else"
	denied       = "denied by somebody else"
	failed       = "failed by the signer"
	removed      = "request removed"
)

var faults = []string{
	apiAway, apiSlow, apiBusy, apiFailing, etcdKilled, splitBrain, second, standby, rightsLost, tokenRotated,
	signerAway, signerClock, approved, denied, failed, removed,
}

// pointsOf are the points at which a fault may begin. Who meddles with a request
// does so while there is one.
func pointsOf(fault string) []string {
	all := killPoints()
	open := []string{"after " + string(createRequest), "before " + string(approve)}
	switch fault {
	case apiAway, apiSlow, apiBusy, apiFailing, rightsLost, tokenRotated: // while there is something left to ask for
		return all[:slices.Index(all, "after "+string(dropKey))]
	case approved, denied, failed:
		return open
	case removed:
		return append(open, "after "+string(approve))
	case signerAway:
		return append(open, "before "+string(createRequest), "after "+string(approve))
	case signerClock:
		return []string{"after " + string(approve)} // when it signs
	}
	return all
}

// killed begins the names of the cases in which a process is killed.
const killed = "SIGKILL "

// Cases are the names of everything that is tried, in a fixed order.
func Cases() []string {
	var cases []string
	for _, p := range killPoints() {
		cases = append(cases, killed+p)
	}
	return append(cases, faults...)
}

// requestOf is the request of a point, and whether the point is after it; ok is
// false for one beyond the API server.
func requestOf(point string) (s step, after, ok bool) {
	when, name, found := strings.Cut(point, " ")
	s = step(name)
	if !found || !slices.Contains(append([]step{look, fetch, recordRequest}, writes...), s) {
		return "", false, false
	}
	return s, when == "after", true
}
