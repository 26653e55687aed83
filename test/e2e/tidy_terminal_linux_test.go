package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
)

// On a terminal a line shows how far the run is, and is gone at the end; what a
// program reads is as it is without one. No Kubernetes is needed for it.
func TestTidyOnATerminal(t *testing.T) {
	t.Parallel()
	v := startTidyVault(t, servers.VaultOptions{}, false)
	program, err := v.set.BuildPkiwarden(v.ctx)
	must(t, err)
	v.revoke(40, "5s")
	time.Sleep(7 * time.Second)
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yaml")
	must(t, os.WriteFile(config, fmt.Appendf(nil, `apiVersion: pkiwarden/v1
vault: {address: %q, auth: {method: token}}
state: {backend: file, path: %q}
tidy: {safetyBuffer: 1s, allowShortSafetyBuffer: true, minInterval: 1s, pause: 100ms}
`, v.server.Address, dir), 0o600))

	terminal, stderr, err := openTerminal()
	must(t, err)
	defer terminal.Close()
	ctx, cancel := context.WithTimeout(v.ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "tidy", "--config", config, "-o", "json")
	cmd.Env = []string{"VAULT_TOKEN=" + v.server.RootToken().Reveal(), "TERM=xterm", "HOME=" + dir}
	var stdout bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, stderr
	must(t, cmd.Start())
	must(t, stderr.Close())
	drawn := make(chan string)
	go func() {
		var all []byte
		buffer := make([]byte, 4096)
		for {
			n, err := terminal.Read(buffer)
			if all = append(all, buffer[:n]...); err != nil { // EIO: nobody has the other end any more
				drawn <- string(all)
				return
			}
		}
	}()
	err = cmd.Wait()
	lines := strings.Split(<-drawn, "\r\x1b[K")
	if err != nil {
		t.Fatalf("%v: %q", err, lines)
	}
	var reports []report
	if err := json.Unmarshal(stdout.Bytes(), &reports); err != nil || len(reports) != 1 || reports[0].Result == nil || *reports[0].Result.Deleted != 40 {
		t.Errorf("stdout %s, %v", &stdout, err)
	}
	for _, want := range []string{"pki: certificates [", "pki: revocations [", " of 40, ", "/s, ", "s left, ", " deleted", "measuring the CRL"} {
		if !strings.Contains(strings.Join(lines, "\n"), want) {
			t.Errorf("never drawn: %q\n%s", want, strings.Join(lines, "\n"))
		}
	}
	if n := len(lines); lines[n-1] != "" {
		t.Errorf("the last line stays: %q", lines[n-1])
	}
	t.Log("\n" + strings.Join(lines, "\n"))

	// Into a file there is no such line.
	log, err := os.Create(filepath.Join(dir, "stderr"))
	must(t, err)
	defer log.Close()
	cmd = exec.CommandContext(ctx, program, "tidy", "--config", config, "--force")
	cmd.Env, cmd.Stderr = []string{"VAULT_TOKEN=" + v.server.RootToken().Reveal(), "TERM=xterm", "HOME=" + dir}, log
	must(t, cmd.Run())
	if text, err := os.ReadFile(log.Name()); err != nil || len(text) > 0 {
		t.Errorf("stderr %q, %v", text, err)
	}

	// Where no mount is selected nothing could be determined.
	text, err := os.ReadFile(config)
	must(t, err)
	must(t, os.WriteFile(config, []byte(strings.Replace(string(text), "tidy: {", `tidy: {mounts: ["pkj*"], `, 1)), 0o600))
	cmd = exec.CommandContext(ctx, program, "tidy", "--config", config)
	cmd.Env = []string{"VAULT_TOKEN=" + v.server.RootToken().Reveal(), "HOME=" + dir}
	said, _ := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != 3 || !strings.HasPrefix(string(said), "error: no PKI mount to tidy: ") || !strings.Contains(string(said), "pkj*") {
		t.Errorf("exit code %d, want 3: %s", code, said)
	}
}

// openTerminal is a pseudo terminal of 120 columns, and the end that a program
// has of it.
func openTerminal() (terminal, end *os.File, err error) {
	if terminal, err = os.OpenFile("/dev/ptmx", os.O_RDWR, 0); err != nil {
		return nil, nil, err
	}
	fd := int(terminal.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, err
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 120}); err != nil {
		return nil, nil, err
	}
	end, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	return terminal, end, err
}
