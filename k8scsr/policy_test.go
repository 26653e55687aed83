package k8scsr

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// scene is a request that is exactly what is wanted and the policy that knows so.
type scene struct {
	policy   Policy
	request  Request
	template *x509.CertificateRequest // of a request with the same content, made with the library's own fields
	key      crypto.Signer
}

func goodScene(t *testing.T) *scene {
	t.Helper()
	want := wanted(t)
	key := ecKey(t)
	uri, _ := url.Parse("spiffe://example/vault")
	seconds := int32(86400)
	sc := &scene{
		key: key,
		policy: Policy{
			Want: want, Key: key.Public(), UID: "csr-uid", PodUIDs: []string{"pod-long-before", "pod-before"},
			Requester: Identity{"system:serviceaccount:vault:pkiwarden", "sa-uid", "pod-now"},
		},
		template: &x509.CertificateRequest{
			Subject:     pkix.Name{CommonName: "vault", Organization: []string{"ops", "security"}},
			DNSNames:    []string{"*.vault-internal", "vault.example"},
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.ParseIP("fd00::1")},
			URIs:        []*url.URL{uri},
		},
		request: Request{
			Name: "pkiwarden-vault-x", UID: "csr-uid", ResourceVersion: "17", CreatedAt: epoch,
			Requester: Identity{"system:serviceaccount:vault:pkiwarden", "sa-uid", "pod-now"},
			Signer:    "ca.example/serving", Usages: []string{"server auth", "digital signature", "client auth"},
			ExpirationSeconds: &seconds,
		},
	}
	return sc
}

func (sc *scene) sign(t *testing.T) { sc.request.PEM = requestPEM(t, sc.template, sc.key) }

func TestDecideApprovesTheExactRequest(t *testing.T) {
	cases := map[string]func(*scene){
		"ours":                        func(*scene) {},
		"from the recorded pod":       func(sc *scene) { sc.request.Requester.PodUID = "pod-before" },
		"outside a pod":               func(sc *scene) { sc.request.Requester.PodUID, sc.policy.Requester.PodUID = "", "" },
		"a user of a client with UID": func(sc *scene) { sc.request.Requester.UID, sc.policy.Requester.UID = "7", "7" },
		"a user without UID": func(sc *scene) {
			sc.policy.Requester = Identity{Username: "admin"}
			sc.request.Requester = Identity{Username: "admin"}
		},
		"usages in another order": func(sc *scene) { slices.Reverse(sc.request.Usages) },
	}
	for name, edit := range cases {
		t.Run(name, func(t *testing.T) {
			sc := goodScene(t)
			edit(sc)
			sc.sign(t)
			v := sc.policy.Decide(sc.request)
			if !v.Approve || v.Reasons != nil {
				t.Fatalf("not approved: %q", v.Reasons)
			}
			if v.UID != "csr-uid" || v.ResourceVersion != "17" {
				t.Errorf("verdict is about UID %q at version %q", v.UID, v.ResourceVersion)
			}
		})
	}
}

// TestDecideEveryKeyKind holds our notion of the exact octets against the
// library's encoder, for each kind of key, with and without names.
func TestDecideEveryKeyKind(t *testing.T) {
	for _, kind := range []Key{{ECDSA, 256}, {ECDSA, 384}, {ECDSA, 521}, {RSA, 2048}, {Ed25519, 0}} {
		for _, subject := range []bool{true, false} {
			sc := goodScene(t)
			sc.key = newKey(t, kind)
			sc.policy.Key, sc.policy.Want.Key = sc.key.Public(), kind
			if !subject {
				sc.policy.Want.CommonName, sc.policy.Want.Organizations = "", nil
				sc.template.Subject = pkix.Name{}
			}
			sc.sign(t)
			if v := sc.policy.Decide(sc.request); !v.Approve {
				t.Errorf("%v, subject %v: not approved: %q", kind, subject, v.Reasons)
			}
			own, err := sc.policy.Want.Template()
			if err != nil {
				t.Fatal(err)
			}
			sc.request.PEM = requestPEM(t, own, sc.key)
			if v := sc.policy.Decide(sc.request); !v.Approve {
				t.Errorf("%v, subject %v, own template: not approved: %q", kind, subject, v.Reasons)
			}
		}
	}
}

