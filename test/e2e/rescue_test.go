package e2e

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers/serverstest"
)

const (
	// rescueBuffer is tidy.safetyBuffer of these stories.
	rescueBuffer = 2 * time.Second
	// rescueTTL is how long certificates live that are to expire.
	rescueTTL = 25 * time.Second
)

// patient is a Vault whose storage takes lists of about 400 entries, in which
// pods' certificates are revoked until no list can be written any more.
type patient struct {
	t         *testing.T
	ctx       context.Context
	set       *servers.Set
	vault     *servers.Vault
	consul    *servers.Consul // nil on raft
	pkiwarden string
	config    string
	token     string // of the shipped policies
	policies  int    // sets of them that were written

	lasting []*big.Int // serial numbers: revoked, and not expired in these stories
	expired time.Time  // when the others have
}

func newPatient(t *testing.T, onConsul bool) *patient {
	t.Helper()
	p := &patient{t: t, ctx: serverstest.Context(t), set: serverstest.New(t)}
	var err error
	p.pkiwarden, err = p.set.BuildPkiwarden(p.ctx)
	must(t, err)
	var storage servers.VaultStorage = servers.RaftStorage{MaxEntrySize: 16384} // lists of 16253 bytes, 410 entries
	if onConsul {
		p.consul, err = p.set.StartConsul(p.ctx, servers.ConsulOptions{KVMaxValueSize: 22000, TxnMaxReqLen: 22000}) // 16176 bytes, 408 entries
		must(t, err)
		storage = servers.ConsulStorage{Consul: p.consul}
	}
	p.vault, err = p.set.StartVault(p.ctx, servers.VaultOptions{Storage: storage, Audit: true})
	must(t, err)
	root := p.vault.Client()
	must(t, root.Sys().MountWithContext(p.ctx, "pki", &api.MountInput{Type: "pki", Config: api.MountConfigInput{MaxLeaseTTL: "87600h"}}))
	for _, name := range []string{"root", "second"} {
		_, err := p.write("pki/root/generate/internal", map[string]any{"common_name": name, "key_type": "ec", "key_bits": 256, "issuer_name": name, "ttl": "1000h"})
		must(t, err)
		_, err = p.write("pki/roles/"+name, map[string]any{"allow_any_name": true, "enforce_hostnames": false, "key_type": "ec", "key_bits": 256, "max_ttl": "720h", "issuer_ref": name})
		must(t, err)
	}
	p.config = filepath.Join(t.TempDir(), "config.yaml")
	must(t, os.WriteFile(p.config, fmt.Appendf(nil,
		"apiVersion: pkiwarden/v1\ntidy: {safetyBuffer: %s, allowShortSafetyBuffer: true}\nstate: {backend: file, path: %s}\n", rescueBuffer, t.TempDir()), 0o600))
	p.token = p.policyToken("observe.hcl", "tidy.hcl", "rescue.hcl")
	return p
}

// policyToken is a token of shipped policies alone; a text that is none of their
// names is a policy itself.
func (p *patient) policyToken(files ...string) string {
	p.t.Helper()
	var names []string
	p.policies++
	for i, file := range files {
		text := file
		if strings.HasSuffix(file, ".hcl") {
			text = readFile(p.t, manifestsDir+"/vault/"+file)
		}
		name := fmt.Sprintf("rescue-%d-%d", p.policies, i)
		must(p.t, p.vault.Client().Sys().PutPolicyWithContext(p.ctx, name, text))
		names = append(names, name)
	}
	answer, err := p.vault.Client().Auth().Token().CreateWithContext(p.ctx, &api.TokenCreateRequest{Policies: names, NoDefaultPolicy: true, TTL: "1h", DisplayName: "pkiwarden"})
	must(p.t, err)
	return answer.Auth.ClientToken
}

func (p *patient) write(path string, data map[string]any) (*api.Secret, error) {
	return p.vault.Client().Logical().WriteWithContext(p.ctx, path, data)
}

