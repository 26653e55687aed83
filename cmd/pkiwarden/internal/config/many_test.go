package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// many is a configuration with n certificates of one line each, the first of
// them on line 3. Of the entry with index i, other may be another text.
func many(n int, other map[int]string) []byte {
	var b bytes.Buffer
	b.WriteString("log: {level: debug}\ncertificates:\n")
	for i := range n {
		if text, ok := other[i]; ok {
			b.WriteString(text + "\n")
			continue
		}
		fmt.Fprintf(&b, "  - {name: web-%d, secret: {namespace: web, name: web-%d-tls}, dnsNames: [web-%d.web.svc], signer: example.com/web, trust: {configMap: {namespace: web, name: ca}}}\n", i, i, i)
	}
	b.WriteString("crl: {interval: 5m}\n")
	return b.Bytes()
}

func TestManyCertificates(t *testing.T) {
	n := 20_000
	if testing.Short() {
		n = 2000
	}
	c, err := Parse("x.yml", many(n, nil), noEnv)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Certificates) != n || c.Log.Level != "debug" || fmt.Sprint(c.CRL.Interval) != "5m0s" {
		t.Errorf("%d certificates, level %s, interval %s", len(c.Certificates), c.Log.Level, c.CRL.Interval)
	}
	got := c.Certificates.At(1471)
	if got.Name != "web-1471" || got.Secret != (ObjectName{"web", "web-1471-tls"}) || fmt.Sprint(got.DNSNames) != "[web-1471.web.svc]" || *got.Trust.ConfigMap != (KeyRef{"web", "ca", "ca.crt"}) {
		t.Errorf("%+v", got)
	}
	if got.URIs != nil || got.Windows != nil || got.Trust.ConfigMap != c.Certificates.At(0).Trust.ConfigMap || &got.Usages[0] != &c.Certificates.At(0).Usages[0] {
		t.Errorf("what is equal is not shared: %+v", got)
	}
}

// TestManyProblems holds what is said about one entry among thousands.
func TestManyProblems(t *testing.T) {
	const key, secret = "  - {name: a, signer: example.com/web, ", "secret: {namespace: web, name: a}"
	for _, test := range []struct {
		name  string
		n     int
		other map[int]string
		want  string
	}{
		{"unknown key", 5000, map[int]string{4711: key + secret + ", dnsName: [a.b]}"},
			`x.yml:4714:75: certificates[4711].dnsName: unknown key; did you mean "dnsNames"?`},
		{"missing value", 5000, map[int]string{4711: key + "secret: {namespace: web}}"},
			`x.yml:4714:48: certificates[4711].secret.name: expected a value, found none; for example vault-server-tls`},
		{"no entry", 5000, map[int]string{4711: "  -"},
			`x.yml:4714:3: certificates[4711]: expected a value, found nothing`},
		{"two that are empty", 5000, map[int]string{17: "  -   # web-17", 4999: "  -\n  # the last"},
			"x.yml:20:3: certificates[17]: expected a value, found nothing\nx.yml:5002:3: certificates[4999]: expected a value, found nothing"},
		{"name twice", 5000, map[int]string{4711: "  - {name: web-17, signer: example.com/web, " + secret + "}"},
			`x.yml:4714:12: certificates[4711].name: certificates[17] has the name "web-17" already`},
		{"next Secret", 5000, map[int]string{17: key + "secret: {namespace: web, name: web-4711-tls-next}}"},
			`x.yml:20:48: certificates[17].secret: the Secret web/web-4711-tls-next holds the next key of certificates[4711]`},
		{"syntax", 5000, map[int]string{4711: key + "secret: ]}"},
			`x.yml:4714:48: parsing YAML: could not find '[' character corresponding to ']'`},
		{"open quote", 5000, map[int]string{4711: `  - {name: "a}`},
			`x.yml:4714:12: parsing YAML: could not find end character of double-quoted text`},
		{"odd indentation", 5000, map[int]string{4711: " - {name: a}"},
			`x.yml:4714:2: certificates: expected an entry with its dash at column 3, what belongs to one, or a key at column 1`},
		{"odd indentation in the first thousand", 5000, map[int]string{17: " - {name: a}"},
			`x.yml:20:2: certificates: expected an entry with its dash at column 3, what belongs to one, or a key at column 1`},
		{"no indentation", 5000, map[int]string{17: "- {name: a}"},
			`x.yml:20:1: certificates: expected an entry with its dash at column 3, what belongs to one, or a key at column 1`},
		{"too much indentation", 5000, map[int]string{17: "   - {name: a}"},
			`x.yml:20:4: certificates: expected an entry with its dash at column 3, what belongs to one, or a key at column 1`},
		{"too much indentation among few", 50, map[int]string{17: "  - name: a\n   - name: b"},
			`x.yml:21:4: certificates: expected an entry with its dash at column 3, what belongs to one, or a key at column 1`},
		{"large entry", 5000, map[int]string{4711: "  - name: a\n" + strings.Repeat("    # much\n", 13000)},
			`x.yml:4714:3: certificates: expected at most 128 KiB for one entry, found 143013 bytes`},
		{"too many", 20001, nil,
			`x.yml:20003:3: certificates: expected at most 20000 entries, found more`},
		{"duplicate key", 5000, map[int]string{4999: "log: {}"},
			`x.yml:5002:1: log: duplicate key; it is already set at line 1`},
		{"second list", 5000, map[int]string{4800: "certificates:\n  - name: a", 4801: " # one entry", 4802: "log: {level: info}\ncertificates:"},
			"x.yml:4803:1: certificates: duplicate key; it is already set at line 2\n" +
				"x.yml:4806:1: log: duplicate key; it is already set at line 1\n" +
				"x.yml:4807:1: certificates: duplicate key; it is already set at line 2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			n, other, want := test.n, test.other, test.want
			if n == 5000 && testing.Short() {
				n, other, want = 1500, map[int]string{}, nearer(want)
				for i, text := range test.other {
					if i >= 4500 {
						i -= 3500
					}
					other[i] = nearer(text)
				}
			}
			_, err := Parse("x.yml", many(n, other), noEnv)
			if err == nil || err.Error() != want {
				t.Errorf("got:\n%v\nwant:\n%s", err, want)
			}
		})
	}
}

