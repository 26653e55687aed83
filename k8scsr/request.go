package k8scsr

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"time"
)

// Identity is who the API server says somebody is.
type Identity struct {
	Username string
	UID      string
	PodUID   string // extra authentication.kubernetes.io/pod-uid, "" outside a pod
}

// Known tells whether the identity was established at all.
func (i Identity) Known() bool { return i.Username != "" }

// Account tells whether both are the same account. The pod may be another one.
func (i Identity) Account(other Identity) bool {
	return i.Known() && i.Username == other.Username && i.UID == other.UID
}

// Request is a CertificateSigningRequest, condensed.
type Request struct {
	Name            string
	UID             string
	ResourceVersion string
	CreatedAt       time.Time

	Requester         Identity
	Signer            string
	Usages            []string
	ExpirationSeconds *int32
	PEM               []byte // spec.request

	Approved    bool
	Denied      bool
	Failed      bool
	Message     string // of the Denied or Failed condition: reason and message
	Certificate []byte // status.certificate, PEM
}

// Undecided tells whether the request still awaits approval or denial.
func (r Request) Undecided() bool { return !r.Approved && !r.Denied && !r.Failed }

// Open tells whether the request can still become a certificate.
func (r Request) Open() bool {
	return !r.Denied && !r.Failed && len(r.Certificate) == 0
}

// Template is the PKCS #10 request that the Spec asks for: the subject and one
// extension, SubjectAltName. It carries no key and no signature.
func (s Spec) Template() (*x509.CertificateRequest, error) {
	extensions, err := s.extensions()
	if err != nil {
		return nil, err
	}
	return &x509.CertificateRequest{Subject: s.rdn(), ExtraExtensions: extensions}, nil
}

func (s Spec) rdn() pkix.Name {
	return pkix.Name{CommonName: s.CommonName, Organization: s.Organizations}
}

func (s Spec) extensions() ([]pkix.Extension, error) {
	names, err := s.altNames()
	if err != nil {
		return nil, fmt.Errorf("encoding SubjectAltName of certificate %q: %w", s.Name, err)
	}
	if names == nil {
		return nil, nil
	}
	return []pkix.Extension{{Id: oidSubjectAltName, Value: names}}, nil
}

// toBeSigned is the CertificationRequestInfo (RFC 2986 section 4.1) of the only
// request for the Spec and key that is exactly what is wanted: whatever differs
// from it in a single octet carries something else.
func (s Spec) toBeSigned(public crypto.PublicKey) ([]byte, error) {
	subject, err := asn1.Marshal(s.rdn().ToRDNSequence())
	if err != nil {
		return nil, fmt.Errorf("encoding the subject of certificate %q: %w", s.Name, err)
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("encoding the public key of certificate %q: %w", s.Name, err)
	}
	extensions, err := s.extensions()
	if err != nil {
		return nil, err
	}
	info := struct {
		Version    int
		Subject    asn1.RawValue
		PublicKey  asn1.RawValue
		Attributes []asn1.RawValue `asn1:"tag:0"`
	}{Subject: asn1.RawValue{FullBytes: subject}, PublicKey: asn1.RawValue{FullBytes: spki}}
	if len(extensions) > 0 {
		attribute, err := asn1.Marshal(struct {
			Type   asn1.ObjectIdentifier
			Values [][]pkix.Extension `asn1:"set"`
		}{oidExtensionRequest, [][]pkix.Extension{extensions}})
		if err != nil {
			return nil, fmt.Errorf("encoding the extensions of certificate %q: %w", s.Name, err)
		}
		info.Attributes = []asn1.RawValue{{FullBytes: attribute}}
	}
	return asn1.Marshal(info)
}
