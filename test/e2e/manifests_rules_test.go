package e2e

import (
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
	"github.com/pkiwarden/pkiwarden/test/e2e/servers/serverstest"
)

//go:generate go test -run ^TestPrometheusRuleIsTheRules$ -count=1 . -args -update

var update = flag.Bool("update", false, "write generated files again")

const (
	manifestsDir = "../../manifests"
	rulesFile    = manifestsDir + "/monitoring/rules.yaml"
	runbookFile  = manifestsDir + "/RUNBOOK.md"
	runbookURL   = "https://github.com/pkiwarden/pkiwarden/blob/main/manifests/RUNBOOK.md#"
)

const prometheusRuleHead = `# Code generated from rules.yaml by "go generate ./test/e2e"; DO NOT EDIT.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: pkiwarden
  namespace: pkiwarden
spec:
`

// TestPrometheusRuleIsTheRules keeps the operator's object the same text as the
// rule file: a comment at the top, the rest moved two columns to the right.
func TestPrometheusRuleIsTheRules(t *testing.T) {
	rules := readFile(t, rulesFile)
	_, groups, ok := strings.Cut(rules, "\ngroups:\n")
	if !ok {
		t.Fatal("rules.yaml has no line \"groups:\"")
	}
	var want strings.Builder
	want.WriteString(prometheusRuleHead)
	for line := range strings.Lines("groups:\n" + groups) {
		if line != "\n" {
			want.WriteString("  ")
		}
		want.WriteString(line)
	}
	const path = manifestsDir + "/monitoring/prometheusrule.yaml"
	if *update {
		if err := os.WriteFile(path, []byte(want.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := readFile(t, path); got != want.String() {
		t.Errorf("%s is not what rules.yaml says; run: go generate ./test/e2e", path)
	}
}

// TestAlertRules has promtool check the rules and run their tests.
func TestAlertRules(t *testing.T) {
	t.Parallel()
	ctx := serverstest.Context(t)
	set := serverstest.New(t)
	promtool, err := set.Promtool(ctx)
	if err != nil {
		t.Fatal(err)
	}
	tests, err := filepath.Glob(manifestsDir + "/monitoring/*_test.yaml")
	if err != nil || len(tests) == 0 {
		t.Fatalf("no promtool tests (%v)", err)
	}
	for _, args := range [][]string{
		append([]string{"check", "rules", "--lint=all", "--lint-fatal"}, rulesFile),
		append([]string{"test", "rules"}, tests...),
	} {
		for i, arg := range args {
			if strings.HasSuffix(arg, ".yaml") {
				if args[i], err = filepath.Abs(arg); err != nil {
					t.Fatal(err)
				}
			}
		}
		result, err := set.Run(ctx, servers.ProgramOptions{Path: promtool, Args: args})
		if err != nil {
			t.Fatal(err)
		}
		if result.ExitCode != 0 {
			t.Errorf("promtool %s %s: exit code %d\n%s%s", args[0], args[1], result.ExitCode, result.Stdout, result.Stderr)
		}
	}
}

type alertRule struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

func alertRules(t *testing.T) []alertRule {
	t.Helper()
	var file struct {
		Groups []struct {
			Rules []alertRule `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.Unmarshal([]byte(readFile(t, rulesFile)), &file); err != nil {
		t.Fatal(err)
	}
	var rules []alertRule
	for _, g := range file.Groups {
		rules = append(rules, g.Rules...)
	}
	if len(rules) == 0 {
		t.Fatal("rules.yaml holds no rules")
	}
	return rules
}

// TestEveryAlertIsExplained holds each alert to a severity, a text and a
// paragraph in the runbook that its link leads to.
func TestEveryAlertIsExplained(t *testing.T) {
	anchors := runbookAnchors(t)
	for _, r := range alertRules(t) {
		if s := r.Labels["severity"]; s != "warning" && s != "critical" {
			t.Errorf("%s: severity is %q, want warning or critical", r.Alert, s)
		}
		for _, annotation := range []string{"summary", "description"} {
			if r.Annotations[annotation] == "" {
				t.Errorf("%s has no %s", r.Alert, annotation)
			}
		}
		anchor, ok := strings.CutPrefix(r.Annotations["runbook_url"], runbookURL)
		want := strings.ToLower(r.Alert)
		if strings.HasPrefix(r.Alert, "PkiwardenFinding") {
			want = "{{ $labels.rule }}" // each finding's rule has its own
		}
		if !ok || anchor != want {
			t.Errorf("%s: runbook_url is %q, want %s%s", r.Alert, r.Annotations["runbook_url"], runbookURL, want)
		}
		if a := strings.ToLower(r.Alert); !anchors[a] {
			t.Errorf("%s has no heading in RUNBOOK.md", r.Alert)
		}
	}
}

// TestEveryAlertIsTested finds each alert in the promtool tests, where it fires
// and where it does not.
func TestEveryAlertIsTested(t *testing.T) {
	files, err := filepath.Glob(manifestsDir + "/monitoring/*_test.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no promtool tests (%v)", err)
	}
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, path := range files {
		var file struct {
			Tests []struct {
				Alerts []struct {
					Name string `yaml:"alertname"`
					Want []any  `yaml:"exp_alerts"`
				} `yaml:"alert_rule_test"`
			} `yaml:"tests"`
		}
		if err := yaml.Unmarshal([]byte(readFile(t, path)), &file); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		for _, test := range file.Tests {
			for _, a := range test.Alerts {
				fires[a.Name] = fires[a.Name] || len(a.Want) > 0
				silent[a.Name] = silent[a.Name] || len(a.Want) == 0
			}
		}
	}
	for _, r := range alertRules(t) {
		if !fires[r.Alert] || !silent[r.Alert] {
			t.Errorf("%s: tested firing: %t, tested silent: %t; want both", r.Alert, fires[r.Alert], silent[r.Alert])
		}
	}
}

// TestRulesNameRealMetrics finds every metric that a rule names in the source
// of the program, where it is registered.
func TestRulesNameRealMetrics(t *testing.T) {
	registered := map[string]bool{}
	for _, s := range stringLiterals(t) {
		registered[strings.TrimPrefix(s, "pkiwarden_")] = true
	}
	named := map[string]bool{}
	for _, r := range alertRules(t) {
		for _, m := range regexp.MustCompile(`\bpkiwarden_([a-z0-9_]+)`).FindAllStringSubmatch(r.Expr, -1) {
			named[m[1]] = true
		}
	}
	for name := range named {
		if !registered[name] {
			t.Errorf("rules.yaml uses pkiwarden_%s, which the program does not register", name)
		}
	}
}

// TestEveryFindingIsExplained finds the rule of every finding that the program
// can make in the runbook, and no paragraph for a rule that does not exist.
func TestEveryFindingIsExplained(t *testing.T) {
	anchors := runbookAnchors(t)
	rules := findingRules(t)
	if len(rules) == 0 {
		t.Fatal("no finding found in the source")
	}
	for _, rule := range rules {
		if !anchors[rule] {
			t.Errorf("the finding %s has no heading in RUNBOOK.md", rule)
		}
	}
	for _, heading := range sectionHeadings(t, "Findings") {
		if !slices.Contains(rules, heading) {
			t.Errorf("RUNBOOK.md explains the finding %s, which the program does not make", heading)
		}
	}
}

// TestEveryExitCodeIsExplained holds the runbook to the contract's list.
func TestEveryExitCodeIsExplained(t *testing.T) {
	headings := sectionHeadings(t, "Exit codes")
	for _, code := range []string{"0", "1", "2", "3", "64", "70", "130"} {
		if !slices.Contains(headings, "Exit code "+code) {
			t.Errorf("RUNBOOK.md has no heading \"Exit code %s\"", code)
		}
	}
}

// runbookAnchors are the fragments that GitHub gives the runbook's headings.
func runbookAnchors(t *testing.T) map[string]bool {
	t.Helper()
	dropped := regexp.MustCompile(`[^\p{L}\p{N}\s_-]`)
	anchors := map[string]bool{}
	for line := range strings.Lines(readFile(t, runbookFile)) {
		if text, ok := heading(line); ok {
			anchors[strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(text), ""), " ", "-")] = true
		}
	}
	return anchors
}

// sectionHeadings are the third-level headings below a second-level one.
func sectionHeadings(t *testing.T, section string) []string {
	t.Helper()
	var headings []string
	inside := false
	for line := range strings.Lines(readFile(t, runbookFile)) {
		text, ok := heading(line)
		switch {
		case !ok:
		case strings.HasPrefix(line, "## "):
			inside = text == section
		case inside && strings.HasPrefix(line, "### "):
			headings = append(headings, text)
		}
	}
	return headings
}

func heading(line string) (string, bool) {
	text := strings.TrimLeft(line, "#")
	if len(text) == len(line) || !strings.HasPrefix(text, " ") {
		return "", false
	}
	return strings.Trim(strings.TrimSpace(text), "`"), true
}

// sources parses the program's own files, tests aside.
func sources(t *testing.T) []*ast.File {
	t.Helper()
	var files []*ast.File
	set := token.NewFileSet()
	for _, root := range []string{"cmd", "crl", "k8scsr", "pki"} {
		err := filepath.WalkDir(filepath.Join("../..", root), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
			files = append(files, file)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

func stringLiterals(t *testing.T) []string {
	var literals []string
	for _, file := range sources(t) {
		ast.Inspect(file, func(n ast.Node) bool {
			if s, ok := literal(n); ok {
				literals = append(literals, s)
			}
			return true
		})
	}
	return literals
}

// findingRules are the rules of all findings, wherever the source writes them:
// constants RuleX, the field Rule of a Finding, the first column of a table of
// rules.
func findingRules(t *testing.T) []string {
	var rules []string
	add := func(n ast.Node) {
		if s, ok := literal(n); ok {
			rules = append(rules, s)
		}
	}
	for _, file := range sources(t) {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ValueSpec:
				for i, name := range n.Names {
					if strings.HasPrefix(name.Name, "Rule") && i < len(n.Values) {
						add(n.Values[i])
					}
				}
			case *ast.CompositeLit:
				for _, e := range n.Elts {
					if field, ok := e.(*ast.KeyValueExpr); ok && typeName(n.Type) == "Finding" {
						if key, ok := field.Key.(*ast.Ident); ok && key.Name == "Rule" {
							add(field.Value)
						}
					}
					if row, ok := e.(*ast.CompositeLit); ok && len(row.Elts) > 0 && typeName(n.Type) == "rule" {
						add(row.Elts[0])
					}
				}
			}
			return true
		})
	}
	slices.Sort(rules)
	return slices.Compact(rules)
}

// typeName is the last word of a type: Finding for Finding and k8scsr.Finding,
// rule for []rule.
func typeName(n ast.Expr) string {
	switch n := n.(type) {
	case *ast.Ident:
		return n.Name
	case *ast.SelectorExpr:
		return n.Sel.Name
	case *ast.ArrayType:
		return typeName(n.Elt)
	}
	return ""
}

func literal(n ast.Node) (string, bool) {
	lit, ok := n.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(lit.Value)
	return s, err == nil
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