func extension(t *testing.T, oid asn1.ObjectIdentifier, value any) pkix.Extension {
	t.Helper()
	der, err := asn1.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: oid, Value: der}
}

// sanWith is the wanted SubjectAltName and one more name.
func sanWith(t *testing.T, want Spec, extra ...asn1.RawValue) pkix.Extension {
	t.Helper()
	der, err := want.altNames()
	if err != nil {
		t.Fatal(err)
	}
	var names []asn1.RawValue
	if _, err := asn1.Unmarshal(der, &names); err != nil {
		t.Fatal(err)
	}
	return extension(t, oidSubjectAltName, append(names, extra...))
}

func rawName(tag int, compound bool, value []byte) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, IsCompound: compound, Bytes: value}
}

// TestDecideRefusesEveryMutant changes one thing of the good request at a time.
// before edits what is signed, after what the API server adds around it.
func TestDecideRefusesEveryMutant(t *testing.T) {
	type mutant struct {
		name   string
		before func(*scene)
		after  func(*scene)
	}
	i32 := func(n int32) *int32 { return &n }
	resign := func(edit func(*x509.CertificateRequest)) func(*scene) {
		return func(sc *scene) { edit(sc.template) }
	}
	request := func(edit func(*Request)) func(*scene) { return func(sc *scene) { edit(&sc.request) } }
	mutants := []mutant{
		{name: "subject: other CN", before: resign(func(c *x509.CertificateRequest) { c.Subject.CommonName = "vault2" })},
		{name: "subject: CN in another case", before: resign(func(c *x509.CertificateRequest) { c.Subject.CommonName = "Vault" })},
		{name: "subject: CN absent", before: resign(func(c *x509.CertificateRequest) { c.Subject.CommonName = "" })},
		{name: "subject: CN of a node", before: resign(func(c *x509.CertificateRequest) { c.Subject.CommonName = "system:node:a" })},
		{name: "subject: two CNs", before: resign(func(c *x509.CertificateRequest) {
			c.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "vault"}, {Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "root"}}
		})},
		{name: "subject: O added", before: resign(func(c *x509.CertificateRequest) {
			c.Subject.Organization = append(c.Subject.Organization, "system:masters")
		})},
		{name: "subject: O missing", before: resign(func(c *x509.CertificateRequest) { c.Subject.Organization = []string{"ops"} })},
		{name: "subject: O twice", before: resign(func(c *x509.CertificateRequest) { c.Subject.Organization = []string{"ops", "ops", "security"} })},
		{name: "subject: OU added", before: resign(func(c *x509.CertificateRequest) { c.Subject.OrganizationalUnit = []string{"x"} })},
		{name: "subject: country added", before: resign(func(c *x509.CertificateRequest) { c.Subject.Country = []string{"DE"} })},
		{name: "subject: serial number added", before: resign(func(c *x509.CertificateRequest) { c.Subject.SerialNumber = "1" })},
		{name: "subject: e-mail attribute", before: resign(func(c *x509.CertificateRequest) {
			c.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}, Value: "a@b.example"}}
		})},
		{name: "DNS: added", before: resign(func(c *x509.CertificateRequest) { c.DNSNames = append(c.DNSNames, "evil.example") })},
		{name: "DNS: missing", before: resign(func(c *x509.CertificateRequest) { c.DNSNames = c.DNSNames[:1] })},
		{name: "DNS: none", before: resign(func(c *x509.CertificateRequest) { c.DNSNames = nil })},
		{name: "DNS: wildcard for the name", before: resign(func(c *x509.CertificateRequest) { c.DNSNames[1] = "*.example" })},
		{name: "DNS: bare wildcard", before: resign(func(c *x509.CertificateRequest) { c.DNSNames[0] = "*" })},
		{name: "DNS: trailing dot", before: resign(func(c *x509.CertificateRequest) { c.DNSNames[1] = "vault.example." })},
		{name: "DNS: another case", before: resign(func(c *x509.CertificateRequest) { c.DNSNames[1] = "Vault.example" })},
		{name: "DNS: twice", before: resign(func(c *x509.CertificateRequest) { c.DNSNames = append(c.DNSNames, "vault.example") })},
		{name: "DNS: with NUL", before: resign(func(c *x509.CertificateRequest) { c.DNSNames[1] = "vault.example\x00.evil" })},
		{name: "IP: added", before: resign(func(c *x509.CertificateRequest) { c.IPAddresses = append(c.IPAddresses, net.IPv4(10, 0, 0, 1)) })},
		{name: "IP: other", before: resign(func(c *x509.CertificateRequest) { c.IPAddresses[0] = net.IPv4(127, 0, 0, 2) })},
		{name: "IP: missing", before: resign(func(c *x509.CertificateRequest) { c.IPAddresses = c.IPAddresses[:1] })},
		{name: "URI: added", before: resign(func(c *x509.CertificateRequest) {
			c.URIs = append(c.URIs, &url.URL{Scheme: "spiffe", Host: "example", Path: "/root"})
		})},
		{name: "URI: other", before: resign(func(c *x509.CertificateRequest) { c.URIs[0].Path = "/root" })},
		{name: "URI: missing", before: resign(func(c *x509.CertificateRequest) { c.URIs = nil })},
		{name: "e-mail SAN", before: resign(func(c *x509.CertificateRequest) { c.EmailAddresses = []string{"a@b.example"} })},
		{name: "SAN: directory name", before: func(sc *scene) {
			sc.template.ExtraExtensions = []pkix.Extension{sanWith(t, sc.policy.Want, rawName(4, true, []byte{0x30, 0}))}
		}},
		{name: "SAN: other name", before: func(sc *scene) {
			upn, _ := asn1.Marshal(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 20, 2, 3})
			sc.template.ExtraExtensions = []pkix.Extension{sanWith(t, sc.policy.Want, rawName(0, true, append(upn, 0xa0, 3, 0x0c, 1, 'x')))}
		}},
		{name: "SAN: registered ID", before: func(sc *scene) {
			sc.template.ExtraExtensions = []pkix.Extension{sanWith(t, sc.policy.Want, rawName(8, false, []byte{0x2a}))}
		}},
		{name: "SAN: critical", before: func(sc *scene) {
			san := sanWith(t, sc.policy.Want)
			san.Critical = true
			sc.template.ExtraExtensions = []pkix.Extension{san}
		}},
		{name: "extension: basic constraints CA:TRUE", before: func(sc *scene) {
			sc.template.ExtraExtensions = []pkix.Extension{extension(t, asn1.ObjectIdentifier{2, 5, 29, 19}, struct{ CA bool }{true})}
		}},
		{name: "extension: key usage", before: func(sc *scene) {
			sc.template.ExtraExtensions = []pkix.Extension{extension(t, asn1.ObjectIdentifier{2, 5, 29, 15}, asn1.BitString{Bytes: []byte{0x80}, BitLength: 1})}
		}},
		{name: "extension: extended key usage", before: func(sc *scene) {
			sc.template.ExtraExtensions = []pkix.Extension{extension(t, asn1.ObjectIdentifier{2, 5, 29, 37}, []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 3}})}
		}},
		{name: "extension: unknown", before: func(sc *scene) {
			sc.template.ExtraExtensions = []pkix.Extension{extension(t, asn1.ObjectIdentifier{1, 2, 3}, "x")}
		}},
		{name: "attribute: challenge password", after: func(sc *scene) { sc.request.PEM = withAttribute(t, sc.request.PEM, sc.key) }},
		{name: "key: another of ours", before: func(sc *scene) { sc.key = ecKey(t) }},
		{name: "key: other curve", before: func(sc *scene) { sc.key = newKey(t, Key{ECDSA, 384}) }},
		{name: "key: RSA", before: func(sc *scene) { sc.key = newKey(t, Key{RSA, 2048}) }},
		{name: "key: pending one of a weak kind", before: func(sc *scene) {
			sc.key = newKey(t, Key{ECDSA, 224})
			sc.policy.Key = sc.key.Public()
		}},
		{name: "key: none pending", after: func(sc *scene) { sc.policy.Key = nil }},
		{name: "signature: broken", after: func(sc *scene) { sc.request.PEM = flipLastOctet(sc.request.PEM) }},
		{name: "signature: of another key", after: func(sc *scene) { sc.request.PEM = resignedBy(t, sc.request.PEM, ecKey(t)) }},
		{name: "PEM: empty", after: request(func(r *Request) { r.PEM = nil })},
		{name: "PEM: other type", after: request(func(r *Request) {
			r.PEM = bytes.ReplaceAll(r.PEM, []byte("CERTIFICATE REQUEST"), []byte("NEW CERTIFICATE REQUEST"))
		})},
		{name: "PEM: header", after: request(func(r *Request) {
			r.PEM = bytes.Replace(r.PEM, []byte("-----\n"), []byte("-----\nProc-Type: 4\n\n"), 1)
		})},
		{name: "PEM: two requests", after: request(func(r *Request) { r.PEM = append(bytes.Clone(r.PEM), r.PEM...) })},
		{name: "PEM: text before", after: request(func(r *Request) { r.PEM = append([]byte("hello\n"), r.PEM...) })},
		{name: "PEM: octets behind the DER", after: request(func(r *Request) {
			block, _ := pem.Decode(r.PEM)
			block.Bytes = append(block.Bytes, 0)
			r.PEM = pem.EncodeToMemory(block)
		})},
		{name: "PEM: too large", after: request(func(r *Request) { r.PEM = append(r.PEM, bytes.Repeat([]byte("\n"), 1<<17)...) })},
		{name: "signer: other", after: request(func(r *Request) { r.Signer = "kubernetes.io/kube-apiserver-client" })},
		{name: "signer: empty", after: request(func(r *Request) { r.Signer = "" })},
		{name: "usages: added", after: request(func(r *Request) { r.Usages = append(r.Usages, "key encipherment") })},
		{name: "usages: missing", after: request(func(r *Request) { r.Usages = r.Usages[:2] })},
		{name: "usages: exchanged", after: request(func(r *Request) { r.Usages[0] = "code signing" })},
		{name: "usages: any", after: request(func(r *Request) { r.Usages = append(r.Usages, "any") })},
		{name: "usages: cert sign", after: request(func(r *Request) { r.Usages = append(r.Usages, "cert sign") })},
		{name: "usages: twice", after: request(func(r *Request) { r.Usages = append(r.Usages, r.Usages[0]) })},
		{name: "usages: none", after: request(func(r *Request) { r.Usages = nil })},
		{name: "lifetime: longer", after: request(func(r *Request) { r.ExpirationSeconds = i32(86401) })},
		{name: "lifetime: shorter", after: request(func(r *Request) { r.ExpirationSeconds = i32(600) })},
		{name: "lifetime: unlimited", after: request(func(r *Request) { r.ExpirationSeconds = nil })},
		{name: "requester: another account", after: request(func(r *Request) { r.Requester.Username = "system:serviceaccount:default:pkiwarden" })},
		{name: "requester: nobody", after: request(func(r *Request) { r.Requester.Username = "" })},
		{name: "requester: account made anew", after: request(func(r *Request) { r.Requester.UID = "sa-uid-2" })},
		{name: "requester: UID absent", after: request(func(r *Request) { r.Requester.UID = "" })},
		{name: "requester: another pod", after: request(func(r *Request) { r.Requester.PodUID = "pod-of-somebody" })},
		{name: "requester: no pod", after: request(func(r *Request) { r.Requester.PodUID = "" })},
		{name: "requester: no pod, none recorded", after: func(sc *scene) { sc.request.Requester.PodUID, sc.policy.PodUIDs = "", []string{""} }},
		{name: "ourselves unknown", after: func(sc *scene) { sc.policy.Requester = Identity{} }},
		{name: "ourselves and requester unknown", after: func(sc *scene) { sc.policy.Requester, sc.request.Requester = Identity{}, Identity{} }},
		{name: "service account without UID", after: func(sc *scene) { sc.policy.Requester.UID, sc.request.Requester.UID = "", "" }},
		{name: "CSR made anew under the name", after: request(func(r *Request) { r.UID = "csr-uid-2" })},
		{name: "CSR UID not recorded", after: func(sc *scene) { sc.policy.UID = "" }},
		{name: "no UID at all", after: func(sc *scene) { sc.policy.UID, sc.request.UID = "", "" }},
		{name: "version unknown", after: request(func(r *Request) { r.ResourceVersion = "" })},
		{name: "approved already", after: request(func(r *Request) { r.Approved = true })},
		{name: "denied already", after: request(func(r *Request) { r.Denied = true })},
		{name: "failed already", after: request(func(r *Request) { r.Failed = true })},
		{name: "answered already", after: request(func(r *Request) { r.Certificate = []byte("x") })},
		{name: "approval not switched on", after: func(sc *scene) { sc.policy.Want.Approve = false }},
		{name: "paused", after: func(sc *scene) { sc.policy.Want.Paused = true }},
		{name: "wanted names changed", after: func(sc *scene) {
			sc.policy.Want.IPAddresses = append(sc.policy.Want.IPAddresses, netip.MustParseAddr("10.0.0.1"))
		}},
		{name: "zero policy", after: func(sc *scene) { sc.policy = Policy{} }},
	}
	if len(mutants) < 60 {
		t.Fatalf("only %d mutants", len(mutants))
	}
	for _, m := range mutants {
		t.Run(strings.ReplaceAll(m.name, " ", "_"), func(t *testing.T) {
			sc := goodScene(t)
			if m.before != nil {
				m.before(sc)
			}
			sc.sign(t)
			if m.after != nil {
				m.after(sc)
			}
			v := sc.policy.Decide(sc.request)
			if v.Approve || len(v.Reasons) == 0 {
				t.Fatalf("approved: %+v", v)
			}
			if all := strings.Join(v.Reasons, "; "); strings.Contains(all, "%!") {
				t.Errorf("reasons are not readable: %s", all)
			}
		})
	}
	// The same scene without any mutation is approved, so the refusals above
	// are the mutations' doing.
	sc := goodScene(t)
	sc.sign(t)
	if v := sc.policy.Decide(sc.request); !v.Approve {
		t.Fatalf("the unchanged request is not approved: %q", v.Reasons)
	}
}

