package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// jobs is the CronJob's pod, for any number of commands.
type jobs struct {
	t   *testing.T
	ctx context.Context
	w   *world.World
	pod *world.Pod
}

// in is the pod for a part of the story: what fails there fails that part.
func (j *jobs) in(t *testing.T) *jobs {
	return &jobs{t: t, ctx: j.ctx, w: j.w, pod: j.pod}
}

func newJobs(t *testing.T, ctx context.Context, w *world.World, name string, set map[string]any) *jobs {
	t.Helper()
	pod, err := w.NewPod(ctx, world.PodOptions{
		Name: name, Config: "tidy-cronjob/config.yaml", Namespace: world.ControllerNamespace, ServiceAccount: "pkiwarden-tidy",
		Set: set, Command: []string{"tidy", "-o", "json"},
	})
	must(t, err)
	return &jobs{t: t, ctx: ctx, w: w, pod: pod}
}

// options are the pod's process with other arguments.
func (j *jobs) options(args ...string) servers.ProgramOptions {
	return servers.ProgramOptions{
		Name: "tidy", Path: j.w.Pkiwarden, Args: append([]string{"tidy", "--config=" + j.pod.ConfigFile}, args...),
		Env: []string{"POD_NAME=" + j.pod.Identity.Pod, "POD_NAMESPACE=" + j.pod.Identity.Namespace, "POD_UID=" + string(j.pod.Identity.PodUID)},
	}
}

// tidy runs `pkiwarden tidy` and checks its exit code.
func (j *jobs) tidy(code int, args ...string) servers.Result {
	j.t.Helper()
	result, err := j.w.Set.Run(j.ctx, j.options(args...))
	must(j.t, err)
	if result.ExitCode != code {
		j.t.Fatalf("pkiwarden tidy %s: exit code %d, want %d\nstdout: %s\nstderr: %s", strings.Join(args, " "), result.ExitCode, code, result.Stdout, result.Stderr)
	}
	if strings.Contains(result.Stdout+result.Stderr, "hvs.") || strings.Contains(result.Stderr, "goroutine ") {
		j.t.Errorf("pkiwarden tidy %s: a token or a stack trace is in its output:\n%s%s", strings.Join(args, " "), result.Stdout, result.Stderr)
	}
	return result
}

// report is one mount's, as the contract has it: no other keys, none missing.
type report struct {
	Mount     string
	Run       bool
	Reason    string
	Predicted struct{ Reclaimable, BytesAfter int64 }
	Result    *struct {
		State                                                string
		Deleted                                              *int64
		EntriesBefore, EntriesAfter, BytesBefore, BytesAfter int64
		CRLRotated                                           bool
	}
}

// report runs the command with -o json for one mount.
func (j *jobs) report(code int, mount string, args ...string) report {
	j.t.Helper()
	result := j.tidy(code, append([]string{"-o", "json", "--mount", mount}, args...)...)
	var raw []map[string]any
	if err := json.Unmarshal([]byte(result.Stdout), &raw); err != nil || len(raw) != 1 {
		j.t.Fatalf("want one report, have %v: %s\nstderr: %s", err, result.Stdout, result.Stderr)
	}
	j.keys(raw[0], "mount", "predicted", "reason", "result", "run")
	j.keys(raw[0]["predicted"], "bytesAfter", "reclaimable")
	if raw[0]["result"] != nil {
		j.keys(raw[0]["result"], "bytesAfter", "bytesBefore", "crlRotated", "deleted", "entriesAfter", "entriesBefore", "state")
	}
	var reports []report
	must(j.t, json.Unmarshal([]byte(result.Stdout), &reports))
	if reports[0].Mount != mount {
		j.t.Fatalf("report of mount %q, want %q", reports[0].Mount, mount)
	}
	return reports[0]
}

func (j *jobs) keys(object any, want ...string) {
	j.t.Helper()
	m, _ := object.(map[string]any)
	if got := slices.Sorted(maps.Keys(m)); !slices.Equal(got, want) {
		j.t.Errorf("keys %v, want %v", got, want)
	}
}

