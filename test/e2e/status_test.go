package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// statusDocument is what the stories look at of /status.json.
type statusDocument struct {
	Status, Identity, Namespace, Role string
	Undetermined                      []string
	Leadership                        struct {
		Leading                    bool
		Leader, LastLeader         string
		SeenAt, LastSeenAt, LostAt time.Time
		LostWhy                    string
	}
	Findings     []struct{ Rule, Subject, Evidence, Remedy string }
	Certificates []struct {
		Name, State, Reason, Request string
		NotAfter                     time.Time
		LastFailure                  *struct{ Rule string }
		Trust                        *struct{ State, Reason string }
		Names                        *struct{ DNS []string }
	}
	Mounts []struct {
		Name string
		CRLs []struct {
			Bytes, LimitBytes int64
			MeasuredAt        time.Time
		}
		Tidy *struct {
			Run    bool
			Reason string
		}
	}
	Deliveries []struct {
		Delivered   bool
		Fingerprint string
		Addresses   []struct{ Served *bool }
	}
}

// runStatus runs `pkiwarden status` in a pod, as kubectl exec does.
func runStatus(ctx context.Context, w *world.World, pod *world.Pod, args ...string) (servers.Result, error) {
	return w.Set.Run(ctx, servers.ProgramOptions{
		Name: "status", Path: w.Pkiwarden, Args: append([]string{"status", "--config=" + pod.ConfigFile}, args...),
	})
}

// statusOf is what an instance says in JSON.
func statusOf(ctx context.Context, w *world.World, pod *world.Pod) (statusDocument, error) {
	var s statusDocument
	result, err := runStatus(ctx, w, pod, "-o", "json")
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal([]byte(result.Stdout), &s); err != nil {
		return s, fmt.Errorf("exit code %d, %w\nstdout: %s\nstderr: %s", result.ExitCode, err, result.Stdout, result.Stderr)
	}
	want := map[string]int{"ok": 0, "warning": 1, "critical": 2, "unknown": 3}
	if code, known := want[s.Status]; !known || code != result.ExitCode {
		return s, fmt.Errorf("status %q with exit code %d", s.Status, result.ExitCode)
	}
	return s, nil
}

// certificateState checks what status says of a certificate: its state, and
// words of the reason.
func certificateState(w *world.World, pod *world.Pod, name, state string, words ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		s, err := statusOf(ctx, w, pod)
		if err != nil {
			return err
		}
		for _, c := range s.Certificates {
			if c.Name != name {
				continue
			}
			for _, word := range words {
				if !strings.Contains(c.Reason, word) {
					return fmt.Errorf("%q is not in %q", word, c.Reason)
				}
			}
			if c.State != state {
				return fmt.Errorf("it is %s: %s", c.State, c.Reason)
			}
			return nil
		}
		return fmt.Errorf("status %s has no certificate %s", s.Status, name)
	}
}

// namesWanted checks that status says which DNS names the only certificate is to
// have.
func namesWanted(w *world.World, pod *world.Pod, names ...string) func(context.Context) error {
	want := slices.Sorted(strings.FieldsSeq(strings.Join(names, " ")))
	return func(ctx context.Context) error {
		s, err := statusOf(ctx, w, pod)
		if err != nil {
			return err
		}
		if len(s.Certificates) != 1 || s.Certificates[0].Names == nil || !slices.Equal(slices.Sorted(slices.Values(s.Certificates[0].Names.DNS)), want) {
			return fmt.Errorf("certificates %+v, want the names %q", s.Certificates, want)
		}
		return nil
	}
}

// followerNames checks that an instance that does not lead names the one that
// does, and how to ask it, and shows nothing of the cluster.
func followerNames(w *world.World, pod, leader *world.Pod) func(context.Context) error {
	return func(ctx context.Context) error {
		s, err := statusOf(ctx, w, pod)
		if err != nil {
			return err
		}
		if s.Leadership.Leading || !strings.HasPrefix(s.Leadership.Leader, leader.Identity.Pod+"_") || s.Leadership.SeenAt.IsZero() || s.Certificates != nil || s.Mounts != nil {
			return fmt.Errorf("%+v", s)
		}
		result, err := runStatus(ctx, w, pod)
		if err != nil {
			return err
		}
		if want := "  kubectl -n " + leader.Identity.Namespace + " exec " + leader.Identity.Pod + " -c pkiwarden -- /pkiwarden status\n"; !strings.Contains(result.Stdout, want) {
			return fmt.Errorf("want %s in\n%s", want, result.Stdout)
		}
		return nil
	}
}

