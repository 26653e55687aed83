package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers/serverstest"
	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

const (
	// fleetTTL is how long a fleet's certificates live. Vault refuses to revoke
	// what has less than two seconds left.
	fleetTTL = 9 * time.Second
	// fleetBuffer is tidy.safetyBuffer of the stories.
	fleetBuffer = time.Second
)

// briefly makes tidy's stories short: everything that protects a Vault by days
// and hours takes seconds.
func briefly(w *world.World) {
	for path, value := range map[string]any{
		"crl.interval":                 "1s",
		"tidy.safetyBuffer":            fleetBuffer.String(),
		"tidy.allowShortSafetyBuffer":  true,
		"tidy.minInterval":             "3s",
		"leaderElection.leaseDuration": "6s",
		"leaderElection.renewDeadline": "4s",
		"leaderElection.retryPeriod":   "1s",
	} {
		w.Setting(path, value)
	}
}

// controller is Vault's sidecar, which leads: one pod, again and again with
// another configuration.
type controller struct {
	*world.Pod
	ctx  context.Context
	w    *world.World
	past []*world.Pod
}

// tidying is a running world with an audit log, in which tidy is switched off.
func tidying(t *testing.T) *controller {
	t.Helper()
	ctx, w := start(t, world.Options{})
	briefly(w)
	pod, err := w.StartPod(ctx, world.PodOptions{Name: "vault-0"})
	must(t, err)
	must(t, w.Delivered(ctx))
	must(t, w.StartVault(ctx, servers.VaultOptions{Audit: true}))
	return &controller{Pod: pod, ctx: ctx, w: w, past: []*world.Pod{pod}}
}

// enable starts the pod once more, with tidy switched on for some mounts.
func (c *controller) enable(t *testing.T, set map[string]any, mounts ...string) {
	t.Helper()
	must(t, c.Stop(c.ctx))
	all := map[string]any{"tidy.enabled": true, "tidy.mounts": mounts}
	maps.Copy(all, set)
	var err error
	c.Pod, err = c.w.StartPod(c.ctx, world.PodOptions{Name: "vault-0", Set: all})
	must(t, err)
	c.past = append(c.past, c.Pod)
}

// fleet is a PKI mount that issues for pods which come and go.
type fleet struct {
	*world.PKI
	t      *testing.T
	ctx    context.Context
	w      *world.World
	client *api.Client // may do everything
	last   time.Time   // of the revocations
	issued []string    // all serials that were revoked
}

// newFleet makes a mount in which tidy has run before, so that no run is due
// for never having been.
func newFleet(t *testing.T, ctx context.Context, w *world.World, o world.PKIOptions) *fleet {
	t.Helper()
	o.MaxTTL = fleetTTL
	p, err := w.EnablePKI(ctx, o)
	must(t, err)
	f := &fleet{PKI: p, t: t, ctx: ctx, w: w, client: w.Vault.Client()}
	f.tidyByHand()
	return f
}

// tidyByHand is a tidy that pkiwarden has nothing to do with.
func (f *fleet) tidyByHand() {
	f.t.Helper()
	_, err := f.client.Logical().WriteWithContext(f.ctx, f.Mount+"/tidy", map[string]any{"tidy_revoked_certs": true, "tidy_cert_store": true, "safety_buffer": fleetBuffer.String()})
	must(f.t, err)
	f.tidyIs("Finished")
}

// revoke is n pods that come and go; it returns the serials. They come and go
// within one second, as certificates and lists have their dates, so that they
// ripen together.
func (f *fleet) revoke(n int) []string {
	f.t.Helper()
	var serials []string
	second := time.Now().Truncate(time.Second).Add(time.Second)
	time.Sleep(time.Until(second))
	for range n {
		issued, err := f.client.Logical().WriteWithContext(f.ctx, f.Mount+"/issue/pod", map[string]any{"common_name": fmt.Sprintf("pod-%d.example.internal", len(f.issued))})
		must(f.t, err)
		serial := issued.Data["serial_number"].(string)
		serials, f.issued = append(serials, serial), append(f.issued, serial)
	}
	for _, serial := range serials {
		_, err := f.client.Logical().WriteWithContext(f.ctx, f.Mount+"/revoke", map[string]any{"serial_number": serial})
		must(f.t, err)
	}
	if f.last = time.Now(); f.last.Sub(second) > time.Second {
		f.t.Logf("%d revocations took %s: they ripen one after the other", n, f.last.Sub(second))
	}
	return serials
}

