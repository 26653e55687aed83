package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/config"
)

// manyCertificates is a configuration with n certificates, of 240 bytes each.
func manyCertificates(n int) []byte {
	var b bytes.Buffer
	b.WriteString("apiVersion: pkiwarden/v1\nleaderElection: {backend: none}\ncertificates:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - {name: web-%05d, secret: {namespace: web, name: web-%05d-tls}, dnsNames: [web-%05d.web.svc, web-%05d.web.svc.cluster.local], signer: example.com/web, lifetime: 24h, approve: true, trust: {configMap: {namespace: web, name: ca-bundle}}}\n", i, i, i, i)
	}
	return b.Bytes()
}

// TestValidateManyCertificates holds the memory of a process that reads 10,000
// certificates to the goal, 64 MiB at its peak, and what it prints to a page.
func TestValidateManyCertificates(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	validate := func(n int) (output string, peak int64) {
		file := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(file, manyCertificates(n), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(self)
		cmd.Args = []string{"pkiwarden", "validate", "--config", file}
		cmd.Env = []string{}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out), cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
	}
	_, least := validate(1)
	n, rest := 10_000, "and 9950 more\n"
	if testing.Short() {
		n, rest = 1000, "and 950 more\n"
	}
	output, peak := validate(n)
	t.Logf("%d KiB with 1 certificate, %d KiB with %d", least>>10, peak>>10, n)
	// The program itself takes 28 MiB of the 64; that of this test may differ.
	if more := peak - least; more > 36<<20 && !raceDetector {
		t.Errorf("%d certificates take %d KiB", n, more>>10)
	}
	if lines := strings.Count(output, "\n"); lines > 80 || !strings.Contains(output, rest) || !strings.HasSuffix(output, "ok\n") {
		t.Errorf("%d lines: %.500s", lines, output)
	}
}

// TestValidateManyCertificatesJSON: so is what it prints for programs.
func TestValidateManyCertificatesJSON(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, manyCertificates(60), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	a := &app{stdout: &out, env: func(string) string { return "" }, configFile: file, output: outputJSON}
	if err := validate(a); err != nil {
		t.Fatal(err)
	}
	var said struct {
		Would []struct{ Part, Does string }
	}
	if err := json.Unmarshal(out.Bytes(), &said); err != nil {
		t.Fatal(err)
	}
	var certificates []string
	for _, w := range said.Would {
		if w.Part == "certificate" {
			certificates = append(certificates, w.Does)
		}
	}
	if len(certificates) != 51 || certificates[50] != "and 10 more" {
		t.Errorf("%d: %q", len(certificates), certificates)
	}
}

// TestCertificatesShare: what many certificates have in common is there once.
func TestCertificatesShare(t *testing.T) {
	doc := strings.ReplaceAll(string(manyCertificates(3)), "approve: true", `windows: [{from: "02:00", to: "05:00"}]`)
	cfg, err := config.Parse("test.yaml", []byte(doc), func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	list := issued(cfg.Certificates)
	first, last := list.At(0), list.At(2)
	if &first.Spec.Usages[0] != &last.Spec.Usages[0] || &first.Spec.Windows.(renewals)[0] != &last.Spec.Windows.(renewals)[0] ||
		&last.Spec.DNSNames[0] != &cfg.Certificates.At(2).DNSNames[0] {
		t.Errorf("%+v and %+v share too little", first, last)
	}
	if got := fmt.Sprint(last.Spec.DNSNames, *last.Trust.ConfigMap); got != "[web-00002.web.svc web-00002.web.svc.cluster.local] {web ca-bundle ca.crt}" {
		t.Errorf("got %s", got)
	}
}