// issue issues n certificates.
func (p *patient) issue(n int, role string, ttl time.Duration) []string {
	p.t.Helper()
	serials := make([]string, n)
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := worker; i < n; i += 4 {
				answer, err := p.write("pki/issue/"+role, map[string]any{"common_name": fmt.Sprintf("pod-%d", i), "ttl": ttl.String()})
				if err != nil {
					p.t.Error(err)
					return
				}
				serials[i], _ = answer.Data["serial_number"].(string)
			}
		})
	}
	wg.Wait()
	if p.t.Failed() {
		p.t.FailNow()
	}
	return serials
}

// revoke revokes certificates, and counts how many answers say that it failed.
func (p *patient) revoke(serials []string) (failed int) {
	p.t.Helper()
	for _, serial := range serials {
		_, err := p.write("pki/revoke", map[string]any{"serial_number": serial})
		switch {
		case err != nil && strings.Contains(err.Error(), "Code: 500") && strings.Contains(err.Error(), "error storing CRL"):
			failed++
		case err != nil:
			p.t.Fatal(err)
		}
	}
	return failed
}

// lasts takes certificates for ones that are to stay on the list.
func (p *patient) lasts(serials []string) []string {
	p.t.Helper()
	for _, serial := range serials {
		n, ok := new(big.Int).SetString(strings.ReplaceAll(serial, ":", ""), 16)
		if !ok {
			p.t.Fatalf("serial number %q", serial)
		}
		p.lasting = append(p.lasting, n)
	}
	return serials
}

// fill revokes certificates, of which the brief ones expire soon, until lists
// are refused: the last of the lasting ones are on none.
func (p *patient) fill(brief, lasting int) {
	p.t.Helper()
	began := time.Now()
	long := p.lasts(p.issue(lasting, "root", 700*time.Hour))
	// On a busy machine all that follows takes longer, and the brief ones have to
	// live until it is done.
	ttl := rescueTTL + (6 * time.Duration(brief) * time.Since(began) / time.Duration(lasting)).Truncate(time.Second)
	second := p.lasts(p.issue(5, "second", 700*time.Hour))
	_, err := p.write("pki/config/crl", map[string]any{"auto_rebuild": true})
	must(p.t, err)
	short := p.issue(brief, "root", ttl)
	p.expired = time.Now().Add(ttl)
	if n := p.revoke(short); n != 0 {
		p.t.Fatalf("%d of the first revocations failed", n)
	}
	p.revoke(second)
	some := 390 - brief
	p.revoke(long[:some])
	_, err = p.write("pki/config/crl", map[string]any{"auto_rebuild": false}) // builds a list of 390 entries
	must(p.t, err)
	failed := p.revoke(long[some:])
	if want := lasting - some - 20; failed < want-2 || failed > want+2 {
		p.t.Fatalf("%d revocations failed, want about %d", failed, want)
	}
	if n := len(p.served("root")); n < 405 || n > 412 {
		p.t.Fatalf("%d entries are served, want what fits", n)
	}
	if err := p.rotate(); err == nil || !strings.Contains(err.Error(), "error storing CRL") {
		p.t.Fatalf("crl/rotate: %v", err)
	}
}

func (p *patient) ripen() { time.Sleep(time.Until(p.expired.Add(rescueBuffer + 2*time.Second))) }

func (p *patient) rotate() error {
	_, err := p.vault.Client().Logical().ReadWithContext(p.ctx, "pki/crl/rotate")
	return err
}

// served is what an issuer's list holds, read by crypto/x509 alone.
func (p *patient) served(issuer string) []*big.Int {
	p.t.Helper()
	answer, err := p.vault.Client().Logical().ReadRawWithContext(p.ctx, "pki/issuer/"+issuer+"/crl/der")
	must(p.t, err)
	defer answer.Body.Close()
	der, err := io.ReadAll(answer.Body)
	must(p.t, err)
	list, err := x509.ParseRevocationList(der)
	must(p.t, err)
	var serials []*big.Int
	for _, e := range list.RevokedCertificateEntries {
		serials = append(serials, e.SerialNumber)
	}
	return serials
}