// in is the fleet for a part of the story: what fails there fails that part.
func (f *fleet) in(t *testing.T) *fleet {
	f.t = t
	return f
}

// ripen waits until tidy would delete all that was revoked.
func (f *fleet) ripen() {
	time.Sleep(time.Until(f.last.Add(fleetTTL + fleetBuffer + 1500*time.Millisecond)))
}

// lists checks that a second client finds exactly these serials on the list.
func (f *fleet) lists(want ...string) error {
	list, err := f.CRL(f.ctx)
	if err != nil {
		return err
	}
	var got []string
	for _, e := range list.RevokedCertificateEntries {
		got = append(got, serialText(e.SerialNumber))
	}
	slices.Sort(got)
	if want = slices.Sorted(slices.Values(want)); !slices.Equal(got, want) {
		return fmt.Errorf("the list of %s has %d entries %v, want %d %v", f.Mount, len(got), got, len(want), want)
	}
	return nil
}

// serialText is a serial as Vault writes it.
func serialText(n *big.Int) string {
	var pairs []string
	for _, b := range n.Bytes() {
		pairs = append(pairs, fmt.Sprintf("%02x", b))
	}
	return strings.Join(pairs, ":")
}

// tidyIs waits until Vault says that its tidy is in the given state.
func (f *fleet) tidyIs(state string) {
	f.t.Helper()
	eventually(f.t, f.ctx, 30*time.Second, "vault says of the tidy of "+f.Mount+": "+state, func(ctx context.Context) error {
		status, err := f.TidyStatus(ctx)
		if err == nil && status["state"] != state {
			err = fmt.Errorf("state %v", status["state"])
		}
		return err
	})
}

// series is the mount's series of the given name, with result where not empty.
func (f *fleet) series(name, result string) string {
	labels := fmt.Sprintf(`mount="%s"`, f.Mount)
	if result != "" {
		labels += fmt.Sprintf(`,result="%s"`, result)
	}
	return fmt.Sprintf("pkiwarden_%s{%s}", name, labels)
}

// asked is how often pkiwarden has asked Vault for a tidy of the mount, by
// Vault's audit log. What this test asked for itself does not count.
func (f *fleet) asked() int {
	f.t.Helper()
	return audited(f.t, f.w, "update", f.Mount+"/tidy")
}

// audited counts the requests of pkiwarden's in Vault's audit log.
func audited(t *testing.T, w *world.World, operation, path string) int {
	t.Helper()
	file, err := os.Open(w.Vault.AuditPath)
	must(t, err)
	defer file.Close()
	lines, count := 0, 0
	scanner := bufio.NewScanner(file)
	scanner.Buffer(nil, 16<<20)
	for scanner.Scan() {
		var entry struct {
			Type string
			Auth struct {
				DisplayName string `json:"display_name"`
			}
			Request struct{ Operation, Path string }
		}
		must(t, json.Unmarshal(scanner.Bytes(), &entry))
		if entry.Type != "request" || !strings.HasPrefix(entry.Auth.DisplayName, "kubernetes") {
			continue
		}
		lines++
		if entry.Request.Operation == operation && entry.Request.Path == path {
			count++
		}
	}
	must(t, scanner.Err())
	if lines == 0 {
		t.Fatal("the audit log knows no request of pkiwarden's: the count would be 0 by itself")
	}
	return count
}

// recent checks that a series is a time not long ago.
func recent(pod *world.Pod, series string, since time.Time) func(context.Context) error {
	return func(ctx context.Context) error {
		got, err := pod.Metric(ctx, series)
		if err != nil {
			return err
		}
		if at := time.UnixMilli(int64(got * 1000)); at.Before(since) || at.After(time.Now()) {
			return fmt.Errorf("%s is %s, want between %s and now", series, at, since)
		}
		return nil
	}
}

func finding(rule, severity string) string {
	return fmt.Sprintf(`pkiwarden_findings{rule="%s",severity="%s"}`, rule, severity)
}

func absent(t *testing.T, ctx context.Context, pod *world.Pod, series string) {
	t.Helper()
	if v, err := pod.Metric(ctx, series); !errors.Is(err, world.ErrAbsent) {
		t.Errorf("%s is %v, %v; want it absent", series, v, err)
	}
}

