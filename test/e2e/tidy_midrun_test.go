package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// What befalls two controllers, and a job, while Vault tidies: each run is asked
// for once and seen through.
func TestTidyMidRun(t *testing.T) {
	ctx, w := start(t, world.Options{Shape: world.Controller})
	briefly(w)
	w.Setting("tidy.enabled", true)
	w.Setting("tidy.mounts", []string{"*", "!job"})
	w.Setting("tidy.pause", "1200ms")
	var pods []*world.Pod
	for i := range 2 {
		pod, err := w.StartPod(ctx, world.PodOptions{
			Name: fmt.Sprintf("pkiwarden-%d", i), Config: "controller/config.yaml",
			Namespace: world.ControllerNamespace, ServiceAccount: "pkiwarden",
		})
		must(t, err)
		pods = append(pods, pod)
	}
	local, err := w.StartPod(ctx, world.PodOptions{Name: "vault-0", Config: "controller/config-local.yaml"})
	must(t, err)
	must(t, w.Delivered(ctx))
	must(t, w.StartVault(ctx, servers.VaultOptions{Audit: true}))
	manifest, err := filepath.Abs("../../manifests/tidy-cronjob")
	must(t, err)
	must(t, w.Apply(ctx, manifest))
	token := newFleet(t, ctx, w, world.PKIOptions{Mount: "token"})
	right := newFleet(t, ctx, w, world.PKIOptions{Mount: "right"})
	leader := newFleet(t, ctx, w, world.PKIOptions{Mount: "leader"})
	job := newFleet(t, ctx, w, world.PKIOptions{Mount: "job"})
	var leading *world.Pod
	eventually(t, ctx, 20*time.Second, "one controller leads", oneLeader(pods, &leading))

	scenes(t, []scene{
		{"token revoked", func(t *testing.T) { tokenRevokedInMidRun(t, leading, token.in(t)) }},
		{"right taken", func(t *testing.T) { rightTakenInMidRun(t, leading, right.in(t)) }},
		{"leader paused", func(t *testing.T) { leaderPausedInMidRun(t, pods, leading, leader.in(t)) }},
		{"job stopped", func(t *testing.T) {
			of := func(name, minInterval string) *jobs {
				return newJobs(t, ctx, w, name, map[string]any{"tidy.mounts": []string{"job"}, "tidy.pause": "500ms", "tidy.minInterval": minInterval})
			}
			of("pkiwarden-tidy-1", "3s").stopped(job.in(t), of("pkiwarden-tidy-2", "10m"))
		}},
	})
	noSecrets(t, ctx, w, append(pods, local)...)
}

// tokenRevokedInMidRun: the session logs in anew, and the run is followed on.
func tokenRevokedInMidRun(t *testing.T, pod *world.Pod, f *fleet) {
	f.revoke(6)
	f.tidyIs("Running")
	logins := strings.Count(pod.Log(), "logged in to Vault")
	if n := revokeLogins(t, f.ctx, f.w); n != 1 {
		t.Errorf("%d tokens of logins, want the one of the leader", n)
	}
	eventually(t, f.ctx, 60*time.Second, "the run is seen through", metricIs(pod, f.series("tidy_runs_total", "ok"), 1))
	must(t, f.lists())
	if n := strings.Count(pod.Log(), "logged in to Vault") - logins; n != 1 {
		t.Errorf("%d logins, want one", n)
	}
	if n := f.asked(); n != 1 {
		t.Errorf("vault was asked for %d runs, want 1", n)
	}
}

// rightTakenInMidRun: a policy that is rewritten hides what becomes of the run.
// That is one finding for each mount and a few lines; given back, the run is
// seen through.
func rightTakenInMidRun(t *testing.T, pod *world.Pod, f *fleet) {
	ctx := f.ctx
	f.revoke(6)
	f.tidyIs("Running")
	began := time.Now()
	const name = "pkiwarden-observe"
	sys := f.w.Vault.Client().Sys()
	shipped, err := sys.GetPolicyWithContext(ctx, name)
	must(t, err)
	without := strings.Replace(shipped, `path "+/tidy-status"`, `path "+/tidy-nothing"`, 1)
	if without == shipped {
		t.Fatal("the shipped policy has no line for tidy-status")
	}
	before := len(pod.Log())
	must(t, sys.PutPolicyWithContext(ctx, name, without))
	const mounts = 3 // of those that the controllers tidy
	eventually(t, ctx, 20*time.Second, "a finding names the missing right", metricIs(pod, finding("tidy-permission", "warning"), mounts))
	eventually(t, ctx, 10*time.Second, "whether a tidy is on is unknown", func(ctx context.Context) error {
		if v, err := pod.Metric(ctx, f.series("tidy_running", "")); err == nil {
			return fmt.Errorf("tidy_running is %v", v)
		}
		return nil
	})
	asked := audited(t, f.w, "read", f.Mount+"/tidy-status")
	time.Sleep(8 * time.Second)
	if n := audited(t, f.w, "read", f.Mount+"/tidy-status") - asked; n > 40 {
		t.Errorf("tidy-status was asked for %d times in 8 s", n)
	}
	if lines := linesSince(pod, before); len(lines) > 10 {
		t.Errorf("%d lines of a missing right:\n%s", len(lines), strings.Join(lines, "\n"))
	}
	must(t, metricIs(pod, finding("tidy-permission", "warning"), mounts)(ctx))

	must(t, sys.PutPolicyWithContext(ctx, name, shipped))
	eventually(t, ctx, 60*time.Second, "the run is seen through", metricIs(pod, f.series("tidy_runs_total", "ok"), 1))
	must(t, f.lists())
	eventually(t, ctx, 10*time.Second, "pkiwarden knows that it worked", recent(pod, f.series("tidy_last_effective_timestamp_seconds", ""), began))
	if n := f.asked(); n != 1 {
		t.Errorf("vault was asked for %d runs, want 1", n)
	}
	absent(t, ctx, pod, finding("tidy-permission", "warning"))
}

