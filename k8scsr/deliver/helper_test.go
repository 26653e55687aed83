package deliver

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// The test binary runs itself again in one of these roles.
const (
	roleVariable = "PKIWARDEN_DELIVER_ROLE"
	rolePublish  = "publish" // DIRECTORY PAIR: publish once
	roleServer   = "server"  // CERTIFICATE KEY ADDRESS HOW: a TLS server that reloads on HUP
	roleProbe    = "probe"   // a process without a listener, which ends with hungUp on HUP
	hungUp       = 129
)

func init() {
	if os.Getenv(roleVariable) == rolePublish {
		// strace counts calls by thread, so the publish has to stay on one.
		runtime.LockOSThread()
	}
}

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "":
		goleak.VerifyTestMain(m)
	case rolePublish:
		pair, err := readDirectory(os.Args[2])
		if err == nil {
			_, err = (&publisher{Files: Files{Directory: os.Args[1]}, now: time.Now}).sync(pair)
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(3)
		}
	case roleServer:
		serve(os.Args[1], os.Args[2], os.Args[3], os.Args[4])
	case roleProbe:
		// Whoever ran the tests may have had it ignored, as nohup does.
		hangup := make(chan os.Signal, 1)
		signal.Notify(hangup, syscall.SIGHUP)
		go func() { <-hangup; os.Exit(hungUp) }()
		fmt.Println("ready")
		_, _ = io.Copy(io.Discard, os.Stdin)
	}
}

// readDirectory reads a pair by plain names, without the code under test.
func readDirectory(directory string) (Pair, error) {
	certificate, err := os.ReadFile(filepath.Join(directory, "tls.crt"))
	if err != nil {
		return Pair{}, err
	}
	key, err := os.ReadFile(filepath.Join(directory, "tls.key"))
	if err != nil {
		return Pair{}, err
	}
	ca, err := os.ReadFile(filepath.Join(directory, "ca.crt"))
	if err != nil && !os.IsNotExist(err) {
		return Pair{}, err
	}
	return Pair{Certificate: certificate, Key: NewKey(key), CA: ca}, nil
}

func writeDirectory(t *testing.T, directory string, p Pair) {
	t.Helper()
	for name, data := range map[string][]byte{"tls.crt": p.Certificate, "tls.key": p.Key.PEM(), "ca.crt": p.CA} {
		if err := os.WriteFile(filepath.Join(directory, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// serve is a server like Vault: it opens certificate and key by their two
// paths, keeps the old pair when the new one does not match, and reloads on HUP
// only. how: "reload"; "ignore" HUP; or "slow", which takes half a second
// between the two files and loses the signals that arrive meanwhile.
func serve(certificate, key, address, how string) {
	var current atomic.Pointer[tls.Certificate]
	load := func(pause time.Duration) error {
		c, err := os.ReadFile(certificate)
		if err != nil {
			return err
		}
		time.Sleep(pause)
		k, err := os.ReadFile(key)
		if err != nil {
			return err
		}
		pair, err := tls.X509KeyPair(c, k)
		if err == nil {
			current.Store(&pair)
		}
		return err
	}
	if err := load(0); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	l, err := tls.Listen("tcp", address, &tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current.Load(), nil },
	})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("listening", l.Addr())
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(io.Discard, conn)
			}()
		}
	}()
	go func() { // ends with the test, however that ends
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	for range hup {
		fmt.Println("hup")
		switch how {
		case "reload":
			_ = load(0)
		case "slow":
			_ = load(500 * time.Millisecond)
			select {
			case <-hup:
				fmt.Println("lost")
			default:
			}
		}
	}
}

// child is a process in one of the roles.
type child struct {
	*exec.Cmd
	address string // of a server
	lines   chan string
	hups    atomic.Int32
}

// uniqueName is an executable that no other process of this machine runs: tests
// signal by name, and a real server may run beside them.
func uniqueName() string { return "vault-" + rand.Text()[:8] }

// start runs this test binary under another executable's name.
func start(t *testing.T, executable, role string, args ...string) *child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), executable)
	if err := os.Link(self, path); err != nil {
		data, err := os.ReadFile(self)
		if err == nil {
			err = os.WriteFile(path, data, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	c := &child{Cmd: exec.Command(path, args...), lines: make(chan string, 100)}
	c.Env = append(os.Environ(), roleVariable+"="+role)
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(c.lines)
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			if lines.Text() == "hup" {
				c.hups.Add(1)
			}
			c.lines <- lines.Text()
		}
	}()
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = c.Process.Kill()
		<-read
		_ = c.Wait()
	})
	first := <-c.lines
	if role == roleServer {
		address, ok := strings.CutPrefix(first, "listening ")
		if !ok {
			t.Fatalf("server says %q", first)
		}
		c.address = address
	}
	return c
}

// signals waits until the server has told of a signal, and of those that came
// with it; it gives up after five seconds.
func (c *child) signals() int32 {
	for end := time.Now().Add(5 * time.Second); c.hups.Load() == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond)
	return c.hups.Load()
}

// alive reports whether the process has not ended.
func (c *child) alive() bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.Process.Pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// authority is a CA of the tests.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	bundle      []byte
	serial      int64
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "Test CA"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{certificate: certificate, key: key, bundle: certificatePEM(der), serial: 1}
}

// issue makes a pair for 127.0.0.1 and vault.test that lasts for the lifetime
// given, or ended that long ago.
func (a *authority) issue(t testing.TB, lifetime time.Duration) Pair {
	t.Helper()
	key := newKey(t)
	a.serial++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.serial),
		Subject:      pkix.Name{CommonName: "vault.test"},
		DNSNames:     []string{"vault.test"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(lifetime),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return Pair{Certificate: certificatePEM(der), Key: keyPEM(t, key), CA: a.bundle}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func keyPEM(t testing.TB, key *ecdsa.PrivateKey) Key {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return NewKey(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func certificatePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// serialOf reads a pair the way a server does: it must load.
func serialOf(p Pair) (int64, error) {
	loaded, err := tls.X509KeyPair(p.Certificate, p.Key.PEM())
	if err != nil {
		return 0, err
	}
	return loaded.Leaf.SerialNumber.Int64(), nil
}