// The controller's tidy, by its own decision.
func TestTidyRun(t *testing.T) {
	c := tidying(t)
	ctx, w := c.ctx, c.w
	plain := newFleet(t, ctx, w, world.PKIOptions{Mount: "plain"})
	auto := newFleet(t, ctx, w, world.PKIOptions{Mount: "auto", AutoRebuild: true})
	denied := newFleet(t, ctx, w, world.PKIOptions{Mount: "denied"})
	killed := newFleet(t, ctx, w, world.PKIOptions{Mount: "killed"})
	left := newFleet(t, ctx, w, world.PKIOptions{Mount: "left", AutoRebuild: true})
	forgotten := newFleet(t, ctx, w, world.PKIOptions{Mount: "forgotten"})
	for _, f := range []*fleet{left, forgotten, killed, denied} {
		f.revoke(6)
		must(t, f.Rotate(ctx))
	}
	t.Run("switched off", func(t *testing.T) { switchedOff(t, c, denied.in(t)) })
	t.Run("left by somebody", func(t *testing.T) { leftBySomebody(t, c, left.in(t)) })
	t.Run("without the right", func(t *testing.T) { withoutTheRight(t, c, denied.in(t)) })
	t.Run("killed in mid-run", func(t *testing.T) { killedInMidRun(t, c, killed.in(t)) })
	t.Run("by volume", func(t *testing.T) { byVolume(t, c, plain.in(t), auto.in(t)) })
	t.Run("forgotten by vault", func(t *testing.T) { forgottenByVault(t, c, forgotten.in(t)) })
	noSecrets(t, ctx, w, c.past...)
}

// switchedOff: pkiwarden says what it would do, and does not do it.
func switchedOff(t *testing.T, c *controller, f *fleet) {
	pod := c.Pod
	f.ripen()
	eventually(t, f.ctx, 20*time.Second, "a finding says that tidy would run", metricIs(pod, finding("tidy-would-run", "info"), 4))
	must(t, metricIs(pod, f.series("crl_reclaimable_entries", ""), float64(len(f.issued)))(f.ctx))
	absent(t, f.ctx, pod, f.series("tidy_next_timestamp_seconds", ""))
	absent(t, f.ctx, pod, f.series("tidy_runs_total", "ok"))
	time.Sleep(2 * time.Second) // two more looks
	must(t, f.lists(f.issued...))
	if n := f.asked(); n != 0 {
		t.Errorf("vault was asked for %d runs of tidy", n)
	}
	states, err := f.w.Client.CoreV1().ConfigMaps(world.ControllerNamespace).List(f.ctx, metav1.ListOptions{})
	must(t, err)
	for _, m := range states.Items {
		if strings.HasPrefix(m.Name, "pkiwarden-state-tidy-") {
			t.Errorf("switched off, it wrote down a record of tidy: %s", m.Name)
		}
	}
}

// leftBySomebody: where Vault rebuilds the list by time only, tidy alone does
// not shrink it. Whose tidy it was makes no difference.
func leftBySomebody(t *testing.T, c *controller, f *fleet) {
	f.ripen()
	f.tidyByHand()
	status, err := f.TidyStatus(c.ctx)
	must(t, err)
	if n := fmt.Sprint(status["revoked_cert_deleted_count"]); n != "6" {
		t.Fatalf("the story begins wrong: tidy deleted %s revocations, want 6", n)
	}
	eventually(t, c.ctx, 10*time.Second, "a finding says that the list is to be rotated", metricIs(c.Pod, finding("crl-rotate-needed", "info"), 1))
	must(t, f.lists(f.issued...))

	c.enable(t, nil, f.Mount)
	eventually(t, c.ctx, 20*time.Second, "the list has shrunk", func(context.Context) error { return f.lists() })
	eventually(t, c.ctx, 10*time.Second, "pkiwarden counts that as well done", metricIs(c.Pod, f.series("tidy_runs_total", "ok"), 1))
	if n := audited(t, f.w, "read", f.Mount+"/crl/rotate"); n != 1 {
		t.Errorf("the list was rotated %d times, want once", n)
	}
}

