package main

import (
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The law of the house: the three domain roots crl, pki and k8scsr are the
// functional core; their children touch the world; cmd wires. A rule that fails
// says why it is there.

const module = "github.com/pkiwarden/pkiwarden/"

// sourceFile is one Go file of the module that is part of a build.
type sourceFile struct {
	path    string // from the module's root, with slashes
	lines   int
	set     *token.FileSet
	syntax  *ast.File
	imports map[string]string // import path by the name that the file uses
}

// rule is one sentence of the law.
type rule struct {
	name    string
	applies func(file string) bool
	find    func(*sourceFile) []string // what is forbidden here, each with its line
	why     string
}

var rules = []rule{
	{
		"roots import only what is pure", isRoot, importsOutside(pureImports),
		"a root has no I/O, no clock, no chance, no log, no Kubernetes, no Vault, no Prometheus: what it needs comes in as an argument, and a child or cmd touches the world",
	},
	{
		"roots do not import each other, but pki may import crl", isRoot, rootsImported,
		"each domain is usable as a library without the others; tidy has to know what a CRL is, nothing else crosses",
	},
	{
		"roots do not read the clock or wait", isRoot, symbols("time", "Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker", "LoadLocation", "Local"),
		"a decision is a value of its arguments, now among them: that is what makes planner, lifecycle and forecast testable in microseconds",
	},
	{
		"roots do not talk to the network", isRoot, symbols("net", "Dial*", "Listen*", "Lookup*", "Resolve*", "Interface*", "File*"),
		"net is there for IP and IPNet; what has to be asked is asked by a child",
	},
	{
		"roots verify certificates against given roots at a given time", isRoot, bareVerify,
		"the defaults of x509.VerifyOptions read the system's roots from disk, and the clock",
	},
	{
		"roots make no keys and no signatures", isRoot, makesKeys,
		"Go ignores an injected random reader there, so it is made in the children",
	},
	{
		"children import roots, not each other and not cmd", isChild, childrenImported,
		"what one child needs from another it declares as a small interface, and cmd injects it: so there is one Vault client, one retry layer, one way to fetch a CRL",
	},
	{
		"domain packages do not use machinery", isDomain, importsUnder(module + "cmd/"),
		"machinery lives under cmd/pkiwarden/internal, where domain code cannot reach it; imports point from cmd to the domains",
	},
	{
		"domain packages do not print", isDomain, prints,
		"log/slog is passed in and stdout is the command's; a library that prints cannot be used by another program",
	},
	{
		"klog only in internal/kube and internal/leader",
		func(file string) bool {
			return !under(file, "cmd/pkiwarden/internal/kube") && !under(file, "cmd/pkiwarden/internal/leader")
		},
		importsUnder("k8s.io/klog"),
		"kube bridges it to slog once, and leader hands its elector a silent one; any other user brings a second format and its own flags",
	},
	{
		"main.go has at most 30 lines", func(file string) bool { return file == "cmd/pkiwarden/main.go" }, longerThan(30),
		"main is os.Exit(run(...)): what it would do beyond that cannot be tested",
	},
	{
		"no file has more than 600 lines", func(string) bool { return true }, longerThan(600),
		"a file is read from top to bottom; past 400 lines it holds a second subject",
	},
}

// pureImports is what the roots may import of the standard library; a trailing
// /... covers what is below.
var pureImports = []string{
	"bytes", "cmp", "context", "crypto", "crypto/...", "encoding", "encoding/...", "errors", "fmt", "hash", "hash/...", "io", "iter",
	"maps", "math", "math/big", "net", "net/netip", "net/url", "slices", "sort", "strconv", "strings", "time", "unicode", "unicode/...",
}

var impureImports = []string{"crypto/rand", "crypto/tls"}

// topLevel is everything that may stand at the module's root, besides dot files.
var topLevel = []string{"go.mod", "go.sum", "cmd", "pki", "crl", "k8scsr", "manifests", "test", "Makefile", "README.md", "LICENSE"}

var rootNames = []string{"crl", "pki", "k8scsr"}

func isRoot(file string) bool { return slices.Contains(rootNames, path.Dir(file)) && !isTest(file) }
func isDomain(file string) bool {
	return slices.ContainsFunc(rootNames, func(root string) bool { return under(file, root) }) && !isTest(file)
}
func isChild(file string) bool { return isDomain(file) && !isRoot(file) }
func isTest(file string) bool  { return strings.HasSuffix(file, "_test.go") }

func under(file, folder string) bool { return file == folder || strings.HasPrefix(file, folder+"/") }

// child is the child that a file or package belongs to: crl/watch.
func child(p string) string {
	parts := strings.SplitN(p, "/", 3)
	return strings.Join(parts[:min(len(parts), 2)], "/")
}

func importsOutside(allowed []string) func(*sourceFile) []string {
	return func(f *sourceFile) []string {
		return f.importing(func(imported string) bool {
			if strings.HasPrefix(imported, module) {
				return false // another rule's
			}
			return slices.Contains(impureImports, imported) || !slices.ContainsFunc(allowed, func(a string) bool {
				folder, all := strings.CutSuffix(a, "/...")
				return imported == a || all && under(imported, folder)
			})
		})
	}
}

func rootsImported(f *sourceFile) []string {
	return f.importing(func(imported string) bool {
		name, ours := strings.CutPrefix(imported, module)
		return ours && !(path.Dir(f.path) == "pki" && name == "crl")
	})
}

func childrenImported(f *sourceFile) []string {
	return f.importing(func(imported string) bool {
		name, ours := strings.CutPrefix(imported, module)
		return ours && !strings.HasPrefix(name, "cmd/") && !slices.Contains(rootNames, name) && child(name) != child(path.Dir(f.path))
	})
}

func importsUnder(prefix string) func(*sourceFile) []string {
	return func(f *sourceFile) []string {
		return f.importing(func(imported string) bool { return strings.HasPrefix(imported+"/", prefix) })
	}
}

func longerThan(most int) func(*sourceFile) []string {
	return func(f *sourceFile) []string {
		if f.lines <= most {
			return nil
		}
		return []string{fmt.Sprintf("%s: %d lines", f.path, f.lines)}
	}
}

// symbols finds the uses of a package's names; a trailing * covers a prefix.
func symbols(pkg string, names ...string) func(*sourceFile) []string {
	return func(f *sourceFile) []string {
		return f.using(func(imported, name string) bool { return imported == pkg && matches(name, names) })
	}
}

func matches(name string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		prefix, open := strings.CutSuffix(p, "*")
		return name == p || open && strings.HasPrefix(name, prefix)
	})
}