// well checks that revoking and rebuilding work, and that every lasting
// certificate that was revoked is on a list, with so many entries on both.
func (p *patient) well(entries int) {
	p.t.Helper()
	listed := append(p.served("root"), p.served("second")...)
	if len(listed) != entries {
		p.t.Errorf("%d entries are listed, want %d", len(listed), entries)
	}
	p.keeps(listed)
	more := p.lasts(p.issue(3, "root", 700*time.Hour))
	if n := p.revoke(more); n != 0 {
		p.t.Errorf("%d of 3 revocations failed", n)
	}
	must(p.t, p.rotate())
	p.keeps(append(p.served("root"), p.served("second")...))
}

func (p *patient) keeps(listed []*big.Int) {
	p.t.Helper()
	lost := 0
	for _, serial := range p.lasting {
		if !slices.ContainsFunc(listed, func(n *big.Int) bool { return n.Cmp(serial) == 0 }) {
			lost++
		}
	}
	if lost > 0 {
		p.t.Errorf("%d of %d revoked certificates that have not expired are on no list", lost, len(p.lasting))
	}
}

// rescued is what the command says with -o json, as the contract has it.
type rescued struct {
	Mount, Status, Verdict, Refused string
	Enough                          *bool
	Complete                        bool
	Remains                         []int
	Lists                           []struct {
		Issuer  string
		Next    struct{ Entries, Bytes int64 }
		Missing int64
	}
	Steps []struct {
		Step  int
		Need  string `json:"needed"`
		What  string
		Done  string
		After []struct {
			Issuer         string
			Entries, Bytes int64
			Fits           *bool
		}
		Ways [][]struct {
			Name         string
			Value, Least int64
		}
	}
	Proof *struct {
		Kept, Unexpired, Found, Lost, Expired, Unstored int64
		Lists                                           []struct {
			Issuer         string
			Entries, Bytes int64
			Room           *int64
		}
	}
}

func (p *patient) options(token string, args ...string) servers.ProgramOptions {
	env := []string{"VAULT_ADDR=" + p.vault.Address, "VAULT_TOKEN=" + token}
	if p.consul != nil {
		env = append(env, "CONSUL_HTTP_ADDR="+p.consul.Address)
	}
	return servers.ProgramOptions{Name: "rescue", Path: p.pkiwarden, Args: append([]string{"tidy", "--rescue"}, args...), Env: env}
}

func (p *patient) run(code int, token string, args ...string) servers.Result {
	p.t.Helper()
	result, err := p.set.Run(p.ctx, p.options(token, append([]string{"--config", p.config}, args...)...))
	must(p.t, err)
	if result.ExitCode != code {
		p.t.Fatalf("pkiwarden tidy --rescue %s: exit code %d, want %d\nstdout: %s\nstderr: %s", strings.Join(args, " "), result.ExitCode, code, result.Stdout, result.Stderr)
	}
	return result
}

func (p *patient) rescue(code int, args ...string) rescued {
	p.t.Helper()
	result := p.run(code, p.token, append([]string{"-o", "json"}, args...)...)
	var reports []rescued
	if err := json.Unmarshal([]byte(result.Stdout), &reports); err != nil || len(reports) != 1 || len(reports[0].Steps) != 7 {
		p.t.Fatalf("%v: %s\nstderr: %s", err, result.Stdout, result.Stderr)
	}
	return reports[0]
}