// withoutTheRight: Vault's policy lacks the one line. It is named; asking goes
// on at the pace of tidy, not of the loop; granted, the run comes.
func withoutTheRight(t *testing.T, c *controller, f *fleet) {
	ctx := c.ctx
	restore := withoutTidy(t, ctx, c.w)
	c.enable(t, nil, f.Mount)
	pod := c.Pod
	eventually(t, ctx, 20*time.Second, "a finding names the missing right", metricIs(pod, finding("tidy-permission", "warning"), 1))
	_, err := pod.WaitForLog(ctx, `needs capability .*update.* on path .*denied/tidy`)
	must(t, err)
	absent(t, ctx, pod, finding("tidy-failed", "warning"))
	first, began := f.asked(), time.Now()
	time.Sleep(7 * time.Second)
	if n := f.asked() - first; n > 2 {
		t.Errorf("vault was asked %d times more within %s, with a minimum interval of 3s", n, time.Since(began))
	}
	if n := strings.Count(pod.Log(), "denied/tidy"); n > 6 {
		t.Errorf("the missing right is in %d log lines:\n%s", n, pod.LogTail(30))
	}
	must(t, metricIs(pod, finding("tidy-permission", "warning"), 1)(ctx))
	must(t, f.lists(f.issued...))

	restore()
	eventually(t, ctx, 30*time.Second, "granted, the run comes", metricIs(pod, f.series("tidy_runs_total", "ok"), 1))
	must(t, f.lists())
	eventually(t, ctx, 10*time.Second, "the finding ends", func(ctx context.Context) error {
		if _, err := pod.Metric(ctx, finding("tidy-permission", "warning")); !errors.Is(err, world.ErrAbsent) {
			return fmt.Errorf("the finding is still there (%v)", err)
		}
		return nil
	})
}

// withoutTidy takes the right to tidy from the policy that pkiwarden's role
// has; the result gives it back.
func withoutTidy(t *testing.T, ctx context.Context, w *world.World) (restore func()) {
	t.Helper()
	const name = "pkiwarden-tidy"
	shipped, err := w.Vault.Client().Sys().GetPolicyWithContext(ctx, name)
	must(t, err)
	must(t, w.Vault.Client().Sys().PutPolicyWithContext(ctx, name, `path "+/crl/rotate" { capabilities = ["read"] }`))
	return func() {
		t.Helper()
		must(t, w.Vault.Client().Sys().PutPolicyWithContext(ctx, name, shipped))
	}
}

// killedInMidRun: the pod is gone while Vault tidies. Its next life finds the
// run and sees it through.
func killedInMidRun(t *testing.T, c *controller, f *fleet) {
	ctx := c.ctx
	must(t, f.lists(f.issued...))
	c.enable(t, map[string]any{"tidy.pause": "1500ms"}, f.Mount)
	pod := c.Pod
	f.tidyIs("Running")
	must(t, pod.Kill())
	if n := f.asked(); n != 1 {
		t.Fatalf("vault was asked for %d runs, want 1", n)
	}
	must(t, pod.Start(ctx))
	var leader *world.Pod
	eventually(t, ctx, 20*time.Second, "it leads again", oneLeader([]*world.Pod{pod}, &leader))
	if status, err := f.TidyStatus(ctx); err != nil || status["state"] != "Running" {
		t.Fatalf("the story ends too soon: %v, %v", status["state"], err)
	}
	eventually(t, ctx, 40*time.Second, "the run is seen through", metricIs(pod, f.series("tidy_runs_total", "ok"), 1))
	must(t, f.lists())
	if n := f.asked(); n != 1 {
		t.Errorf("vault was asked for %d runs, want the one", n)
	}
}

// forgottenByVault: Vault dies in mid-run, and with it all that it knew of the
// run. That one is interrupted; once Vault has settled, the next is decided.
func forgottenByVault(t *testing.T, c *controller, f *fleet) {
	must(t, f.lists(f.issued...))
	c.enable(t, map[string]any{"tidy.pause": "900ms"}, f.Mount)
	f.tidyIs("Running")
	must(t, c.w.Vault.Kill())
	lines := strings.Count(c.Log(), "\n")
	time.Sleep(5 * time.Second)
	if n := strings.Count(c.Log(), "\n") - lines; n > 10 {
		t.Errorf("%d log lines in 5 s without Vault:\n%s", n, c.LogTail(n))
	}
	must(t, c.w.Vault.Start(c.ctx))
	must(t, c.w.Vault.Unseal(c.ctx))
	eventually(t, c.ctx, 40*time.Second, "the run counts as interrupted", metricIs(c.Pod, f.series("tidy_runs_total", "interrupted"), 1))
	must(t, f.lists(f.issued...))
	eventually(t, c.ctx, 40*time.Second, "the next one does it", metricIs(c.Pod, f.series("tidy_runs_total", "ok"), 1))
	must(t, f.lists())
	if n := f.asked(); n != 2 {
		t.Errorf("vault was asked for %d runs, want 2", n)
	}
}