func makesKeys(f *sourceFile) []string {
	return f.using(func(imported, name string) bool {
		return under(imported, "crypto") && matches(name, []string{"GenerateKey", "GenerateMultiPrimeKey", "Sign", "SignASN1", "SignPSS", "SignPKCS1v15", "SignMessage", "CreateCertificate", "CreateCertificateRequest", "CreateRevocationList"})
	})
}

func prints(f *sourceFile) []string {
	found := f.importing(func(imported string) bool { return imported == "log" })
	found = append(found, f.using(func(imported, name string) bool {
		return imported == "fmt" && matches(name, []string{"Print*", "Scan", "Scanf", "Scanln"})
	})...)
	ast.Inspect(f.syntax, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			if name, ok := call.Fun.(*ast.Ident); ok && name.Obj == nil && (name.Name == "print" || name.Name == "println") {
				found = append(found, f.at(call, name.Name))
			}
		}
		return true
	})
	return found
}

// bareVerify finds x509.VerifyOptions that are not written out with Roots and
// CurrentTime, and the system's roots.
func bareVerify(f *sourceFile) []string {
	complete := map[ast.Expr]bool{}
	ast.Inspect(f.syntax, func(n ast.Node) bool {
		literal, ok := n.(*ast.CompositeLit)
		if !ok {
			return true
		}
		keys := map[string]bool{}
		for _, element := range literal.Elts {
			if pair, ok := element.(*ast.KeyValueExpr); ok {
				if key, ok := pair.Key.(*ast.Ident); ok {
					keys[key.Name] = true
				}
			}
		}
		complete[literal.Type] = keys["Roots"] && keys["CurrentTime"]
		return true
	})
	var found []string
	f.selectors(func(imported string, s *ast.SelectorExpr) {
		if imported == "crypto/x509" && (s.Sel.Name == "VerifyOptions" && !complete[s] || s.Sel.Name == "SystemCertPool") {
			found = append(found, f.at(s, "x509."+s.Sel.Name))
		}
	})
	return found
}

func (f *sourceFile) at(n ast.Node, what string) string {
	return fmt.Sprintf("%s:%d: %s", f.path, f.set.Position(n.Pos()).Line, what)
}

func (f *sourceFile) importing(forbidden func(string) bool) []string {
	var found []string
	for _, spec := range f.syntax.Imports {
		if imported, err := strconv.Unquote(spec.Path.Value); err == nil && forbidden(imported) {
			found = append(found, f.at(spec, "import "+spec.Path.Value))
		}
	}
	return found
}