// changes counts what pkiwarden asked of Vault, by its audit log, that changes
// something: crl/rotate, and all that is not a read.
func (p *patient) changes() (changes []string) {
	p.t.Helper()
	file, err := os.Open(p.vault.AuditPath)
	must(p.t, err)
	defer file.Close()
	lines := 0
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
		must(p.t, json.Unmarshal(scanner.Bytes(), &entry))
		if entry.Type != "request" || entry.Auth.DisplayName != "token-pkiwarden" {
			continue
		}
		lines++
		r := entry.Request
		reading := r.Operation == "read" || r.Operation == "list" || strings.HasPrefix(r.Path, "sys/capabilities-self")
		if !reading || strings.HasSuffix(r.Path, "crl/rotate") {
			changes = append(changes, r.Operation+" "+r.Path)
		}
	}
	must(p.t, scanner.Err())
	if lines == 0 {
		p.t.Fatal("the audit log knows no request of pkiwarden's: the count would be 0 by itself")
	}
	return changes
}

// interrupt begins a rescue and ends it in the middle of its tidy, which says
// where it was and leaves the tidy to go on.
func (p *patient) interrupt() {
	p.t.Helper()
	slow := filepath.Join(p.t.TempDir(), "slow.yaml")
	text := strings.Replace(readFile(p.t, p.config), "tidy: {", "tidy: {pause: 30ms, ", 1)
	must(p.t, os.WriteFile(slow, []byte(text), 0o600))
	program, err := p.set.NewProgram(p.options(p.token, "--config", slow, "--apply"))
	must(p.t, err)
	must(p.t, program.Start(p.ctx))
	eventually(p.t, p.ctx, time.Minute, "a tidy is on", func(context.Context) error {
		answer, err := p.vault.Client().Logical().ReadWithContext(p.ctx, "pki/tidy-status")
		if err == nil && answer.Data["state"] != "Running" {
			err = fmt.Errorf("state %v", answer.Data["state"])
		}
		return err
	})
	must(p.t, program.Signal(os.Interrupt))
	code, err := program.Wait(p.ctx)
	must(p.t, err)
	if code != 130 || !strings.Contains(program.Log(), "error: interrupted: rescue of mount pki, step 1 (tidy)") || !strings.Contains(program.Log(), "hint: a tidy that was begun goes on in Vault") {
		p.t.Errorf("interrupted: exit code %d\n%s", code, program.Log())
	}
}

// Past the limit until revoking fails, planned, refused to who may not, rescued:
// on both storages.
func TestRescue(t *testing.T) {
	t.Parallel()
	for _, onConsul := range []bool{false, true} {
		name := map[bool]string{false: "raft", true: "consul"}[onConsul]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPatient(t, onConsul)
			p.fill(300, 140)

			// As long as nothing has expired, tidy is not enough.
			early := p.rescue(2)
			if early.Status != "over" || early.Enough == nil || *early.Enough || !strings.Contains(early.Verdict, "not enough without") {
				t.Errorf("early: %+v", early)
			}
			setting := map[bool]string{false: "max_entry_size", true: "limits.kv_max_value_size"}[onConsul]
			if raise := early.Steps[2]; len(raise.Ways) == 0 || raise.Ways[0][0].Name != setting || raise.Need != "instead" {
				t.Errorf("raise: %+v", raise)
			}
			p.ripen()

			plan := p.rescue(2)
			if plan.Status != "over" || plan.Verdict != "over the limit: steps 1, 6 and 7 are enough" || !slices.Equal(plan.Remains, []int{1, 6, 7}) {
				t.Errorf("plan: %+v", plan)
			}
			if l := plan.Lists; len(l) != 2 || l[0].Next.Entries+l[1].Next.Entries != 445 || l[0].Missing+l[1].Missing < 28 {
				t.Errorf("lists: %+v", l)
			}
			s := p.run(2, p.token, "--dry-run")
			if !strings.Contains(s.Stdout, "1 needed   pkiwarden tidy, with the configured safety buffer of 2s") {
				t.Errorf("for a person: %s", s.Stdout)
			}

			if !onConsul {
				shows(t, transcript(t, "pkiwarden tidy --rescue --mount pki"), s.Stdout)
			}

			// Who may not tidy is told so, before anything is done.
			weak := p.policyToken("observe.hcl", "rescue.hcl", `path "+/crl/rotate" { capabilities = ["read"] }`)
			r := p.run(2, weak, "--apply")
			if want := `needs capability "update" on path "pki/tidy"`; !strings.Contains(r.Stderr, want) || !strings.Contains(r.Stdout, want) {
				t.Errorf("refused: %s%s", r.Stdout, r.Stderr)
			}
			if changes := p.changes(); len(changes) != 0 {
				t.Errorf("plans and a refusal changed something: %v", changes)
			}

			if onConsul {
				p.interrupt()
			}
			done := p.rescue(0, "--apply")
			if done.Status != "fits" || !done.Complete || done.Proof == nil {
				t.Fatalf("rescued: %+v", done)
			}
			pr := done.Proof
			if pr.Kept != 145 || pr.Unexpired != 145 || pr.Found != 145 || pr.Lost != 0 || pr.Expired+pr.Unstored != 300 || len(pr.Lists) != 2 {
				t.Errorf("proof: %+v", pr)
			}
			for _, after := range plan.Steps[0].After {
				for _, l := range pr.Lists {
					if off := after.Bytes - l.Bytes; l.Issuer == after.Issuer && (l.Entries != after.Entries || off < 0 || off > 16) {
						t.Errorf("issuer %s: predicted %d entries, %d bytes; it has %d, %d", l.Issuer, after.Entries, after.Bytes, l.Entries, l.Bytes)
					}
				}
			}
			if changes := p.changes(); slices.Index(changes, "update pki/tidy") != 0 || len(changes) > 2 {
				t.Errorf("changed: %v", changes)
			}
			p.well(145)
			if again := p.rescue(0, "--apply"); !again.Complete || again.Proof != nil {
				t.Errorf("again: %+v", again)
			}
		})
	}
}

