package issuer

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// The marks on what pkiwarden writes. LabelCertificate is on the live Secret,
// on NAME-next and on every CSR; its value names the live Secret.
const (
	LabelManagedBy   = "app.kubernetes.io/managed-by"
	ManagedBy        = "pkiwarden"
	LabelCertificate = "pkiwarden.io/certificate"

	// On the live Secret.
	AnnotationSigner   = "pkiwarden.io/signer"    // that was asked
	AnnotationIssuedAt = "pkiwarden.io/issued-at" // RFC 3339, when it was published
	AnnotationRequest  = "pkiwarden.io/request"   // name of the CSR it came from
	// AnnotationTrusted is when each CA of the bundle was published: JSON, RFC 3339
	// by SHA-256.
	AnnotationTrusted = "pkiwarden.io/trusted-since"

	// On NAME-next: a k8scsr.Record as JSON.
	AnnotationRecord = "pkiwarden.io/record"
)

// NextSuffix follows the live Secret's name in that of the Secret that holds
// the next key. The latter is Opaque, is never mounted, and stays when the key
// is gone, since its record bounds how often certificates are asked for.
const NextSuffix = "-next"

// nextKey is the entry of NAME-next that holds the key.
const nextKey = "tls.key"

var labelValue = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,61}[A-Za-z0-9]$`)

// labelFor is the value of LabelCertificate: namespace_name where that is a
// label value, else a hash of it. The underscore appears in neither name.
func labelFor(namespace, secret string) string {
	id := namespace + "_" + secret
	if labelValue.MatchString(id) {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:20])
}

// secretType is what the live Secret must be. The type kubernetes.io/tls
// demands the entries tls.crt and tls.key, so mapped names need Opaque.
func (c *Certificate) secretType() corev1.SecretType {
	if c.Keys.Certificate == corev1.TLSCertKey && c.Keys.Key == corev1.TLSPrivateKeyKey {
		return corev1.SecretTypeTLS
	}
	return corev1.SecretTypeOpaque
}

func (c *Certificate) nextName() string { return c.Secret + NextSuffix }

// readLive parses the live Secret, nil when there is none. One that was remembered
// lacks the key, which belonged to its certificate.
func (c *Certificate) readLive(secret *corev1.Secret, keyKept bool, now time.Time) k8scsr.Live {
	if secret == nil {
		return k8scsr.Live{}
	}
	var live k8scsr.Live
	if keyKept {
		live = k8scsr.ReadChain(secret.Data[c.Keys.Certificate])
	} else {
		live = k8scsr.ReadLive(secret.Data[c.Keys.Certificate], secret.Data[c.Keys.Key])
	}
	live.Managed = secret.Labels[LabelCertificate] == c.label
	if live.Managed {
		live.Signer = secret.Annotations[AnnotationSigner]
		live.IssuedAt = k8scsr.ParseIssuedAt(secret.Annotations[AnnotationIssuedAt], now)
	}
	live.CA = secret.Data[c.Keys.CA]
	if since, recorded := secret.Annotations[AnnotationTrusted]; recorded {
		live.CASince = k8scsr.ParseSince(since)
	}
	return live
}

// liveObstacle tells why the live Secret cannot be written, or must not be.
func (c *Certificate) liveObstacle(secret *corev1.Secret, live k8scsr.Live) *k8scsr.Finding {
	var somebodys string
	if secret != nil && !live.Managed {
		somebodys = cmp.Or(keptBy(secret), c.Spec.Unrelated(live))
	}
	f := &k8scsr.Finding{Severity: k8scsr.Critical, Subject: "certificate " + c.Spec.Name, Citation: "Kubernetes API v1, Secret"}
	switch {
	case secret == nil:
		return nil
	case secret.Type != c.secretType():
		f.Rule = k8scsr.RuleSecretType
		f.Summary = fmt.Sprintf("Secret %s/%s exists with type %q, not %q, and a type cannot be changed", c.Namespace, c.Secret, secret.Type, c.secretType())
		f.Remedy = fmt.Sprintf("save its content, delete it (kubectl -n %s delete secret %s) and let pkiwarden create it anew; or name another Secret in the configuration", c.Namespace, c.Secret)
	case secret.Immutable != nil && *secret.Immutable:
		f.Rule = k8scsr.RuleSecretImmutable
		f.Summary = fmt.Sprintf("Secret %s/%s is immutable", c.Namespace, c.Secret)
		f.Remedy = fmt.Sprintf("save its content, delete it (kubectl -n %s delete secret %s) and let pkiwarden create it anew; or name another Secret in the configuration", c.Namespace, c.Secret)
	case somebodys != "":
		f.Rule = k8scsr.RuleSecretForeign
		f.Summary = fmt.Sprintf("Secret %s/%s was not written by pkiwarden, and is left as it is: %s", c.Namespace, c.Secret, somebodys)
		f.Remedy = fmt.Sprintf("check secret.name in the configuration; to hand the Secret over, save its content and label it: kubectl -n %s label secret %s %s=%s", c.Namespace, c.Secret, LabelCertificate, c.label)
	default:
		return nil
	}
	return f
}

// keptBy tells who else keeps the Secret, "" where nobody is known to: what its
// owner finds changed it would put back.
func keptBy(secret *corev1.Secret) string {
	if owner := metav1.GetControllerOf(secret); owner != nil {
		return fmt.Sprintf("it belongs to %s %s", owner.Kind, owner.Name)
	}
	if name, is := secret.Annotations["cert-manager.io/certificate-name"]; is {
		return fmt.Sprintf("cert-manager keeps it, for Certificate %s", name)
	}
	return ""
}

// nextObstacle tells that NAME-next belongs to somebody else.
func (c *Certificate) nextObstacle(secret *corev1.Secret) *k8scsr.Finding {
	if secret == nil || secret.Labels[LabelCertificate] == c.label && secret.Labels[LabelManagedBy] == ManagedBy {
		return nil
	}
	return &k8scsr.Finding{
		Rule: k8scsr.RuleSecretTaken, Severity: k8scsr.Critical, Subject: "certificate " + c.Spec.Name,
		Summary: fmt.Sprintf("Secret %s/%s, where the next key is kept, exists and is not ours", c.Namespace, c.nextName()),
		Remedy:  "rename or delete it, or name another Secret for the certificate in the configuration",
	}
}

// readPending parses NAME-next, nil when there is none. A record that is
// damaged is a problem of the attempt, which is then given up; it never keeps
// the certificate from being renewed.
func readPending(secret *corev1.Secret, now time.Time) (k8scsr.Pending, privateKey) {
	var p k8scsr.Pending
	if secret == nil {
		return p, privateKey{}
	}
	data := secret.Data[nextKey]
	text, marked := secret.Annotations[AnnotationRecord]
	var read k8scsr.Record
	err := json.Unmarshal([]byte(text), &read)
	if err == nil {
		p.Record, err = read.Checked(now)
	}
	switch {
	case !marked:
		p.Problem = "its record is missing"
	case err != nil:
		p.Problem = "its record is damaged or of another version: " + k8scsr.Plain(err.Error(), maxMessage)
	case len(data) > 0 && p.CSRName == "":
		p.Problem = "its record names no request"
	}
	if len(data) == 0 {
		return p, privateKey{}
	}
	signer, err := k8scsr.ParseKey(data)
	if err != nil {
		p.Problem = err.Error()
		return p, privateKey{}
	}
	p.Key = signer.Public()
	return p, privateKey{signer, data}
}

// nextSecret is NAME-next as it becomes, from what it was (nil: create it). A
// key that is nil is removed.
func (c *Certificate) nextSecret(was *corev1.Secret, record k8scsr.Record, key []byte) (*corev1.Secret, error) {
	text, err := json.Marshal(record)
	if err != nil {
		return nil, fmt.Errorf("encoding the record of certificate %q: %w", c.Spec.Name, err)
	}
	out := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: c.nextName()}, Type: corev1.SecretTypeOpaque}
	if was != nil {
		out = was.DeepCopy()
	}
	c.mark(&out.ObjectMeta)
	out.Annotations[AnnotationRecord] = string(text)
	out.Data = map[string][]byte{}
	if key != nil {
		out.Data[nextKey] = key
	}
	return out, nil
}

// liveSecret is the live Secret as it becomes, from what it was. Entries and
// marks that are not ours stay.
func (c *Certificate) liveSecret(was *corev1.Secret, edit func(*corev1.Secret)) *corev1.Secret {
	out := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: c.Secret}, Type: c.secretType()}
	if was != nil {
		out = was.DeepCopy()
	}
	c.mark(&out.ObjectMeta)
	if out.Data == nil {
		out.Data = map[string][]byte{}
	}
	edit(out)
	return out
}

func (c *Certificate) mark(meta *metav1.ObjectMeta) {
	if meta.Labels == nil {
		meta.Labels = map[string]string{}
	}
	if meta.Annotations == nil {
		meta.Annotations = map[string]string{}
	}
	meta.Labels[LabelManagedBy] = ManagedBy
	meta.Labels[LabelCertificate] = c.label
}
