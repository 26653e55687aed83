package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// renewals runs `pkiwarden renew` in a pod, as kubectl exec does.
type renewals struct {
	t   *testing.T
	ctx context.Context
	w   *world.World
	pod *world.Pod
}

func (r *renewals) in(t *testing.T) *renewals { return &renewals{t, r.ctx, r.w, r.pod} }

func (r *renewals) options(args ...string) servers.ProgramOptions {
	return servers.ProgramOptions{
		Name: "renew", Path: r.w.Pkiwarden, Args: append([]string{"renew", "--config=" + r.pod.ConfigFile}, args...),
		Env: []string{"POD_NAME=" + r.pod.Identity.Pod, "POD_NAMESPACE=" + r.pod.Identity.Namespace, "POD_UID=" + string(r.pod.Identity.PodUID)},
	}
}

func (r *renewals) run(code int, args ...string) servers.Result {
	r.t.Helper()
	result, err := r.w.Set.Run(r.ctx, r.options(args...))
	must(r.t, err)
	if result.ExitCode != code {
		r.t.Fatalf("pkiwarden renew %s: exit code %d, want %d\nstdout: %s\nstderr: %s", strings.Join(args, " "), result.ExitCode, code, result.Stdout, result.Stderr)
	}
	return result
}

// renewedOne is what `pkiwarden renew -o json` says of one certificate.
type renewedOne struct {
	Certificate, Secret, Needed, Reason, Error string
	Renewed                                    bool
	Before, After                              *struct {
		NotAfter time.Time
		SHA256   string
	}
	Changes []struct{ What, Value, Change string }
}

func (r *renewals) one(code int, args ...string) renewedOne {
	r.t.Helper()
	result := r.run(code, append([]string{"-o", "json"}, args...)...)
	var out []renewedOne
	if err := json.Unmarshal([]byte(result.Stdout), &out); err != nil || len(out) != 1 {
		r.t.Fatalf("want one certificate, have %v: %s\nstderr: %s", err, result.Stdout, result.Stderr)
	}
	return out[0]
}

// open are the requests of a certificate that nobody decided about.
func (r *renewals) open(name string) []string {
	r.t.Helper()
	list, err := r.w.Client.CertificatesV1().CertificateSigningRequests().List(r.ctx, metav1.ListOptions{LabelSelector: "pkiwarden.io/certificate=" + world.Namespace + "_" + name + "-tls"})
	must(r.t, err)
	var out []string
	for _, csr := range list.Items {
		if len(csr.Status.Conditions) == 0 {
			out = append(out, csr.Name)
		}
	}
	return out
}

// version tells every change of the Secret of a certificate.
func (r *renewals) version(name string) string {
	r.t.Helper()
	secret, err := r.w.Client.CoreV1().Secrets(world.Namespace).Get(r.ctx, name+"-tls", metav1.GetOptions{})
	must(r.t, err)
	return secret.ResourceVersion
}

// TestRenewCommand: the command beside a running controller.
func TestRenewCommand(t *testing.T) {
	ctx, w := start(t, world.Options{})
	for _, name := range []string{"theirs"} {
		grant(t, ctx, w, world.Namespace, "keeps-"+name, keeping(name)...)
	}
	pod, err := w.StartPod(ctx, world.PodOptions{Name: "vault-0", Set: map[string]any{"certificates": []any{
		certificate("vault-server", map[string]any{"dnsNames": []string{"vault.vault.svc"}}), certificate("theirs", map[string]any{"approve": false}),
	}, "deliver": []any{}}})
	must(t, err)
	eventually(t, ctx, time.Minute, "the first certificate is issued", secretExists(w, world.Namespace, "vault-server-tls"))
	r := &renewals{t, ctx, w, pod}

	t.Run("usage", func(t *testing.T) { r.in(t).usage() })
	t.Run("not due", func(t *testing.T) { r.in(t).notDue() })
	t.Run("by force", func(t *testing.T) { r.in(t).byForce() })
	t.Run("approved by somebody else", func(t *testing.T) { r.in(t).approved() })
	t.Run("interrupted", func(t *testing.T) { r.in(t).interrupted() })
	t.Run("not approved in time", func(t *testing.T) { r.in(t).notInTime() })
	t.Run("another account", func(t *testing.T) { r.in(t).anotherAccount() })
	t.Run("denied", func(t *testing.T) { r.in(t).denied() })
	noSecrets(t, ctx, w, pod)
	t.Run("no API", func(t *testing.T) { r.in(t).noAPI() })
}