// Not enough has expired: the plan says to what the limit has to be raised; with
// just that, the rescue goes on to its end.
func TestRescueByRaisingTheLimit(t *testing.T) {
	t.Parallel()
	p := newPatient(t, false)
	p.fill(20, 425)
	p.ripen()
	stopped := p.rescue(2, "--apply")
	if stopped.Status != "over" || stopped.Complete || stopped.Steps[0].Done != "deleted 20 revocations" || !slices.Equal(stopped.Remains, []int{3, 4, 5, 6, 7}) {
		t.Fatalf("stopped: %+v", stopped)
	}
	raise := stopped.Steps[2].Ways[0][0]
	text := readFile(t, p.vault.ConfigFile)
	raised := regexp.MustCompile(`max_entry_size = "\d+"`).ReplaceAllString(text, fmt.Sprintf(`max_entry_size = "%d"`, raise.Value))
	if raised == text {
		t.Fatalf("no max_entry_size in %s", text)
	}
	must(t, os.WriteFile(p.vault.ConfigFile, []byte(raised), 0o600))

	// A reload shows the new value, and does not put it in force: what the storage
	// says counts.
	must(t, p.vault.Reload())
	eventually(t, p.ctx, 10*time.Second, "the new limit shows", func(context.Context) error {
		if plan := p.rescue(2); plan.Status != "stale" {
			return fmt.Errorf("status %s", plan.Status)
		}
		return nil
	})
	fooled := p.rescue(2, "--apply")
	if fooled.Status != "over" || fooled.Complete || fooled.Steps[2].Ways[0][0] != raise {
		t.Errorf("after a reload: %+v", fooled)
	}

	must(t, p.vault.Restart(p.ctx))
	if plan := p.rescue(2); plan.Status != "stale" || !slices.Equal(plan.Remains, []int{6, 7}) {
		t.Errorf("with the limit raised: %+v", plan)
	}
	done := p.rescue(0, "--apply")
	if !done.Complete || done.Proof == nil || done.Proof.Unexpired != 430 || done.Proof.Found != 430 || done.Steps[5].Done != "rebuilt" {
		t.Fatalf("rescued: %+v", done)
	}
	p.well(430)
}