// leaderShows checks that a leader says all of a healthy cluster, as it is.
func leaderShows(w *world.World, pod *world.Pod, mount string, limit int64) func(context.Context) error {
	return func(ctx context.Context) error {
		s, err := statusOf(ctx, w, pod)
		if err != nil {
			return err
		}
		stored, err := w.StoredLeaf(ctx)
		if err != nil {
			return err
		}
		if !s.Leadership.Leading || s.Leadership.Leader != s.Identity || len(s.Certificates) != 1 || s.Certificates[0].State != "good" || !s.Certificates[0].NotAfter.Equal(stored.NotAfter) {
			return fmt.Errorf("%+v", s)
		}
		for _, m := range s.Mounts {
			if m.Name == mount && len(m.CRLs) == 1 && m.CRLs[0].Bytes > 0 && m.CRLs[0].LimitBytes == limit && time.Since(m.CRLs[0].MeasuredAt).Abs() < time.Minute && m.Tidy != nil && !m.Tidy.Run && m.Tidy.Reason != "" {
				return nil
			}
		}
		return fmt.Errorf("mounts %+v", s.Mounts)
	}
}

// Sidecars whose Lease is in another namespace, as they are shipped: the one
// that does not lead says where its leader's pod is, and a leader that loses the
// Lease says so, and claims nothing any more.
func TestStatusOfWhoLeadsNot(t *testing.T) {
	ctx, w := start(t, world.Options{})
	set := map[string]any{"deliver": []any{}, "certificates": []any{certificate(world.CertificateName, map[string]any{
		"approve": false, "secret": map[string]any{"namespace": world.Namespace, "name": world.SecretName},
	})}}
	first, err := w.StartPod(ctx, world.PodOptions{Name: "vault-0", Set: set})
	must(t, err)
	second, err := w.StartPod(ctx, world.PodOptions{Name: "vault-1", Set: set})
	must(t, err)
	var leader *world.Pod
	eventually(t, ctx, time.Minute, "one leads", oneLeader([]*world.Pod{first, second}, &leader))
	other := first
	if leader == first {
		other = second
	}
	if leader.Identity.Namespace == world.ControllerNamespace {
		t.Fatal("its Lease is in its own namespace")
	}
	eventually(t, ctx, time.Minute, "the other one says how to ask it", followerNames(w, other, leader))
	eventually(t, ctx, time.Minute, "a first certificate that waits says for what", func(ctx context.Context) error {
		s, err := statusOf(ctx, w, leader)
		if err != nil {
			return err
		}
		for _, f := range s.Findings {
			if f.Rule == "certificate-missing" && len(s.Certificates) == 1 && s.Certificates[0].Request != "" && strings.Contains(f.Remedy, "kubectl certificate approve "+s.Certificates[0].Request) {
				return nil
			}
		}
		return fmt.Errorf("%+v", s)
	})

	must(t, w.Kubernetes.APIServer.Kill())
	var lost statusDocument
	eventually(t, ctx, 2*time.Minute, "the leader says that it lost the Lease", func(ctx context.Context) error {
		if lost, err = statusOf(ctx, w, leader); err == nil && lost.Leadership.LostAt.IsZero() {
			err = fmt.Errorf("%+v", lost)
		}
		return err
	})
	eventually(t, ctx, time.Minute, "and that it was the last to hold it", func(ctx context.Context) error {
		if lost, err = statusOf(ctx, w, leader); err == nil && (lost.Leadership.LastLeader != lost.Identity || lost.Leadership.LastSeenAt.After(lost.Leadership.LostAt)) {
			err = fmt.Errorf("%+v", lost)
		}
		return err
	})
	if all := strings.Join(lost.Undetermined, "\n"); lost.Status != "unknown" || lost.Certificates != nil || !strings.Contains(lost.Leadership.LostWhy, "cannot be reached") ||
		!strings.Contains(all, "since this instance did") || !strings.Contains(all, "certificates and mounts: nothing is known of them since") {
		t.Errorf("%+v", lost)
	}
	result, err := runStatus(ctx, w, leader)
	must(t, err)
	if result.ExitCode != 3 || strings.Contains(result.Stdout, "No findings") || !strings.Contains(result.Stdout, "Findings: only this pod's are known") || !strings.Contains(result.Stdout, "Does not lead: led until ") {
		t.Errorf("exit code %d\n%s", result.ExitCode, result.Stdout)
	}
	t.Logf("it prints\n%s", result.Stdout)
}
