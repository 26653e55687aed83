package k8scsr

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// maxRequest caps a PEM request before it is parsed.
const maxRequest = 64 << 10

const serviceAccountPrefix = "system:serviceaccount:"

// Policy says which one request may be approved. Everything it does not know
// makes it say no.
type Policy struct {
	Want      Spec
	Requester Identity         // ourselves, as the API server sees us now
	Key       crypto.PublicKey // of our stored pending key
	UID       string           // of the CSR, as recorded beside that key
	PodUIDs   []string         // of the pods that may have made the request, as recorded beside that key
}

// Verdict is a decision about one state of one request.
type Verdict struct {
	Approve bool
	Reasons []string // why not, in words; empty when Approve

	// What was checked. An approval must carry both, so that nothing that
	// changed afterwards is approved.
	UID             string
	ResourceVersion string
}

// Decide approves only the request that is exactly the one wanted: made by our
// own account, from our own pod or the one recorded with the pending key, for
// the pending key, with the recorded UID, the wanted signer, lifetime and
// usages, a valid signature, and content that equals, octet for octet, what we
// would ask for. Extra values other than the pod's UID are not looked at; the
// credential ID in particular changes with every token.
func (p Policy) Decide(r Request) Verdict {
	v := Verdict{UID: r.UID, ResourceVersion: r.ResourceVersion}
	deny := func(format string, args ...any) { v.Reasons = append(v.Reasons, fmt.Sprintf(format, args...)) }

	if !p.Want.Approve {
		deny("approval is not switched on for certificate %s", p.Want.Name)
	}
	if p.Want.Paused {
		deny("certificate %s is paused", p.Want.Name)
	}
	if !r.Undecided() || len(r.Certificate) > 0 {
		deny("it is decided already")
	}
	if r.ResourceVersion == "" {
		deny("the version that was checked is not known")
	}
	if r.UID == "" || r.UID != p.UID {
		deny("its UID is %q, and %q was recorded when it was created", r.UID, p.UID)
	}
	v.Reasons = append(v.Reasons, p.checkRequester(r.Requester)...)

	if r.Signer != p.Want.Signer {
		deny("its signer is %q, not %q", r.Signer, p.Want.Signer)
	}
	// Sorted, but not freed of duplicates: twice is not exactly once.
	asked := slices.Sorted(slices.Values(r.Usages))
	if len(asked) == 0 || !slices.Equal(asked, p.Want.Usages) {
		deny("its usages are %q, not %q", asked, p.Want.Usages)
	}
	if r.ExpirationSeconds == nil || *r.ExpirationSeconds != p.Want.ExpirationSeconds() {
		deny("its lifetime is not the %d seconds wanted", p.Want.ExpirationSeconds())
	}
	v.Reasons = append(v.Reasons, p.checkContent(r.PEM)...)
	v.Approve = len(v.Reasons) == 0
	return v
}

func (p Policy) checkRequester(who Identity) []string {
	var why []string
	if !p.Requester.Known() {
		return []string{"our own identity is not known"}
	}
	if !p.Requester.Account(who) {
		why = append(why, fmt.Sprintf("its requester is %q with UID %q, not we, %q with UID %q",
			who.Username, who.UID, p.Requester.Username, p.Requester.UID))
	}
	// Users of other authenticators may have no UID; a service account always
	// has one, so without it something is hidden from us.
	if p.Requester.UID == "" && strings.HasPrefix(p.Requester.Username, serviceAccountPrefix) {
		why = append(why, "our service account's UID is not known")
	}
	if who.PodUID != p.Requester.PodUID && (who.PodUID == "" || !slices.Contains(p.PodUIDs, who.PodUID)) {
		why = append(why, fmt.Sprintf("it was requested from the pod with UID %q, which is neither ours, %q, nor one recorded, %q",
			who.PodUID, p.Requester.PodUID, p.PodUIDs))
	}
	return why
}

// checkContent compares the PKCS #10 request itself.
func (p Policy) checkContent(data []byte) []string {
	if p.Key == nil {
		return []string{"there is no pending key that it could be for"}
	}
	csr, err := parseRequest(data)
	if err != nil {
		return []string{err.Error()}
	}
	var why []string
	if !sameKey(csr.PublicKey, p.Key) {
		why = append(why, "its public key is not that of our pending key")
	}
	if have := KeyOf(csr.PublicKey); have != p.Want.Key {
		why = append(why, fmt.Sprintf("its key is %v, not %v", have, p.Want.Key))
	}
	if !strongSignature(csr.SignatureAlgorithm) {
		why = append(why, fmt.Sprintf("its signature algorithm is %v", csr.SignatureAlgorithm))
	}
	if err := csr.CheckSignature(); err != nil {
		why = append(why, "its signature is not valid")
	}
	want, err := p.Want.toBeSigned(p.Key)
	if err != nil {
		return append(why, err.Error())
	}
	if !bytes.Equal(csr.RawTBSCertificateRequest, want) {
		why = append(why, p.differences(csr)...)
	}
	return why
}

// differences puts into words what the octets say already.
func (p Policy) differences(csr *x509.CertificateRequest) []string {
	why := []string{"its content is not exactly what is wanted"}
	if have, want := csr.Subject.String(), p.Want.rdn().String(); have != want {
		why = append(why, fmt.Sprintf("its subject is %q, not %q", have, want))
	}
	for _, ext := range csr.Extensions {
		if !ext.Id.Equal(oidSubjectAltName) {
			why = append(why, fmt.Sprintf("it asks for the extension %v", ext.Id))
			continue
		}
		have, err := generalNames(ext.Value)
		if err != nil {
			why = append(why, err.Error())
			continue
		}
		why = append(why, difference(have, p.Want.wantedNames())...)
	}
	return why
}

// parseRequest reads spec.request: exactly one PEM block of the right type,
// nothing before, within or after it.
func parseRequest(data []byte) (*x509.CertificateRequest, error) {
	if len(data) > maxRequest {
		return nil, fmt.Errorf("it has %d octets, more than %d", len(data), maxRequest)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(block.Headers) > 0 {
		return nil, errors.New("it is not a plain PEM block of type CERTIFICATE REQUEST")
	}
	if !bytes.Equal(pem.EncodeToMemory(block), data) {
		return nil, errors.New("there is more around or within its PEM block")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("it does not parse: %w", err)
	}
	return csr, nil
}

// MadeFor tells whether the request asks for the given key and is signed by it:
// only the holder of the private key could have made it.
func (r Request) MadeFor(key crypto.PublicKey) bool {
	csr, err := parseRequest(r.PEM)
	return err == nil && sameKey(csr.PublicKey, key) && csr.CheckSignature() == nil
}

func strongSignature(a x509.SignatureAlgorithm) bool {
	switch a {
	case x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.PureEd25519,
		x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
		x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS:
		return true
	}
	return false
}
