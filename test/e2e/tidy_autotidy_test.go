package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
)

// An instance with the shipped policies switches the mount's own auto-tidy off
// and leaves its other settings, runs nothing outside its windows, and once it is
// told no longer to own it, names the command that gives it back. What a mount's
// auto-tidy does besides stays.
func TestAutoTidyOwnedAndWindows(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"", "1.13"} {
		t.Run("version "+version, func(t *testing.T) {
			t.Parallel()
			v := startTidyVault(t, servers.VaultOptions{Version: version}, false)
			program, err := v.set.BuildPkiwarden(v.ctx)
			must(t, err)
			v.write("sys/mounts/more", map[string]any{"type": "pki"})
			v.write("more/root/generate/internal", map[string]any{"common_name": "more", "key_type": "ec", "key_bits": 256, "ttl": "1h"})
			settings := map[string]any{"enabled": true, "interval_duration": "6h", "safety_buffer": "100h", "tidy_cert_store": true, "tidy_revoked_certs": true, "pause_duration": "5ms"}
			v.write("pki/config/auto-tidy", settings)
			v.write("more/config/auto-tidy", map[string]any{"enabled": true, "safety_buffer": "100h", "tidy_revoked_certs": true, "tidy_expired_issuers": true})
			before := autoTidyOf(v, "pki")
			v.revoke(20, "5s")
			time.Sleep(7 * time.Second)

			dir := t.TempDir()
			token := policyToken(t, v.ctx, v.server, "pkiwarden-observe", "pkiwarden-tidy", "pkiwarden-auto-tidy").Token()
			config := func(name, tidy string) string {
				t.Helper()
				port, err := servers.FreePort()
				must(t, err)
				opens := time.Now().UTC().Add(2 * time.Hour).Format("15")
				file := filepath.Join(dir, name)
				must(t, os.WriteFile(file, fmt.Appendf(nil, `apiVersion: pkiwarden/v1
vault: {address: %q, auth: {method: token}}
leaderElection: {backend: none}
state: {backend: file, path: %q}
crl: {interval: 1s}
listen: {address: "127.0.0.1:%d"}
tidy:
  safetyBuffer: 1s
  allowShortSafetyBuffer: true
  minInterval: 1s
  windows: [{from: "%s:00", to: "%s:59"}]
  %s
`, v.server.Address, dir, port, opens, opens, tidy), 0o600))
				return file
			}
			env := []string{"VAULT_TOKEN=" + token, "HOME=" + dir}
			start := func(name, tidy string) *servers.Program {
				t.Helper()
				p, err := v.set.StartProgram(v.ctx, servers.ProgramOptions{
					Name: name, Path: program, Env: env, Args: []string{"run", "--config=" + config(name+".yaml", tidy)},
				})
				must(t, err)
				return p
			}

			owner := start("owner", "enabled: true\n  ownAutoTidy: true")
			_, err = owner.WaitForLog(v.ctx, `the mount's own auto-tidy is switched off.*pki`)
			must(t, err)
			_, err = owner.WaitForLog(v.ctx, `tidy decision.*pki.*outside the windows of tidy.windows, the next of which opens at`)
			must(t, err)
			_, err = owner.WaitForLog(v.ctx, `tidy-auto-tidy\b.*mount more`)
			must(t, err)
			after := autoTidyOf(v, "pki")
			if after["enabled"] != false {
				t.Errorf("auto-tidy is %v", after)
			}
			after["enabled"] = true
			if fmt.Sprint(after) != fmt.Sprint(before) {
				t.Errorf("auto-tidy is %v, was %v", after, before)
			}
			if more := autoTidyOf(v, "more"); more["enabled"] != true {
				t.Errorf("auto-tidy that does more: %v", more)
			}
			if log := owner.Log(); strings.Contains(log, "starting tidy") {
				t.Errorf("a run outside the windows:\n%s", log)
			}
			must(t, owner.Stop(v.ctx))

			// The command keeps to the windows too, unless it is forced.
			tidy := func(args ...string) report {
				t.Helper()
				result, err := v.set.Run(v.ctx, servers.ProgramOptions{
					Name: "tidy", Path: program, Env: env,
					Args: append([]string{"tidy", "--config=" + filepath.Join(dir, "owner.yaml"), "--mount=pki", "-o=json"}, args...),
				})
				must(t, err)
				var reports []report
				if err := json.Unmarshal([]byte(result.Stdout), &reports); err != nil || len(reports) != 1 || result.ExitCode != 0 {
					t.Fatalf("exit code %d, %v: %s%s", result.ExitCode, err, result.Stdout, result.Stderr)
				}
				return reports[0]
			}
			if r := tidy(); r.Run || !strings.Contains(r.Reason, "outside the windows") {
				t.Errorf("report %+v", r)
			}
			if r := tidy("--force"); !r.Run || r.Result == nil || *r.Result.Deleted != 20 || !strings.Contains(r.Reason, "outside the windows of tidy.windows, by force") {
				t.Errorf("report %+v", r)
			}

			// Given back by the command that the finding names.
			later := start("later", "enabled: true")
			line, err := later.WaitForLog(v.ctx, `tidy-auto-tidy-off.*vault write pki/config/auto-tidy enabled=true`)
			must(t, err)
			t.Log(line)
			v.write("pki/config/auto-tidy", map[string]any{"enabled": true})
			if again := autoTidyOf(v, "pki"); fmt.Sprint(again) != fmt.Sprint(before) {
				t.Errorf("auto-tidy is %v, was %v", again, before)
			}
			must(t, later.Stop(v.ctx))

			// Patterns that select nothing are said, and end the command.
			config("none.yaml", `mounts: ["pkii"]`)
			result, err := v.set.Run(v.ctx, servers.ProgramOptions{Name: "none", Path: program, Env: env, Args: []string{"tidy", "--config=" + filepath.Join(dir, "none.yaml")}})
			must(t, err)
			if result.ExitCode != 3 || !strings.Contains(result.Stderr, `tidy.mounts ["pkii"] selects none of the 2 PKI mounts`) {
				t.Errorf("exit code %d: %s%s", result.ExitCode, result.Stdout, result.Stderr)
			}
		})
	}
}

// autoTidyOf is a mount's config/auto-tidy as Vault has it.
func autoTidyOf(v *tidyVault, mount string) map[string]any {
	v.t.Helper()
	secret, err := v.server.Client().Logical().ReadWithContext(v.ctx, mount+"/config/auto-tidy")
	must(v.t, err)
	return secret.Data
}