func flipLastOctet(data []byte) []byte {
	block, _ := pem.Decode(data)
	block.Bytes[len(block.Bytes)-1] ^= 1
	return pem.EncodeToMemory(block)
}

type signedRequest struct {
	TBS       asn1.RawValue
	Algorithm pkix.AlgorithmIdentifier
	Signature asn1.BitString
}

// resignedBy replaces the signature by that of another key.
func resignedBy(t *testing.T, data []byte, key crypto.Signer) []byte {
	t.Helper()
	block, _ := pem.Decode(data)
	var r signedRequest
	if _, err := asn1.Unmarshal(block.Bytes, &r); err != nil {
		t.Fatal(err)
	}
	return encodeSigned(t, r, key)
}

// withAttribute adds an attribute that x509.ParseCertificateRequest passes over,
// and signs anew with the right key.
func withAttribute(t *testing.T, data []byte, key crypto.Signer) []byte {
	t.Helper()
	block, _ := pem.Decode(data)
	var r signedRequest
	if _, err := asn1.Unmarshal(block.Bytes, &r); err != nil {
		t.Fatal(err)
	}
	var tbs struct {
		Version    int
		Subject    asn1.RawValue
		Key        asn1.RawValue
		Attributes []asn1.RawValue `asn1:"tag:0"`
	}
	if _, err := asn1.Unmarshal(r.TBS.FullBytes, &tbs); err != nil {
		t.Fatal(err)
	}
	password, err := asn1.Marshal(struct {
		Type   asn1.ObjectIdentifier
		Values []string `asn1:"set"`
	}{asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}, []string{"secret"}})
	if err != nil {
		t.Fatal(err)
	}
	tbs.Attributes = append(tbs.Attributes, asn1.RawValue{FullBytes: password})
	der, err := asn1.Marshal(tbs)
	if err != nil {
		t.Fatal(err)
	}
	r.TBS = asn1.RawValue{FullBytes: der}
	out := encodeSigned(t, r, key)
	block, _ = pem.Decode(out)
	if csr, err := x509.ParseCertificateRequest(block.Bytes); err != nil || csr.CheckSignature() != nil {
		t.Fatalf("the mutant itself is damaged: %v", err)
	}
	return out
}

func encodeSigned(t *testing.T, r signedRequest, key crypto.Signer) []byte {
	t.Helper()
	h := crypto.SHA256.New()
	h.Write(r.TBS.FullBytes)
	signature, err := key.Sign(rand.Reader, h.Sum(nil), crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	r.Signature = asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	der, err := asn1.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}
