package config

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
)

// The signers whose rules are known.
const (
	SignerKubeletServing      = "kubernetes.io/kubelet-serving"
	SignerKubeAPIServerClient = "kubernetes.io/kube-apiserver-client"
	SignerEKSAppServing       = "beta.eks.amazonaws.com/app-serving"

	signerLegacyUnknown = "kubernetes.io/legacy-unknown"
)

const (
	nodePrefix = "system:node:"
	nodesGroup = "system:nodes"
)

// usages is every key usage that the Kubernetes API knows
// (certificates.k8s.io/v1, KeyUsage).
var usages = []string{
	"signing", "digital signature", "content commitment", "key encipherment", "key agreement", "data encipherment",
	"cert sign", "crl sign", "encipher only", "decipher only", "any", "server auth", "client auth", "code signing",
	"email protection", "s/mime", "ipsec end system", "ipsec tunnel", "ipsec user", "timestamping", "ocsp signing",
	"microsoft sgc", "netscape sgc",
}

// signerUsages is what a signer gives: all of required, and of the others only
// optional.
var signerUsages = map[string]struct {
	required, optional []string
	source             string
}{
	SignerKubeletServing: {
		[]string{"digital signature", "server auth"}, []string{"key encipherment"},
		"kubelet-serving signs serving certificates only; client usage needs another signer",
	},
	SignerKubeAPIServerClient: {
		[]string{"client auth"}, []string{"digital signature", "key encipherment"},
		"kube-apiserver-client signs client certificates only; a server needs another signer",
	},
	SignerEKSAppServing: {
		[]string{"server auth"}, []string{"digital signature", "key encipherment"},
		"Amazon EKS signs serving certificates only; client usage needs another signer",
	},
}

var keySizes = map[string][]int{ECDSA: {256, 384, 521}, RSA: {2048, 3072, 4096}}

// checkCertificate checks one entry by itself and against those before it.
func (d *decoder) checkCertificate(at string, i int, c *Certificate) {
	d.name(at+".name", c.Name, "vault-server", validation.IsDNS1123Label)
	d.object(at+".secret", c.Secret.Namespace, c.Secret.Name)
	if first, twice := d.names[c.Name]; twice && c.Name != "" {
		d.badOf(at, ".name", "certificates[%d] has the name %s already", first, quote(c.Name))
	} else {
		d.names[c.Name] = i
	}
	if first, twice := d.secrets[c.Secret]; twice && c.Secret.Name != "" {
		d.badOf(at, ".secret", "certificates[%d] is kept in the Secret %s/%s already", first, c.Secret.Namespace, c.Secret.Name)
	} else {
		d.secrets[c.Secret] = i
	}
	d.checkSecretKeys(at+".secretKeys", &c.SecretKeys)
	d.checkProfile(at, c)
	d.checkNamesFrom(at, c)
	d.checkSigner(at, c)
	d.checkNames(at, c)
	d.checkKey(at+".key", &c.Key)
	d.checkTrust(at+".trust", &c.Trust)
	d.checkSource(at+".trust.secret", c)
	d.checkTimes(at, c)
	d.checkWindows(at+".windows", c.Windows)
}

// checkNextSecrets finds Secrets that are another certificate's next one.
func (d *decoder) checkNextSecrets(certificates Certificates) {
	for i, c := range certificates.All() {
		secret := c.Secret
		next := ObjectName{secret.Namespace, secret.Name + "-next"}
		if other, taken := d.secrets[next]; taken && secret.Name != "" {
			d.bad(entryPath(other)+".secret", "the Secret %s/%s holds the next key of certificates[%d]", next.Namespace, next.Name, i)
		}
	}
}

// repeats tells of each value whether an equal one stands before it.
func repeats[T comparable](list []T) []bool {
	out := make([]bool, len(list))
	seen := make(map[T]bool, len(list))
	for i, value := range list {
		out[i] = seen[value]
		seen[value] = true
	}
	return out
}

func (d *decoder) object(at, namespace, name string) {
	d.name(at+".namespace", namespace, "vault", validation.IsDNS1123Label)
	d.name(at+".name", name, "vault-server-tls", validation.IsDNS1123Subdomain)
}

func (d *decoder) checkSecretKeys(at string, k *SecretKeys) {
	d.name(at+".certificate", k.Certificate, "tls.crt", validation.IsConfigMapKey)
	d.name(at+".key", k.Key, "tls.key", validation.IsConfigMapKey)
	d.name(at+".ca", k.CA, "ca.crt", validation.IsConfigMapKey)
	if k.Certificate == k.Key || k.Key == k.CA || k.CA == k.Certificate {
		d.bad(at, "expected three different keys, found certificate %q, key %q and ca %q", k.Certificate, k.Key, k.CA)
	}
}