// leaderPausedInMidRun: the other controller sees the run through; the paused
// one finds it so.
func leaderPausedInMidRun(t *testing.T, pods []*world.Pod, paused *world.Pod, f *fleet) {
	other := pods[0]
	if paused == other {
		other = pods[1]
	}
	f.revoke(8)
	f.tidyIs("Running")
	must(t, paused.Pause())
	var leading *world.Pod
	eventually(t, f.ctx, 20*time.Second, "the other one leads", oneLeader([]*world.Pod{other}, &leading))
	if status, err := f.TidyStatus(f.ctx); err != nil || status["state"] != "Running" {
		t.Fatalf("the run ended too soon for the story: %v, %v", status["state"], err)
	}
	eventually(t, f.ctx, 60*time.Second, "the other one sees the run through", metricIs(other, f.series("tidy_runs_total", "ok"), 1))
	must(t, f.lists())
	must(t, paused.Resume())
	eventually(t, f.ctx, 20*time.Second, "the paused one stands back", oneLeader(pods, &leading))
	if leading != other {
		t.Errorf("%s leads after it was paused", leading.Name())
	}
	time.Sleep(2 * time.Second)
	if n := f.asked(); n != 1 {
		t.Errorf("vault was asked for %d runs, want 1", n)
	}
	must(t, metricIs(other, f.series("tidy_runs_total", "ok"), 1)(f.ctx))
}

// stopped: asked to, an interrupted command stops its run. What that deleted is
// proved by the next call, here one that leaves more time between two runs, and
// the rest is for the one after it.
func (j *jobs) stopped(f *fleet, later *jobs) {
	j.t.Helper()
	t, ctx := j.t, j.ctx
	f.revoke(12)
	f.ripen()
	program, err := j.w.Set.NewProgram(j.options("--cancel-on-interrupt", "-o", "json", "--mount", f.Mount))
	must(t, err)
	must(t, program.Start(ctx))
	eventually(t, ctx, 60*time.Second, "some are deleted", func(ctx context.Context) error {
		s, err := f.TidyStatus(ctx)
		if n := fmt.Sprint(s["revoked_cert_deleted_count"]); err == nil && (n == "0" || n == "<nil>") {
			err = fmt.Errorf("deleted %s", n)
		}
		return err
	})
	must(t, program.Signal(os.Signal(syscall.SIGTERM)))
	code, err := program.Wait(ctx)
	must(t, err)
	if want := "hint: the tidy of mount job is told to stop, which it does at its next entry; \"pkiwarden tidy --mount job\" rebuilds the CRL"; code != 130 || !strings.Contains(program.Log(), want) {
		t.Errorf("exit code %d, want 130 and … %s …:\n%s", code, want, program.Log())
	}
	f.tidyIs("Cancelled")
	status, err := f.TidyStatus(ctx)
	must(t, err)
	deleted, err := status["revoked_cert_deleted_count"].(json.Number).Int64()
	must(t, err)

	proved := later.report(0, f.Mount)
	if r := proved.Result; proved.Run || r == nil || r.State != "cancelled" || *r.Deleted != deleted || r.EntriesBefore != 12 || r.EntriesAfter != 12-deleted || !r.CRLRotated {
		t.Errorf("%d were deleted; proved: %+v, %+v", deleted, proved, r)
	}
	time.Sleep(3500 * time.Millisecond) // the minimum interval
	rest := j.report(0, f.Mount)
	if r := rest.Result; !rest.Run || r == nil || r.State != "finished" || *r.Deleted != 12-deleted || r.EntriesAfter != 0 {
		t.Errorf("the rest: %+v, %+v", rest, r)
	}
}