// The command, as the CronJob's pod runs it, beside a controller.
func TestTidyCommand(t *testing.T) {
	c := tidying(t)
	ctx, w := c.ctx, c.w
	manifest, err := filepath.Abs("../../manifests/tidy-cronjob")
	must(t, err)
	must(t, w.Apply(ctx, manifest))
	first := newFleet(t, ctx, w, world.PKIOptions{Mount: "first"})
	slow := newFleet(t, ctx, w, world.PKIOptions{Mount: "slow"})
	denied := newFleet(t, ctx, w, world.PKIOptions{Mount: "denied"})
	beside := newFleet(t, ctx, w, world.PKIOptions{Mount: "beside", AutoRebuild: true})
	slow.revoke(6)
	denied.revoke(4)
	first.revoke(5)

	// Nobody there: given up on within the time of a login, half a minute.
	nobody := newJobs(t, ctx, w, "nobody", map[string]any{"vault.address": "https://127.0.0.1:1"})
	lost, err := w.Set.NewProgram(nobody.options())
	must(t, err)
	must(t, lost.Start(ctx))

	jobs := newJobs(t, ctx, w, "pkiwarden-tidy-1", nil)
	t.Run("usage", func(t *testing.T) { jobs.in(t).usage() })
	t.Run("refused", func(t *testing.T) { jobs.in(t).refused(denied.in(t)) })
	t.Run("to the proof", func(t *testing.T) { jobs.in(t).toTheProof(first.in(t)) })
	t.Run("interrupted", func(t *testing.T) { jobs.in(t).interrupted(slow.in(t)) })
	t.Run("beside a controller", func(t *testing.T) { jobs.in(t).besideController(c, beside.in(t)) })

	code, err := lost.Wait(ctx)
	must(t, err)
	if code != 3 || !strings.Contains(lost.Log(), "127.0.0.1:1") || strings.Count(lost.Log(), "\n") > 6 {
		t.Errorf("exit code %d where no Vault is, want 3 and few lines:\n%s", code, lost.Log())
	}
	noSecrets(t, ctx, w, c.past...)
}

// usage: what was asked for wrongly is exit code 64, what is not there is 2.
func (j *jobs) usage() {
	j.t.Helper()
	for want, args := range map[string][]string{
		"flag needs an argument: --mount": {"--mount"},
		"unknown flag":                    {"--forced"},
		"table or json":                   {"-o", "xml"},
		"wants no arguments, got \"pki\"": {"pki"},
	} {
		if r := j.tidy(64, args...); !strings.HasPrefix(r.Stderr, "error: ") || !strings.Contains(r.Stderr, want) || r.Stdout != "" {
			j.t.Errorf("tidy %s: want %q\nstdout: %s\nstderr: %s", strings.Join(args, " "), want, r.Stdout, r.Stderr)
		}
	}
	short := newJobs(j.t, j.ctx, j.w, "short", map[string]any{"tidy.allowShortSafetyBuffer": false})
	if r := short.tidy(64); !strings.Contains(r.Stderr, "tidy.safetyBuffer") || !strings.Contains(r.Stderr, "allowShortSafetyBuffer") {
		j.t.Errorf("below the floor: %s", r.Stderr)
	}
	if r := j.tidy(2, "--mount", "frist"); !strings.Contains(r.Stderr, `no PKI mount "frist"`) || !strings.Contains(r.Stderr, "first") {
		j.t.Errorf("unknown mount: %s", r.Stderr)
	}
}

// refused: the policy lacks pki/tidy. Each call asks anew and says so.
func (j *jobs) refused(f *fleet) {
	j.t.Helper()
	restore := withoutTidy(j.t, j.ctx, j.w)
	defer restore()
	f.ripen()
	for range 2 {
		r := j.tidy(2, "-o", "json", "--mount", f.Mount)
		if want := `needs capability "update" on path "denied/tidy"`; !strings.Contains(r.Stderr, want) {
			j.t.Errorf("want … %s …: %s", want, r.Stderr)
		}
		var reports []report
		must(j.t, json.Unmarshal([]byte(r.Stdout), &reports))
		if len(reports) != 1 || reports[0].Run || reports[0].Result != nil || !strings.Contains(reports[0].Reason, "permission denied") {
			j.t.Errorf("report %s", r.Stdout)
		}
	}
}