// nearer is what is said of an entry or a line with 3500 entries less before it:
// there are still more than are read at once.
func nearer(text string) string {
	return regexp.MustCompile(`\b(4[5-9]|50)[0-9]{2}\b`).ReplaceAllStringFunc(text, func(number string) string {
		n, _ := strconv.Atoi(number) // four digits
		return strconv.Itoa(n - 3500)
	})
}

func TestManyOtherwise(t *testing.T) {
	flow := strings.NewReplacer("certificates:\n", "certificates: [\n", "  - {", "  {", "}}}\n", "}}},\n", "crl:", "]\ncrl:").Replace(string(many(2000, nil)))
	const remedy = `; up to 20000 certificates in 16 MiB are read from a block list, each entry on lines of its own that begin with "- "`
	for name, test := range map[string]struct{ doc, want string }{
		"flow list":       {flow, "x.yml:1003:168: expected at most 1000 entries in a list, found more" + remedy},
		"large flow list": {flow + strings.Repeat("# much\n", 150_000), "x.yml: the file is larger than 1 MiB" + remedy},
		"much else":       {string(many(2000, nil)) + strings.Repeat("# much\n", 150_000), "x.yml: the file is larger than 1 MiB without the entries of certificates"},
		"another list":    {"crl:\n  mounts:\n" + strings.Repeat("  - a\n", 1001), "x.yml:1003:3: expected at most 1000 entries in a list, found more"},
		"within quotes":   {"log:\n  level: \"\n" + string(many(2000, nil)), "x.yml:2:10: parsing YAML: could not find end character of double-quoted text"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("x.yml", []byte(test.doc), noEnv)
			if err == nil || err.Error() != test.want {
				t.Errorf("got:\n%v\nwant:\n%s", err, test.want)
			}
		})
	}
}

// TestProblemsAreBounded: fifty problems, then how many more; the environment's
// are not lost.
func TestProblemsAreBounded(t *testing.T) {
	doc := strings.ReplaceAll(string(many(3000, nil)), "name: web-", "nam: web-")
	_, err := Parse("x.yml", []byte(doc), envOf("VAULT_SKIP_VERIFY=true"))
	var problems Problems
	if !errors.As(err, &problems) || len(problems) != 52 {
		t.Fatalf("%d problems", len(problems))
	}
	// Each entry has two wrong keys, and misses two.
	if want := (Problem{File: "x.yml", Line: 15, Column: 27, Message: "and 11950 more problems, from here on"}); problems[50] != want {
		t.Errorf("got %+v, want %+v", problems[50], want)
	}
	if problems[51].File != "environment" {
		t.Errorf("the last is %+v", problems[51])
	}
}