func (f *sourceFile) using(forbidden func(imported, name string) bool) []string {
	var found []string
	f.selectors(func(imported string, s *ast.SelectorExpr) {
		if forbidden(imported, s.Sel.Name) {
			found = append(found, f.at(s, path.Base(imported)+"."+s.Sel.Name))
		}
	})
	return found
}

// selectors visits every NAME.SYMBOL where NAME is an import of the file.
func (f *sourceFile) selectors(visit func(imported string, s *ast.SelectorExpr)) {
	ast.Inspect(f.syntax, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if name, ok := s.X.(*ast.Ident); ok && name.Obj == nil {
				if imported, ok := f.imports[name.Name]; ok {
					visit(imported, s)
				}
			}
		}
		return true
	})
}

// readSource parses one file; nil when a build tag leaves it out of every build.
func readSource(file string, text []byte) (*sourceFile, error) {
	set := token.NewFileSet()
	syntax, err := parser.ParseFile(set, file, text, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	for _, group := range syntax.Comments {
		for _, c := range group.List {
			if expr, err := constraint.Parse(c.Text); err == nil && c.Pos() < syntax.Package && expr.String() == "keep" {
				return nil, nil
			}
		}
	}
	f := &sourceFile{path: file, lines: strings.Count(string(text), "\n"), set: set, syntax: syntax, imports: map[string]string{}}
	for _, spec := range syntax.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		name := path.Base(imported)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		if name == "." {
			return nil, fmt.Errorf("%s: a dot import of %s hides where names come from", file, imported)
		}
		f.imports[name] = imported
	}
	return f, nil
}

func violations(f *sourceFile) []string {
	var all []string
	for _, r := range rules {
		if !r.applies(f.path) {
			continue
		}
		for _, found := range r.find(f) {
			all = append(all, fmt.Sprintf("%s\n\trule: %s\n\twhy:  %s", found, r.name, r.why))
		}
	}
	return all
}

// TestLaw holds every Go file of the module to the rules.
func TestLaw(t *testing.T) {
	root := filepath.Join("..", "..")
	files := 0
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			_, nested := os.Stat(filepath.Join(name, "go.mod"))
			if rel != "." && (nested == nil || entry.Name() == "testdata" || strings.HasPrefix(entry.Name(), ".")) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		f, err := readSource(filepath.ToSlash(rel), text)
		if f == nil || err != nil {
			return err
		}
		files++
		for _, v := range violations(f) {
			t.Error(v)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 20 {
		t.Errorf("only %d files were looked at", files)
	}
}

// TestTopLevel holds the module's root to its fixed entries.
func TestTopLevel(t *testing.T) {
	entries, err := os.ReadDir(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	ignore, err := os.ReadFile(filepath.Join("..", "..", ".gitignore"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	for _, name := range strays(names, strings.Fields(string(ignore))) {
		t.Errorf("%s stands at the top\n\trule: the top level is fixed: %s and dot files\n\twhy:  whoever looks for something knows where it is; it has a place below one of these", name, strings.Join(topLevel, " "))
	}
}

// strays are the names that are neither allowed at the top nor ignored by git.
func strays(names, ignored []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return strings.HasPrefix(name, ".") || slices.Contains(topLevel, name) || slices.ContainsFunc(ignored, func(pattern string) bool {
			match, err := path.Match(strings.Trim(pattern, "/"), name)
			return err == nil && match
		})
	})
}

// TestLawCanFail shows each rule a file that breaks it, and that alone.
func TestLawCanFail(t *testing.T) {
	unbroken := map[string]bool{}
	for _, r := range rules {
		unbroken[r.name] = true
	}
	for _, test := range lawFixtures {
		f, err := readSource(test.file, []byte(test.source))
		if err != nil {
			t.Fatalf("%s: %v", test.file, err)
		}
		var want []string
		if test.breaks != "" {
			want = []string{test.breaks}
			delete(unbroken, test.breaks)
		}
		var got []string
		for _, r := range rules {
			if r.applies(f.path) && len(r.find(f)) > 0 {
				got = append(got, r.name)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s breaks %q, want %q:\n%s", test.file, got, want, test.source)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(unbroken)) {
		t.Errorf("no fixture breaks the rule: %s", name)
	}
	if got := strays([]string{"cmd", ".github", "docs", "pkiwarden", "x.test"}, []string{"/pkiwarden", "*.test"}); !slices.Equal(got, []string{"docs"}) {
		t.Errorf("strays at the top: %q, want docs", got)
	}
}