func (r *renewals) usage() {
	for want, args := range map[string][]string{
		`certificate "nine" is not declared`: {"nine"},
		"declared are vault-server, theirs":  {"nine", "--force"},
		"wants":                              {"vault-server", "theirs"},
		"--timeout is 0s":                    {"--timeout", "0s"},
	} {
		if got := r.run(64, args...); !strings.Contains(got.Stderr, want) || got.Stdout != "" {
			r.t.Errorf("renew %s: want %q\nstdout: %s\nstderr: %s", strings.Join(args, " "), want, got.Stdout, got.Stderr)
		}
	}
}

// notDue: nothing is asked for and nothing written, and what there is is said
// name by name.
func (r *renewals) notDue() {
	before := r.version("vault-server")
	if got := r.one(0, "vault-server"); got.Renewed || !strings.HasPrefix(got.Reason, "good until ") || got.Secret != "vault/vault-server-tls" {
		r.t.Errorf("%+v", got)
	}
	out := r.run(0, "vault-server", "--dry-run").Stdout
	for _, want := range []string{"vault-server (Secret vault/vault-server-tls): valid until ", "would not be renewed now: good until ", "\n  = DNS name      vault.vault.svc\n", "\n  = key           ECDSA 256\n"} {
		if !strings.Contains(out, want) {
			r.t.Errorf("want %q in:\n%s", want, out)
		}
	}
	if got := r.one(0, "vault-server", "--dry-run", "--force"); got.Needed != "its renewal was asked for" || got.Renewed || len(got.Changes) < 8 {
		r.t.Errorf("%+v", got)
	}
	// A changed configuration, in a file of its own.
	text, err := os.ReadFile(r.pod.ConfigFile)
	must(r.t, err)
	changed := r.pod.ConfigFile + ".changed"
	must(r.t, os.WriteFile(changed, []byte(strings.Replace(string(text), "- vault.vault.svc", "- vault.example.com", 1)), 0o600))
	out = r.run(0, "vault-server", "--dry-run", "--config="+changed).Stdout
	shows(r.t, transcript(r.t, "pkiwarden renew vault-server --dry-run"), out)
	if !strings.Contains(out, "\n  + DNS name      vault.example.com\n") || !strings.Contains(out, "\n  - DNS name      vault.vault.svc\n") {
		r.t.Errorf("what changes is not said:\n%s", out)
	}
	if r.version("vault-server") != before || requestsFor(r.t, r.ctx, r.w, "vault-server") != 1 {
		r.t.Errorf("something was written")
	}
}

// byForce: another certificate, by one request, which the controller leaves as
// it is.
func (r *renewals) byForce() {
	got := r.one(0, "vault-server", "--force")
	if !got.Renewed || got.Before == nil || got.After == nil || got.Before.SHA256 == got.After.SHA256 || got.Needed != "" {
		r.t.Errorf("%+v", got)
	}
	before := r.version("vault-server")
	time.Sleep(5 * time.Second)
	if n := requestsFor(r.t, r.ctx, r.w, "vault-server"); n != 2 || r.version("vault-server") != before {
		r.t.Errorf("%d requests, want 2; the Secret is still the same: %v", n, r.version("vault-server") == before)
	}
	e, err := event(r.ctx, r.w, "vault-server-tls", "CertificateIssued")
	must(r.t, err)
	if e.Count != 2 {
		r.t.Errorf("the two certificates were told %d times", e.Count)
	}
}

// waiting starts the command and returns once it says that it waits.
func (r *renewals) waiting(args ...string) *servers.Program {
	r.t.Helper()
	p, err := r.w.Set.NewProgram(r.options(args...))
	must(r.t, err)
	must(r.t, p.Start(r.ctx))
	eventually(r.t, r.ctx, time.Minute, "it says what it waits for", func(context.Context) error {
		if !strings.Contains(p.Log(), "theirs: waiting, at most ") || !strings.Contains(p.Log(), "kubectl certificate approve pkiwarden-theirs-tls-") {
			return errors.New(p.Log())
		}
		return nil
	})
	return p
}