// TestManyAnchors: anchors of the file and of entries serve the entries after
// them, and what stands after the list.
func TestManyAnchors(t *testing.T) {
	doc := string(many(2000, map[int]string{
		3:    "  - &first {name: first, secret: {namespace: web, name: first}, dnsNames: &names [a.b, c.d], signer: example.com/web}",
		1500: "  - {<<: *first, name: second, secret: {namespace: web, name: second}, ipAddresses: *none}",
		1501: "  - {<<: *first, name: third, secret: {namespace: web, name: third}, dnsNames: &names [e.f]}",
		1502: "  - {name: fourth, secret: {namespace: web, name: fourth}, dnsNames: *names}",
	})) + "tidy: {mounts: *names}\n"
	doc = strings.Replace(doc, "log:", "consul: {storagePath: vault/}\nlog:", 1)
	doc = strings.Replace(doc, "log: {level: debug}", "log: {level: debug}\nlisten: {address: &address \":9402\"}\ncanary: &none []", 1)
	c, err := Parse("x.yml", []byte(doc), noEnv)
	if err != nil {
		t.Fatal(err)
	}
	second, fourth := c.Certificates.At(1500), c.Certificates.At(1502)
	if fmt.Sprint(second.DNSNames) != "[a.b c.d]" || second.Signer != "example.com/web" || second.IPAddresses != nil || second.Name != "second" {
		t.Errorf("%+v", second)
	}
	if fmt.Sprint(fourth.DNSNames, c.Tidy.Mounts) != "[e.f] [e.f]" {
		t.Errorf("%q, %q", fourth.DNSNames, c.Tidy.Mounts)
	}
	_, err = Parse("x.yml", []byte(strings.Replace(doc, "*first", "*later", 1)), noEnv)
	if want := "x.yml:1506:10: certificates[1500]: the alias *later has no anchor before it"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestOneConfigMap holds what the README says of a ConfigMap's 1 MiB.
func TestOneConfigMap(t *testing.T) {
	var b strings.Builder
	b.WriteString("certificates:\n  - &web {name: web-0000, secret: {namespace: web, name: web-0000}, dnsNames: [web-0000.web.svc], signer: example.com/web, lifetime: 24h, approve: true, trust: {configMap: {namespace: web, name: ca}}}\n")
	n := 9500
	if testing.Short() {
		n = 1900
	}
	for i := 1; i < n; i++ {
		fmt.Fprintf(&b, "  - {<<: *web, name: web-%04d, secret: {namespace: web, name: web-%04d}, dnsNames: [web-%04d.web.svc]}\n", i, i, i)
	}
	c, err := Parse("x.yml", []byte(b.String()), noEnv)
	if err != nil || b.Len() > 1<<20 {
		t.Fatalf("%d bytes: %v", b.Len(), err)
	}
	last := c.Certificates.At(n - 1)
	if last.Name != map[int]string{9500: "web-9499", 1900: "web-1899"}[n] || last.Signer != "example.com/web" || !last.Approve || *last.Trust.ConfigMap != (KeyRef{"web", "ca", "ca.crt"}) {
		t.Errorf("%+v", last)
	}
}

// TestMemoryPerCertificate holds what 10,000 certificates cost for as long as
// the process runs.
func TestMemoryPerCertificate(t *testing.T) {
	n := int64(10_000)
	if testing.Short() {
		n = 2000
	}
	data := many(int(n), nil)
	heap := func() int64 {
		var m runtime.MemStats
		for range 3 { // what is pooled leaves with the second one
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	if _, err := Parse("x.yml", many(1, nil), noEnv); err != nil { // what is made once
		t.Fatal(err)
	}
	before := heap()
	c, err := Parse("x.yml", data, noEnv)
	if err != nil {
		t.Fatal(err)
	}
	each := (heap() - before) / n
	runtime.KeepAlive(data)
	runtime.KeepAlive(c)
	if each < 1 || each > 400 {
		t.Errorf("%d bytes for each", each)
	}
	t.Logf("%d bytes for each", each)
}

// TestLinear: ten times the certificates are ten times the work, by what is
// allocated.
func TestLinear(t *testing.T) {
	work := func(n int) float64 {
		data := many(n, nil)
		return testing.AllocsPerRun(1, func() {
			if _, err := Parse("x.yml", data, noEnv); err != nil {
				t.Fatal(err)
			}
		})
	}
	n := 200
	if testing.Short() {
		n = 100
	}
	if few, more := work(n), work(10*n); more > 11*few {
		t.Errorf("%v allocations for %d, %v for %d", few, n, more, 10*n)
	}
}

// BenchmarkParse shows the time by the number of certificates.
func BenchmarkParse(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000} {
		data := many(n, nil)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse("x.yml", data, noEnv); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// samePieces holds that a file which is read in pieces says what it says as a
// whole.
func samePieces(t *testing.T, data []byte) {
	p, why := cut("x.yml", data)
	if why != nil || len(p.entries) == 0 {
		return
	}
	apart, c := fresh("x.yml")
	if apart.checkText(data); apart.found > 0 {
		return
	}
	if apart.piecewise(p, c) != nil {
		return
	}
	if p.column == 1 && p.tail.offset < len(data) && p.empty(len(p.entries)-1) {
		return // the parser takes what follows for the value of the entry
	}
	whole, want := fresh("x.yml")
	whole.whole(string(data), want, nil)
	apart.check(c)
	if !whole.unreadable {
		whole.check(want)
	}
	if whole.unreadable && apart.found > 0 {
		return // the parser stops at what the decoder has a message for
	}
	if got, want := apart.shown().Error(), whole.shown().Error(); got != want {
		t.Errorf("%q in pieces:\n%s\nas a whole:\n%s", data, got, want)
	}
	if apart.found == 0 && !reflect.DeepEqual(c, want) {
		t.Errorf("%q in pieces:\n%+v\nas a whole:\n%+v", data, c, want)
	}
}

// pieceSeeds are shapes at which cutting could go wrong.
var pieceSeeds = []string{
	"certificates:\n- name: a\n- name: b\n",
	"certificates:\n-\n-\n  name: b\n",
	"certificates:\n  -\n    name: a\n  # comment\n# comment\n\n  - name: b\nlog: {}\n",
	"certificates: # comment\r\n  - name: a\r\n  - name: b\r\nlog: {}\r\n",
	"certificates:\n  - name: \"a\n  - b\"\n  - name: c\nlog: {level: \"info\"}\n",
	"certificates:\n  - name: 'a\n  - b: '\n",
	"certificates:\n  - name: |\n      text\n  - b\n    - name: c\n",
	"certificates:\n  - name: >-\n  - name: c\n",
	"certificates:\n  - {name: a,\n  - secret: {}}\n  - name: b\n",
	"certificates:\n  - dnsNames:\n    - a.b\n    - c.d\n  - dnsNames: [a,\n    b]\n",
	"certificates:\n  - dnsNames:\n  - a.b\n",
	"certificates:\n- dnsNames:\n  - a.b\nlog: {}\n- x\n",
	"certificates:\n  - - a\n    - b\n  - c\n",
	"certificates:\n  - ? a\n  - b\n",
	"certificates:\n  - a: b: c\n  - b\n",
	"certificates:\n  - !!map {name: a}\n  - &a {name: b}\n  - *a\n  - {<<: *a}\n",
	"certificates:\n  - name: a\n---\ncertificates:\n  - name: b\n",
	"---\ncertificates:\n  - name: a\n  - name: b\n...\n",
	"--- |\ncertificates:\n  - name: a\n  - name: b\n",
	"log: \"\ncertificates:\n  - name: a\n  - name: b\n\"\n",
	"log: [\ncertificates:\n  - name: a\n  - name: b\n]\n",
	"{\ncertificates:\n  - name: a\n  - name: b\n}\n",
	"vault: &v\ncertificates:\n  - name: a\n  - name: b\n",
	"log:\ncertificates:\n  - name: a\n  - name: b\n  tidy: {}\n",
	"certificates:\n  - name: a\n  - name: b\ncertificates:\n  - name: c\n",
	"certificates:\n  - name: a\n  -name: b\n  - name: c\n",
	"certificates:\n  - name: a\n  - name: b\n   secret: {}\n",
	"certificates:\n  - name: a\n    secret:\n  - name: b\n  -  name: c\n     secret: {}\n",
	"certificates:\n- name:\n!",
	"certificates:\n- name:\n...",
	"certificates:\n- mame: \n! 0000:",
	"certificates:\n  -\n  - &a {name: b}\n  - *a\n0000<<: 00\n",
	"certificates:\n  - name: a\n  - # comment\n    name: b\n  - name: c # comment\n#\nlog: {level: x}\n",
}

func TestPieces(t *testing.T) {
	for _, doc := range pieceSeeds {
		samePieces(t, []byte(doc))
	}
	files, err := filepath.Glob("testdata/*.y*ml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		samePieces(t, data)
	}
}

// FuzzPieces looks for files that say something else in pieces.
func FuzzPieces(f *testing.F) {
	for _, doc := range pieceSeeds {
		f.Add([]byte(doc))
	}
	f.Fuzz(samePieces)
}

// TestListsAreNotMixedUp: only what is the same is shared.
func TestListsAreNotMixedUp(t *testing.T) {
	entry := "- {name: %s, secret: {namespace: a, name: %[1]s}, signer: example.com/a, trust: {file: /ca}, dnsNames: [a.example], subject: {commonName: a.example, organizations: %s}}\n"
	c, err := Parse("x.yml", []byte("certificates:\n"+fmt.Sprintf(entry, "a", `[""]`)+fmt.Sprintf(entry, "b", "[]")+fmt.Sprintf(entry, "c", `["x\0y"]`)+fmt.Sprintf(entry, "d", "[x, y]")), noEnv)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{`[""]`, `[]`, `["x\x00y"]`, `["x" "y"]`} {
		if got := fmt.Sprintf("%q", c.Certificates.At(i).Subject.Organizations); got != want {
			t.Errorf("%d: %s, want %s", i, got, want)
		}
	}
}