// byVolume: expired revocations pile up in two mounts, one of which rebuilds
// its list by time only.
func byVolume(t *testing.T, c *controller, plain, auto *fleet) {
	ctx, w, began := c.ctx, c.w, time.Now()
	c.enable(t, nil, plain.Mount, auto.Mount)
	pod := c.Pod
	for _, f := range []*fleet{plain, auto} {
		eventually(t, ctx, 20*time.Second, "the controller counts runs in "+f.Mount, metricIs(pod, f.series("tidy_runs_total", "ok"), 0))
	}
	both := []*fleet{plain, auto}
	old := map[*fleet][]string{}
	for _, f := range both {
		old[f] = f.revoke(8)
		must(t, f.Rotate(ctx)) // auto would show them in days
		must(t, f.lists(old[f]...))
	}
	time.Sleep(time.Until(auto.last.Add(fleetTTL - 2*time.Second)))
	live := map[*fleet][]string{}
	for _, f := range both {
		live[f] = f.revoke(3)
		must(t, f.Rotate(ctx))
		must(t, metricIs(pod, f.series("tidy_runs_total", "ok"), 0)(ctx))
	}
	for _, f := range both {
		eventually(t, ctx, 15*time.Second, "tidy has run in "+f.Mount, metricIs(pod, f.series("tidy_runs_total", "ok"), 1))
		must(t, f.lists(live[f]...))
		if n := f.asked(); n != 1 {
			t.Errorf("vault was asked for %d runs in %s, want 1", n, f.Mount)
		}
	}
	if n := audited(t, w, "read", "auto/crl/rotate"); n != 1 {
		t.Errorf("the list of auto was rotated %d times, want once", n)
	}
	if n := audited(t, w, "read", "plain/crl/rotate"); n != 0 {
		t.Errorf("the list of plain was rotated %d times: vault rebuilds it by itself", n)
	}
	for _, f := range both {
		eventually(t, ctx, 10*time.Second, "the metrics say that it worked in "+f.Mount, recent(pod, f.series("tidy_last_effective_timestamp_seconds", ""), began))
	}
	for _, f := range both {
		eventually(t, ctx, 25*time.Second, "the rest of "+f.Mount+" goes too", metricIs(pod, f.series("tidy_runs_total", "ok"), 2))
		must(t, f.lists())
		eventually(t, ctx, 10*time.Second, "nothing is reclaimable in "+f.Mount, metricIs(pod, f.series("crl_reclaimable_entries", ""), 0))
		eventually(t, ctx, time.Minute, "the next tidy of "+f.Mount+" is due within the week of tidy.trigger.atLeastEvery", func(ctx context.Context) error {
			next, err := pod.Metric(ctx, f.series("tidy_next_timestamp_seconds", ""))
			if in := time.Until(time.Unix(int64(next), 0)); err == nil && (in < 167*time.Hour || in > 168*time.Hour) {
				err = fmt.Errorf("in %s", in)
			}
			return err
		})
	}
}

// On Consul the decision, the run and the proof are the same.
func TestTidyRunOnConsul(t *testing.T) {
	t.Parallel()
	ctx := serverstest.Context(t)
	set := serverstest.New(t)
	consul, err := set.StartConsul(ctx, servers.ConsulOptions{})
	must(t, err)
	w, err := world.New(ctx, set, world.Options{})
	must(t, err)
	briefly(w)
	w.Setting("consul.address", consul.Address)
	w.Setting("tidy.enabled", true)
	pod, err := w.StartPod(ctx, world.PodOptions{Name: "vault-0"})
	must(t, err)
	must(t, w.Delivered(ctx))
	must(t, w.StartVault(ctx, servers.VaultOptions{Storage: servers.ConsulStorage{Consul: consul}, Audit: true}))
	f := newFleet(t, ctx, w, world.PKIOptions{})
	old := f.revoke(8)
	eventually(t, ctx, 20*time.Second, "the list is measured", measures(pod, f.PKI, 392892))
	must(t, f.lists(old...))
	f.ripen()
	eventually(t, ctx, 20*time.Second, "tidy has run", metricIs(pod, f.series("tidy_runs_total", "ok"), 1))
	must(t, f.lists())
	eventually(t, ctx, 20*time.Second, "the shorter list is measured", measures(pod, f.PKI, 392892))
	if n := f.asked(); n != 1 {
		t.Errorf("vault was asked for %d runs, want 1", n)
	}
	noSecrets(t, ctx, w, pod)
}