// checkSigner checks the signer's name, then what it does not give. The subject
// of node signers is filled in.
func (d *decoder) checkSigner(at string, c *Certificate) {
	if !d.require(at+".signer", c.Signer, SignerKubeletServing) || !d.sound(at+".signer") {
		return
	}
	domain, name, _ := strings.Cut(c.Signer, "/")
	switch {
	case c.Signer == signerLegacyUnknown:
		d.bad(at+".signer", "certificates.k8s.io/v1 has no signer %s; for servers there is %s", signerLegacyUnknown, SignerKubeletServing)
	case !strings.Contains(domain, ".") || len(validation.IsDNS1123Subdomain(domain)) > 0 || len(validation.IsDNS1123Subdomain(name)) > 0:
		d.bad(at+".signer", "expected a signer name, DOMAIN/NAME such as %s, found %s", SignerKubeletServing, quote(c.Signer))
	}
	d.checkUsages(at, c)
	d.checkSubject(at, c)
}

func (d *decoder) checkUsages(at string, c *Certificate) {
	at += ".usages"
	if !d.sound(at) {
		return
	}
	if len(c.Usages) == 0 {
		d.bad(at, "expected at least one usage, found none")
	}
	repeated := repeats(c.Usages)
	for i, usage := range c.Usages {
		here := fmt.Sprintf("%s[%d]", at, i)
		if !slices.Contains(usages, usage) {
			hint := ""
			if meant := Closest(usage, usages); meant != "" {
				hint = fmt.Sprintf("; did you mean %q?", meant)
			}
			d.bad(here, "expected a Kubernetes key usage such as \"server auth\", found %s%s", quote(usage), hint)
		} else if repeated[i] {
			d.bad(here, "%q is listed twice", usage)
		}
	}
	rule, known := signerUsages[c.Signer]
	if !known || !d.sound(at) {
		return
	}
	for i, usage := range c.Usages {
		if !slices.Contains(rule.required, usage) && !slices.Contains(rule.optional, usage) && d.sound(fmt.Sprintf("%s[%d]", at, i)) {
			d.bad(fmt.Sprintf("%s[%d]", at, i), "%s does not give %q: %s", c.Signer, usage, rule.source)
		}
	}
	for _, usage := range rule.required {
		if !slices.Contains(c.Usages, usage) {
			d.bad(at, "%s requires %q: %s", c.Signer, usage, rule.source)
		}
	}
}

// checkSubject fills in and holds the subject of a node's serving certificate,
// which is the only one that kubelet-serving signs (Kubernetes,
// pkg/apis/certificates/helpers.go, ValidateKubeletServingCSR). Amazon EKS
// takes any subject; the same one is its default.
func (d *decoder) checkSubject(at string, c *Certificate) {
	if c.Signer != SignerKubeletServing && c.Signer != SignerEKSAppServing {
		return
	}
	if c.Subject.CommonName == "" {
		c.Subject.CommonName = nodePrefix + c.Name
	}
	if len(c.Subject.Organizations) == 0 {
		c.Subject.Organizations = []string{nodesGroup}
	}
	if c.Signer != SignerKubeletServing {
		return
	}
	if !strings.HasPrefix(c.Subject.CommonName, nodePrefix) {
		d.bad(at+".subject.commonName", "%s signs only names that begin with %s, found %s; leave it out for %s", c.Signer, nodePrefix, quote(c.Subject.CommonName), nodePrefix+c.Name)
	}
	if !slices.Equal(c.Subject.Organizations, []string{nodesGroup}) {
		d.bad(at+".subject.organizations", "%s signs only [%s], found %q; leave it out", c.Signer, nodesGroup, c.Subject.Organizations)
	}
	if len(c.URIs) > 0 {
		d.bad(at+".uris", "%s signs no URIs; another signer may", c.Signer)
	}
	if len(c.DNSNames)+len(c.IPAddresses)+len(c.NamesFrom) == 0 && c.Profile == nil && d.sound(at+".dnsNames", at+".ipAddresses") {
		d.bad(at+".dnsNames", "%s requires at least one DNS name or IP address, found none", c.Signer)
	}
}

func (d *decoder) checkNames(at string, c *Certificate) {
	repeated := repeats(c.DNSNames)
	for i, name := range c.DNSNames {
		here := fmt.Sprintf("%s.dnsNames[%d]", at, i)
		rule := validation.IsDNS1123Subdomain
		if strings.HasPrefix(name, "*") {
			rule = validation.IsWildcardDNS1123Subdomain
		}
		if !d.sound(here) {
			continue
		}
		if _, err := netip.ParseAddr(name); err == nil {
			d.bad(here, "expected a DNS name, found the address %s; addresses belong under ipAddresses", name)
		} else if len(rule(name)) > 0 {
			d.bad(here, "expected a DNS name such as vault.vault.svc or *.vault-internal, in lower case, found %s", quote(name))
		} else if repeated[i] {
			d.bad(here, "%q is listed twice", name)
		}
	}
	repeated = repeats(c.IPAddresses)
	for i, ip := range c.IPAddresses {
		if here := fmt.Sprintf("%s.ipAddresses[%d]", at, i); repeated[i] && d.sound(here) {
			d.bad(here, "%s is listed twice", ip)
		}
	}
}

