package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// controllers starts the shape "controller and sidecars": two candidates with
// their own service account, and a sidecar that may only read its Secret.
func controllers(t *testing.T) (context.Context, *world.World, [2]*world.Pod, *world.Pod) {
	t.Helper()
	ctx, w := start(t, world.Options{Shape: world.Controller})
	w.Setting("crl.interval", "2s")
	var pods [2]*world.Pod
	for i := range pods {
		pod, err := w.StartPod(ctx, world.PodOptions{
			Name: fmt.Sprintf("pkiwarden-%d", i), Config: "controller/config.yaml",
			Namespace: world.ControllerNamespace, ServiceAccount: "pkiwarden",
		})
		must(t, err)
		pods[i] = pod
	}
	local, err := w.StartPod(ctx, world.PodOptions{Name: "vault-0", Config: "controller/config-local.yaml"})
	must(t, err)
	return ctx, w, pods, local
}

// leaders is who says that it leads.
func leaders(ctx context.Context, pods []*world.Pod) ([]*world.Pod, error) {
	var leading []*world.Pod
	for _, pod := range pods {
		if !pod.Running() {
			continue
		}
		v, err := pod.Metric(ctx, "pkiwarden_leader")
		if err != nil {
			return nil, err
		}
		if v == 1 {
			leading = append(leading, pod)
		}
	}
	return leading, nil
}

func oneLeader(pods []*world.Pod, found **world.Pod) func(context.Context) error {
	return func(ctx context.Context) error {
		leading, err := leaders(ctx, pods)
		if err != nil {
			return err
		}
		if len(leading) != 1 {
			return fmt.Errorf("%d leaders", len(leading))
		}
		*found = leading[0]
		return nil
	}
}

func TestControllerAndSidecars(t *testing.T) {
	ctx, w, pods, local := controllers(t)
	must(t, w.Delivered(ctx))
	must(t, w.StartVault(ctx, servers.VaultOptions{}))
	eventually(t, ctx, 30*time.Second, "vault serves the first certificate", servesStored(w))
	eventually(t, ctx, 90*time.Second, "the sidecar says that it is served", metricIs(local, servedSeries(w), 1))
	p, err := w.EnablePKI(ctx, world.PKIOptions{})
	must(t, err)

	var leader *world.Pod
	eventually(t, ctx, 20*time.Second, "one controller leads", oneLeader(pods[:], &leader))
	eventually(t, ctx, 90*time.Second, "the leader measures", measures(leader, p, 1048445))
	if v, err := local.Metric(ctx, "pkiwarden_leader"); err == nil && v != 0 {
		t.Errorf("a local sidecar says that it leads")
	}
	other := pods[0]
	if leader == pods[0] {
		other = pods[1]
	}
	eventually(t, ctx, 90*time.Second, "the leader's status shows certificate and mount", leaderShows(w, leader, "pki", 1048445))
	eventually(t, ctx, 10*time.Second, "the other one says who leads", followerNames(w, other, leader))
	const series = `pkiwarden_crl_bytes{issuer="root",mount="pki"}`
	if _, err := other.Metric(ctx, series); !errors.Is(err, world.ErrAbsent) {
		t.Errorf("the instance that does not lead shows cluster series: %v", err)
	}

	// An orderly end hands over at once: the Lease would last 15 s.
	must(t, leader.Signal(syscall.SIGTERM))
	began := time.Now()
	eventually(t, ctx, 10*time.Second, "the other one leads", oneLeader([]*world.Pod{other}, &leader))
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("taking over took %s", took)
	}
	eventually(t, ctx, 30*time.Second, "it measures", measures(other, p, 1048445))
	noSecrets(t, ctx, w, pods[0], pods[1], local)
}

// A leader that is paused finds another one when it goes on, and stands back.
func TestPausedLeaderStandsBack(t *testing.T) {
	ctx, w, pods, _ := controllers(t)
	must(t, w.Delivered(ctx))
	var leader, other *world.Pod
	eventually(t, ctx, 20*time.Second, "one controller leads", oneLeader(pods[:], &leader))
	other = pods[0]
	if leader == pods[0] {
		other = pods[1]
	}
	must(t, leader.Pause())
	paused := leader
	eventually(t, ctx, 40*time.Second, "the other one leads", oneLeader([]*world.Pod{other}, &leader))
	must(t, paused.Resume())
	eventually(t, ctx, 20*time.Second, "the paused one stands back", oneLeader(pods[:], &leader))
	if leader != other {
		t.Errorf("%s leads after it was paused", leader.Name())
	}
	requests, err := w.Client.CertificatesV1().CertificateSigningRequests().List(ctx, metav1.ListOptions{})
	must(t, err)
	if n := len(requests.Items); n != 1 {
		t.Errorf("%d certificate signing requests for one certificate", n)
	}
}

// An API server that is away is one line, not many and not the end.
func TestAPIServerAway(t *testing.T) {
	ctx, w, pod := running(t, servers.VaultOptions{}, nil)
	eventually(t, ctx, 90*time.Second, "vault's certificate is served", metricIs(pod, servedSeries(w), 1))
	before := strings.Count(pod.Log(), "\n")
	must(t, w.Kubernetes.APIServer.Kill())
	time.Sleep(25 * time.Second)
	if !pod.Running() {
		t.Fatalf("pkiwarden ended:\n%s", pod.LogTail(20))
	}
	if n := strings.Count(pod.Log(), "\n") - before; n == 0 || n > 12 {
		t.Errorf("%d log lines in 25 s without an API server, want a few:\n%s", n, pod.LogTail(n))
	}
	must(t, metricIs(pod, servedSeries(w), 1)(ctx))
	must(t, pod.Readyz(ctx))
	must(t, w.Kubernetes.APIServer.Start(ctx))
	var leader *world.Pod
	eventually(t, ctx, 60*time.Second, "it leads again", oneLeader([]*world.Pod{pod}, &leader))
}