func (r *renewals) ends(p *servers.Program, want int) {
	r.t.Helper()
	code, err := p.Wait(r.ctx)
	must(r.t, err)
	if code != want {
		r.t.Fatalf("exit code %d, want %d:\n%s", code, want, p.Log())
	}
}

func (r *renewals) decide(verdict string) {
	r.t.Helper()
	open := r.open("theirs")
	if len(open) != 1 {
		r.t.Fatalf("open requests: %v, want one", open)
	}
	_, err := r.w.Kubectl(r.ctx, "certificate", verdict, open[0])
	must(r.t, err)
}

func (r *renewals) approved() {
	before := r.version("theirs")
	p := r.waiting("theirs")
	r.decide("approve")
	r.ends(p, 0)
	if !strings.Contains(p.Log(), "theirs       vault/theirs-tls  yes ") || r.version("theirs") == before {
		r.t.Errorf("it says:\n%s", p.Log())
	}
}

// interrupted: the request stays, and the controller goes on with it.
func (r *renewals) interrupted() {
	before := r.version("theirs")
	p := r.waiting("theirs", "--force")
	must(r.t, p.Signal(syscall.SIGINT))
	r.ends(p, 130)
	if !strings.Contains(p.Log(), "hint: the request of certificate theirs stays") {
		r.t.Errorf("it says:\n%s", p.Log())
	}
	r.decide("approve")
	eventually(r.t, r.ctx, 3*time.Minute, "the controller publishes what was asked for", func(context.Context) error {
		if r.version("theirs") == before {
			return errors.New("it is still the old one")
		}
		return nil
	})
}

func (r *renewals) notInTime() {
	before := r.version("theirs")
	got := r.run(2, "theirs", "--force", "--timeout", "3s")
	if !strings.Contains(got.Stderr, "error: certificate theirs is not renewed: not within 3s: request pkiwarden-theirs-tls-") || len(r.open("theirs")) != 1 || r.version("theirs") != before {
		r.t.Errorf("open %v, it says:\n%s", r.open("theirs"), got.Stderr)
	}
}

// anotherAccount finds the request that is still open, and leaves it alone.
func (r *renewals) anotherAccount() {
	options := r.options("theirs", "--force", "--timeout", "5s")
	admin := r.pod.ConfigFile + ".admin"
	text, err := os.ReadFile(r.pod.ConfigFile)
	must(r.t, err)
	must(r.t, os.WriteFile(admin, []byte(strings.ReplaceAll(string(text), r.pod.Identity.Kubeconfig, r.w.Kubernetes.AdminConfig)), 0o600))
	options.Args = append(options.Args, "--config="+admin)
	before := r.open("theirs")
	got, err := r.w.Set.Run(r.ctx, options)
	must(r.t, err)
	if got.ExitCode != 2 || !strings.Contains(got.Stderr, "is under way and was made by system:serviceaccount:vault:vault") || !slices.Equal(before, r.open("theirs")) || len(before) != 1 {
		r.t.Errorf("exit code %d, open before %v and now %v:\n%s", got.ExitCode, before, r.open("theirs"), got.Stderr)
	}
}

func (r *renewals) denied() {
	before := r.version("theirs")
	p := r.waiting("theirs", "--force")
	r.decide("deny")
	r.ends(p, 2)
	if !strings.Contains(p.Log(), "error: certificate theirs is not renewed: the last attempt failed: request pkiwarden-theirs-tls-") || r.version("theirs") != before || len(r.open("theirs")) != 0 {
		r.t.Errorf("open %v, it says:\n%s", r.open("theirs"), p.Log())
	}
}

// noAPI: nothing is known, which is no failure and no success.
func (r *renewals) noAPI() {
	must(r.t, r.w.Kubernetes.APIServer.Stop(r.ctx))
	got := r.run(3, "vault-server")
	if !strings.Contains(got.Stderr, "the Kubernetes API cannot be reached") {
		r.t.Errorf("it says:\n%s", got.Stderr)
	}
}