func (d *decoder) checkKey(at string, k *Key) {
	if !d.sound(at+".algorithm", at+".size") {
		return
	}
	if k.Algorithm == Ed25519 {
		k.Size = 0
		if d.set(at + ".size") {
			d.bad(at+".size", "Ed25519 keys have one size; leave it out")
		}
		return
	}
	sizes := keySizes[k.Algorithm]
	if !d.set(at + ".size") {
		k.Size = sizes[0]
	}
	if !slices.Contains(sizes, k.Size) {
		d.bad(at+".size", "expected %d, %d or %d bits for %s, found %d", sizes[0], sizes[1], sizes[2], k.Algorithm, k.Size)
	}
}

func (d *decoder) checkTrust(at string, t *Trust) {
	kinds := 0
	if t.ConfigMap != nil {
		kinds++
		d.object(at+".configMap", t.ConfigMap.Namespace, t.ConfigMap.Name)
		d.name(at+".configMap.key", t.ConfigMap.Key, "ca.crt", validation.IsConfigMapKey)
	}
	if t.Secret != nil {
		kinds++
		d.object(at+".secret", t.Secret.Namespace, t.Secret.Name)
		d.name(at+".secret.key", t.Secret.Key, "ca.crt", validation.IsConfigMapKey)
	}
	if t.File != "" {
		kinds++
		d.absolute(at+".file", t.File)
	}
	if kinds > 1 {
		d.bad(at, "expected one of configMap, file or secret, found %d", kinds)
	}
	d.checkPeers(at, t, kinds)
}

// checkSource holds the bundle apart from what is written itself: from there it
// would follow nothing but itself.
func (d *decoder) checkSource(at string, c *Certificate) {
	source := c.Trust.Secret
	if source == nil || source.Namespace != c.Secret.Namespace || source.Name == "" {
		return
	}
	keys := c.SecretKeys
	if source.Name == c.Secret.Name+"-next" || source.Name == c.Secret.Name && slices.Contains([]string{keys.Certificate, keys.Key, keys.CA}, source.Key) {
		d.bad(at, "the Secret %s/%s is written by pkiwarden itself; name what the CA's owner keeps", source.Namespace, source.Name)
	}
}

// What trust holds at most.
const (
	maxSettle = 24 * time.Hour
	maxPeers  = 32
)

// checkPeers checks what is said of those who follow the bundle.
func (d *decoder) checkPeers(at string, t *Trust, kinds int) {
	if d.sound(at+".settle") && t.Settle > maxSettle {
		d.bad(at+".settle", "expected 0s to %s, found %s", Span(maxSettle), Span(t.Settle))
	}
	at += ".peers"
	if !d.sound(at) {
		return
	}
	switch {
	case len(t.Peers) > 0 && kinds == 0:
		d.bad(at, "peers are asked whether they follow the bundle, and there is none: expected configMap, file or secret beside it")
	case len(t.Peers) > maxPeers:
		d.bad(at, "expected at most %d peers, found %d: a name stands for all of its addresses", maxPeers, len(t.Peers))
	}
	repeated := repeats(t.Peers)
	for i, peer := range t.Peers {
		here := fmt.Sprintf("%s[%d]", at, i)
		if !d.sound(here) {
			continue
		}
		switch host, port, ok := hostPort(peer); {
		case !ok || host == "":
			d.bad(here, "expected HOST:PORT such as vault-internal.vault.svc:8200, found %s", quote(peer))
		case port == clusterPort:
			d.bad(here, "%s is Vault's cluster port, which never shows this certificate; name the API port, 8200", peer)
		case repeated[i]:
			d.bad(here, "%q is listed twice", peer)
		}
	}
}

func (d *decoder) checkTimes(at string, c *Certificate) {
	const least, most = 600 * time.Second, math.MaxInt32 * time.Second
	if d.sound(at+".lifetime") && (c.Lifetime < least || c.Lifetime > most) {
		d.bad(at+".lifetime", "expected 600s to %ds, which is what a Kubernetes request can ask for, found %s", math.MaxInt32, Span(c.Lifetime))
	}
	renew, alert, critical := at+".renewAt", at+".alertAt", at+".criticalAt"
	if d.sound(renew, alert) && c.RenewAt >= c.AlertAt {
		d.contradict(renew, alert, "renewAt (%v) has to be below alertAt (%v)", c.RenewAt, c.AlertAt)
	}
	if d.sound(alert, critical) && c.AlertAt >= c.CriticalAt {
		d.contradict(alert, critical, "alertAt (%v) has to be below criticalAt (%v)", c.AlertAt, c.CriticalAt)
	}
}