// toTheProof: look, act without waiting, follow, and find nothing left to do.
func (j *jobs) toTheProof(f *fleet) {
	j.t.Helper()
	t := j.t
	f.ripen()
	count := int64(len(f.issued))
	before, err := f.CRL(j.ctx)
	must(t, err)
	dry := j.report(0, f.Mount, "--dry-run")
	if dry.Run || dry.Result != nil || dry.Predicted.Reclaimable != count || dry.Predicted.BytesAfter >= int64(len(before.Raw)) || !strings.Contains(dry.Reason, "a run is due") {
		t.Errorf("dry run: %+v", dry)
	}
	table := j.tidy(0, "--dry-run")
	lines := strings.Split(strings.TrimSpace(table.Stdout), "\n")
	if len(lines) != 5 || !strings.HasPrefix(lines[0], "MOUNT  ") || !strings.Contains(table.Stdout, fmt.Sprintf("\nfirst   no   -      %-9d  -        -        -      dry run, a run is due: ", count)) {
		t.Errorf("table:\n%s", table.Stdout)
	}
	after, err := f.CRL(j.ctx)
	must(t, err)
	if n := f.asked(); n != 0 || after.Number.Cmp(before.Number) != 0 {
		t.Errorf("a dry run asked %d times for a tidy, the list's number went from %s to %s", n, before.Number, after.Number)
	}

	started := j.report(0, f.Mount, "--wait=false")
	if !started.Run || started.Result != nil || started.Predicted != dry.Predicted {
		t.Errorf("without waiting: %+v", started)
	}
	followed := j.report(0, f.Mount)
	if r := followed.Result; followed.Run || r == nil || r.State != "finished" || r.Deleted == nil || *r.Deleted != count || r.EntriesBefore != count || r.EntriesAfter != 0 ||
		r.BytesBefore != int64(len(before.Raw)) || r.CRLRotated {
		t.Errorf("followed: %+v, %+v", followed, r)
	}
	must(t, f.lists())
	shrunk, err := f.CRL(j.ctx)
	must(t, err)
	if r := followed.Result; r != nil && r.BytesAfter != int64(len(shrunk.Raw)) {
		t.Errorf("%d bytes after, a second client fetches %d", r.BytesAfter, len(shrunk.Raw))
	}

	time.Sleep(3500 * time.Millisecond) // the minimum interval
	if idle := j.report(0, f.Mount); idle.Run || idle.Result != nil || !strings.Contains(idle.Reason, "nothing makes a run due") {
		t.Errorf("nothing to do: %+v", idle)
	}
	forced := j.report(0, f.Mount, "--force")
	if r := forced.Result; !forced.Run || r == nil || r.State != "finished" || *r.Deleted != 0 || !strings.HasPrefix(forced.Reason, "forced") {
		t.Errorf("forced: %+v, %+v", forced, r)
	}
	if n := f.asked(); n != 2 {
		t.Errorf("vault was asked for %d runs, want 2", n)
	}
}

// interrupted: Ctrl-C ends the command, not the run; the next call sees it
// through.
func (j *jobs) interrupted(f *fleet) {
	j.t.Helper()
	t, ctx, w := j.t, j.ctx, j.w
	slowly := newJobs(t, ctx, w, "pkiwarden-tidy-2", map[string]any{"tidy.pause": "500ms"})
	program, err := w.Set.NewProgram(slowly.options("-o", "json", "--mount", f.Mount))
	must(t, err)
	must(t, program.Start(ctx))
	f.tidyIs("Running")
	must(t, program.Signal(os.Interrupt))
	signalled := time.Now()
	code, err := program.Wait(ctx)
	must(t, err)
	if took := time.Since(signalled); code != 130 || took > 3*time.Second || !strings.Contains(program.Log(), "error: interrupted") {
		t.Errorf("exit code %d after %s, want 130 at once:\n%s", code, took, program.Log())
	}
	f.tidyIs("Running")
	followed := j.report(0, f.Mount)
	if r := followed.Result; followed.Run || r == nil || r.State != "finished" || *r.Deleted != 6 || r.EntriesAfter != 0 {
		t.Errorf("followed: %+v, %+v", followed, r)
	}
	if n := f.asked(); n != 1 {
		t.Errorf("vault was asked for %d runs, want the one", n)
	}
	must(t, f.lists())
}

// besideController: two commands and a controller decide at the same time.
func (j *jobs) besideController(c *controller, f *fleet) {
	j.t.Helper()
	t, ctx, w := j.t, j.ctx, j.w
	c.enable(t, nil, f.Mount)
	pod := c.Pod
	f.revoke(6)
	must(t, f.Rotate(ctx))
	f.ripen()
	var programs []*servers.Program
	for range 2 {
		p, err := w.Set.NewProgram(j.options("-o", "json", "--mount", f.Mount))
		must(t, err)
		must(t, p.Start(ctx))
		programs = append(programs, p)
	}
	for _, p := range programs {
		if code, err := p.Wait(ctx); err != nil || code != 0 {
			t.Errorf("exit code %d, %v:\n%s", code, err, p.Log())
		}
	}
	eventually(t, ctx, 20*time.Second, "the list has shrunk", func(context.Context) error { return f.lists() })
	eventually(t, ctx, 10*time.Second, "the controller knows that it worked", recent(pod, f.series("tidy_last_effective_timestamp_seconds", ""), f.last))
	if n := f.asked(); n != 1 {
		t.Errorf("vault was asked for %d runs, want 1", n)
	}
	if n := audited(t, w, "read", f.Mount+"/crl/rotate"); n != 1 {
		t.Errorf("the list was rotated %d times, want once", n)
	}
	must(t, pod.Signal(syscall.SIGTERM))
	if code, err := pod.Wait(ctx); err != nil || code != 0 {
		t.Errorf("the controller ended with %d, %v", code, err)
	}
}
