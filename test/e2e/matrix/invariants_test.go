package matrix

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/pkiwarden/pkiwarden/test/e2e/servers"
)

// made is a key and what is made of it.
type made struct {
	key     *ecdsa.PrivateKey
	keyPEM  []byte
	request []byte
}

func makeKey(t *testing.T) made {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"a.example"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return made{key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})}
}

func csrOf(uid string, m made, decisions ...certificatesv1.RequestConditionType) certificatesv1.CertificateSigningRequest {
	csr := certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "request-" + uid, UID: types.UID(uid)},
		Spec:       certificatesv1.CertificateSigningRequestSpec{Request: m.request},
	}
	for _, d := range decisions {
		csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: d})
	}
	return csr
}

func secretOf(keyPEM, certificatePEM []byte) *corev1.Secret {
	return &corev1.Secret{Data: map[string][]byte{corev1.TLSPrivateKeyKey: keyPEM, corev1.TLSCertKey: certificatePEM}}
}

// Each promise that is broken is noticed, and none that is kept.
func TestBrokenPromisesAreNoticed(t *testing.T) {
	ca, err := servers.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	issue := func(life time.Duration) *corev1.Secret {
		leaf, err := ca.Issue(servers.LeafOptions{CommonName: "a", DNSNames: []string{"a.example"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life)})
		if err != nil {
			t.Fatal(err)
		}
		return secretOf(leaf.KeyPEM, leaf.CertificatePEM)
	}
	short, long := issue(time.Hour), issue(2*time.Hour)
	a, b := makeKey(t), makeKey(t)
	none := &corev1.Secret{}
	const approved, denied = certificatesv1.CertificateApproved, certificatesv1.CertificateDenied
	list := func(all ...certificatesv1.CertificateSigningRequest) []certificatesv1.CertificateSigningRequest {
		return all
	}

	for _, c := range []struct {
		name string
		do   func(*trial)
		want []string // what the violations begin with
	}{
		{"a renewal", func(t *trial) {
			t.checkLive("1", short, false)
			t.checkRequests("1", nil, secretOf(a.keyPEM, nil), short)
			t.checkRequests("2", list(csrOf("1", a)), secretOf(a.keyPEM, nil), short)
			t.checkRequests("3", list(csrOf("1", a, approved)), secretOf(a.keyPEM, nil), short)
			t.checkLive("4", long, false)
		}, nil},
		{"denied, then another", func(t *trial) {
			t.checkRequests("1", list(csrOf("1", a)), secretOf(a.keyPEM, nil), none)
			t.checkRequests("2", list(csrOf("1", a, denied), csrOf("2", b)), secretOf(b.keyPEM, nil), none)
		}, nil},
		{"two open", func(t *trial) {
			t.checkRequests("1", list(csrOf("1", a), csrOf("2", b)), secretOf(b.keyPEM, nil), secretOf(a.keyPEM, nil))
		}, []string{"I4, 1: 2 open"}},
		{"two for one key", func(t *trial) {
			t.checkRequests("1", list(csrOf("1", a, denied)), secretOf(a.keyPEM, nil), none)
			t.checkRequests("2", list(csrOf("1", a, denied), csrOf("2", a)), secretOf(a.keyPEM, nil), none)
		}, []string{"I4, 2: two requests for one key"}},
		{"made again after the trial removed it", func(t *trial) {
			t.checkRequests("1", list(csrOf("1", a)), secretOf(a.keyPEM, nil), none)
			t.gone["1"] = struct{}{}
			t.checkRequests("2", list(csrOf("2", a)), secretOf(a.keyPEM, nil), none)
			t.checkRequests("3", list(csrOf("3", a)), secretOf(a.keyPEM, nil), none)
		}, []string{"I4, 3: two requests for one key"}},
		{"key lost", func(t *trial) { t.checkRequests("1", list(csrOf("1", a)), secretOf(b.keyPEM, nil), none) }, []string{"I3, 1: request request-1 is open and its key"}},
		{"decided twice", func(t *trial) {
			t.checkRequests("1", list(csrOf("1", a, approved)), secretOf(a.keyPEM, nil), none)
			t.checkRequests("2", list(csrOf("1", a, denied)), none, none)
		}, []string{"I8, 2: request request-1 was Approved and is Denied"}},
		{"live gone", func(t *trial) { t.checkLive("1", short, false); t.checkLive("2", none, true) }, []string{"I2, 2: the live Secret is gone"}},
		{"ends sooner", func(t *trial) { t.checkLive("1", long, false); t.checkLive("2", short, false) }, []string{"I2, 2: the live certificate ends"}},
		{"a signer that is behind", func(t *trial) {
			t.behind = 30 * time.Minute
			t.checkLive("1", long, false)
			t.checkLive("2", short, false)
		}, []string{"I2, 2: the live certificate ends"}},
		{"a signer that is as much behind", func(t *trial) {
			t.behind = time.Hour + time.Minute
			t.checkLive("1", long, false)
			t.checkLive("2", short, false)
		}, nil},
		{"no pair", func(t *trial) { t.checkLive("1", secretOf(a.keyPEM, long.Data[corev1.TLSCertKey]), false) }, []string{"I1, 1: the live Secret: "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := &trial{watched: newWatched()}
			c.do(tr)
			matches := slices.EqualFunc(tr.violations, c.want, strings.HasPrefix)
			if !matches {
				t.Errorf("violations %q, want %q", tr.violations, c.want)
			}
		})
	}
}

// A process that asks without a pause is noticed; one that renews is not.
func TestHurryIsNoticed(t *testing.T) {
	for asked, want := range map[int]int{60: 0, 400: 1} {
		tr := &trial{watched: newWatched()}
		tr.checkAsked(&process{gate: &gate{asked: asked}, made: time.Now().Add(-10 * time.Second)})
		if len(tr.violations) != want {
			t.Errorf("%d requests in ten seconds: %q", asked, tr.violations)
		}
	}
}

// Each fault begins somewhere, at points that there are.
func TestPoints(t *testing.T) {
	for _, fault := range faults {
		points := pointsOf(fault)
		if len(points) == 0 {
			t.Errorf("%s begins nowhere", fault)
		}
		for _, p := range points {
			if !slices.Contains(killPoints(), p) {
				t.Errorf("%s begins at %q, which is no point", fault, p)
			}
		}
	}
}

func TestReadPairMissesNothing(t *testing.T) {
	ca, err := servers.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	one, err := ca.IssueLoopback("one")
	if err != nil {
		t.Fatal(err)
	}
	two, err := ca.IssueLoopback("two")
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	write := func(name string, content []byte) {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := readPair(folder); err == nil {
		t.Error("nothing is there, and that is not noticed")
	}
	write("tls.crt", one.CertificatePEM)
	write("tls.key", two.KeyPEM)
	if err := readPair(folder); err == nil {
		t.Error("the pair does not match, and that is not noticed")
	}
	write("tls.key", one.KeyPEM)
	if err := readPair(folder); err != nil {
		t.Errorf("a pair that matches: %v", err)
	}
}

func TestCases(t *testing.T) {
	if n := len(Cases()); n != 33 {
		t.Errorf("%d cases, want 33", n)
	}
	for _, point := range killPoints() {
		_, _, ok := requestOf(point)
		beyond := slices.Contains([]string{filesBegun, filesDone, reloaded, proofBegun, proofDone}, point)
		if ok == beyond {
			t.Errorf("%q: a request %t, beyond the API server %t", point, ok, beyond)
		}
	}
}
