package main

import "strings"

// lawFixtures are small files, each with the rule that it breaks; "" breaks none.
var lawFixtures = []struct{ breaks, file, source string }{
	{"roots import only what is pure", "crl/a.go", `package crl; import "os"; var _ = os.Args`},
	{"roots import only what is pure", "pki/a.go", `package pki; import _ "crypto/rand"`},
	{"roots import only what is pure", "pki/a.go", `package pki; import _ "crypto/tls"`},
	{"roots import only what is pure", "pki/a.go", `package pki; import _ "log/slog"`},
	{"roots import only what is pure", "pki/a.go", `package pki; import _ "math/rand/v2"`},
	{"roots import only what is pure", "pki/a.go", `package pki; import _ "net/http"`},
	{"roots import only what is pure", "k8scsr/a.go", `package k8scsr; import _ "k8s.io/api/certificates/v1"`},
	{"", "crl/a.go", `package crl; import ( _ "crypto/x509/pkix"; _ "encoding/asn1"; _ "hash/fnv"; _ "unicode/utf8"; _ "net/netip" )`},
	{"", "crl/a_test.go", `package crl; import "os"; var _ = os.Args`},

	{"roots do not import each other, but pki may import crl", "crl/a.go", `package crl; import _ "github.com/pkiwarden/pkiwarden/pki"`},
	{"roots do not import each other, but pki may import crl", "k8scsr/a.go", `package k8scsr; import _ "github.com/pkiwarden/pkiwarden/crl"`},
	{"roots do not import each other, but pki may import crl", "pki/a.go", `package pki; import _ "github.com/pkiwarden/pkiwarden/pki/tidier"`},
	{"", "pki/a.go", `package pki; import _ "github.com/pkiwarden/pkiwarden/crl"`},

	{"roots do not read the clock or wait", "crl/a.go", `package crl; import "time"; var now = time.Now`},
	{"roots do not read the clock or wait", "crl/a.go", `package crl; import clock "time"; func f() { clock.Sleep(clock.Second) }`},
	{"roots do not read the clock or wait", "pki/a.go", `package pki; import "time"; func f() <-chan time.Time { return time.After(1) }`},
	{"roots do not read the clock or wait", "pki/a.go", `package pki; import "time"; func f(t time.Time) time.Duration { return time.Since(t) }`},
	{"roots do not read the clock or wait", "pki/a.go", `package pki; import "time"; var t = time.NewTimer(time.Second)`},
	{"", "pki/a.go", `package pki; import "time"; func f(t time.Time) bool { return t.After(time.Unix(0, 0)) }`},
	{"", "pki/tidier/a.go", `package tidier; import "time"; var now = time.Now`},

	{"roots do not talk to the network", "k8scsr/a.go", `package k8scsr; import "net"; var _, _ = net.LookupHost("a")`},
	{"roots do not talk to the network", "k8scsr/a.go", `package k8scsr; import "net"; var _, _ = net.DialTimeout("tcp", "a", 1)`},
	{"roots do not talk to the network", "k8scsr/a.go", `package k8scsr; import "net"; var _, _ = net.Listen("tcp", "a")`},
	{"", "k8scsr/a.go", `package k8scsr; import "net"; var _ = net.ParseIP("127.0.0.1")`},

	{"roots verify certificates against given roots at a given time", "k8scsr/a.go", `package k8scsr; import "crypto/x509"; func f(c *x509.Certificate) { c.Verify(x509.VerifyOptions{}) }`},
	{"roots verify certificates against given roots at a given time", "k8scsr/a.go", `package k8scsr; import "crypto/x509"; func f(c *x509.Certificate, r *x509.CertPool) { c.Verify(x509.VerifyOptions{Roots: r}) }`},
	{"roots verify certificates against given roots at a given time", "k8scsr/a.go", `package k8scsr; import "crypto/x509"; func f(c *x509.Certificate) { var o x509.VerifyOptions; c.Verify(o) }`},
	{"roots verify certificates against given roots at a given time", "k8scsr/a.go", `package k8scsr; import "crypto/x509"; var _, _ = x509.SystemCertPool()`},
	{"", "k8scsr/a.go", `package k8scsr; import ("crypto/x509"; "time"); func f(c *x509.Certificate, r *x509.CertPool, now time.Time) { c.Verify(x509.VerifyOptions{Roots: r, CurrentTime: now}) }`},

	{"roots make no keys and no signatures", "k8scsr/a.go", `package k8scsr; import "crypto/ecdsa"; var _, _ = ecdsa.GenerateKey(nil, nil)`},
	{"roots make no keys and no signatures", "crl/a.go", `package crl; import "crypto/x509"; var _, _ = x509.CreateRevocationList(nil, nil, nil, nil)`},
	{"", "k8scsr/issuer/a.go", `package issuer; import ("crypto/ecdsa"; "crypto/rand"); var _, _ = ecdsa.GenerateKey(nil, rand.Reader)`},

	{"children import roots, not each other and not cmd", "crl/watch/a.go", `package watch; import _ "github.com/pkiwarden/pkiwarden/pki/vaultpki"`},
	{"children import roots, not each other and not cmd", "pki/tidier/a.go", `package tidier; import _ "github.com/pkiwarden/pkiwarden/pki/vaultpki"`},
	{"children import roots, not each other and not cmd", "k8scsr/issuer/issuertest/a.go", `package issuertest; import _ "github.com/pkiwarden/pkiwarden/k8scsr/deliver"`},
	{"", "crl/watch/a.go", `package watch; import ( _ "github.com/pkiwarden/pkiwarden/crl"; _ "github.com/pkiwarden/pkiwarden/pki"; _ "github.com/prometheus/client_golang/prometheus" )`},
	{"", "k8scsr/issuer/issuertest/a.go", `package issuertest; import _ "github.com/pkiwarden/pkiwarden/k8scsr/issuer"`},

	{"domain packages do not use machinery", "crl/watch/a.go", `package watch; import _ "github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/loop"`},
	{"", "cmd/pkiwarden/a.go", `package main; import _ "github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/loop"`},

	{"domain packages do not print", "crl/watch/a.go", `package watch; import "log"; func f() { log.Print(1) }`},
	{"domain packages do not print", "crl/a.go", `package crl; import "fmt"; func f() { fmt.Println(1) }`},
	{"domain packages do not print", "k8scsr/deliver/a.go", `package deliver; func f() { println(1) }`},
	{"", "crl/watch/a.go", `package watch; import ("fmt"; "io"; "log/slog"); func f(w io.Writer, log *slog.Logger) { log.Info("a"); fmt.Fprintln(w, fmt.Sprint(1)) }`},

	{"klog only in internal/kube and internal/leader", "k8scsr/issuer/a.go", `package issuer; import "k8s.io/klog/v2"; var _ = klog.V`},
	{"klog only in internal/kube and internal/leader", "cmd/pkiwarden/a.go", `package main; import "k8s.io/klog/v2"; var _ = klog.V`},
	{"", "cmd/pkiwarden/internal/kube/a.go", `package kube; import "k8s.io/klog/v2"; var _ = klog.V`},

	{"main.go has at most 30 lines", "cmd/pkiwarden/main.go", "package main\n" + strings.Repeat("\n", 30)},
	{"", "cmd/pkiwarden/main.go", "package main\n" + strings.Repeat("\n", 29)},
	{"no file has more than 600 lines", "cmd/pkiwarden/a_test.go", "package main\n" + strings.Repeat("\n", 600)},
	{"", "test/e2e/a.go", "package e2e\n" + strings.Repeat("\n", 599)},
}
