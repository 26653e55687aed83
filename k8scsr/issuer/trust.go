package issuer

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pkiwarden/pkiwarden/k8scsr"
)

// KeyRef names one entry of a ConfigMap or Secret.
type KeyRef struct {
	Namespace string // default: that of the live Secret
	Name      string
	Key       string // default ca.crt
}

// TrustSource is where the bundle of CA certificates comes from. At most one
// field is set; none is no trust configured.
type TrustSource struct {
	ConfigMap *KeyRef
	Secret    *KeyRef
	File      string
}

func (t TrustSource) configured() bool { return t.ConfigMap != nil || t.Secret != nil || t.File != "" }

func (t TrustSource) String() string {
	switch {
	case t.ConfigMap != nil:
		return fmt.Sprintf("ConfigMap %s/%s, key %s", t.ConfigMap.Namespace, t.ConfigMap.Name, t.ConfigMap.Key)
	case t.Secret != nil:
		return fmt.Sprintf("Secret %s/%s, key %s", t.Secret.Namespace, t.Secret.Name, t.Secret.Key)
	}
	return "file " + t.File
}

// maxTrustFile is above what ParseTrust accepts, so that too large a file is
// refused there, not cut here.
const maxTrustFile = 1 << 20

// trustRead is a bundle as a round has read it.
type trustRead struct {
	trust   k8scsr.Trust
	problem string
	err     error
}

// readSource reads a source once in a round.
func (i *Issuer) readSource(ctx context.Context, t TrustSource) trustRead {
	if r, known := i.trusts[t.String()]; known {
		return r
	}
	var r trustRead
	var data []byte
	if data, r.problem, r.err = i.trustBytes(ctx, t); r.err == nil && r.problem == "" {
		var err error
		if r.trust, err = k8scsr.ParseTrust(data); err != nil {
			r.problem = err.Error()
		}
	}
	if r.err == nil {
		i.trusts[t.String()] = r
	}
	return r
}

// followTrust looks, once in an interval, whether a bundle has changed, and lets
// all its certificates be looked at then. Where there are so many of them that
// each is looked at less often, it would be noticed late otherwise.
func (i *Issuer) followTrust(ctx context.Context, now time.Time) {
	if i.lookEvery == i.interval || now.Sub(i.trustsAt) < i.interval && !now.Before(i.trustsAt) {
		return
	}
	i.trustsAt = now
	for _, f := range i.followed {
		r := i.readSource(ctx, f.source)
		content := r.problem + "\n" + string(r.trust.PEM)
		f.changed = r.err == nil && f.known && f.content != content
		if r.err == nil {
			f.content, f.known = content, true
		}
	}
	for n := range i.outlooks {
		if o := &i.outlooks[n]; o.trust != nil && o.trust.changed {
			o.pace = k8scsr.Pace{}
		}
	}
}

// readTrust reads the bundle. A bundle that is missing or damaged is an
// obstacle; an API that does not answer is an error.
func (i *Issuer) readTrust(ctx context.Context, c *Certificate) (k8scsr.Trust, *k8scsr.Finding, error) {
	if !c.Trust.configured() {
		return k8scsr.Trust{}, nil, nil
	}
	r := i.readSource(ctx, c.Trust)
	if r.err != nil {
		return k8scsr.Trust{}, nil, r.err
	}
	problem := r.problem
	if problem == "" {
		return r.trust, nil, nil
	}
	return k8scsr.Trust{}, &k8scsr.Finding{
		Rule: k8scsr.RuleTrustUnreadable, Severity: k8scsr.Critical, Subject: "certificate " + c.Spec.Name,
		Summary: fmt.Sprintf("the trust bundle (%v) cannot be used: %s", c.Trust, problem),
		Remedy:  "put the PEM certificates of the CAs that clients trust there, or correct trust; nothing is requested until then",
	}, nil
}

func (i *Issuer) trustBytes(ctx context.Context, t TrustSource) (data []byte, problem string, err error) {
	var found bool
	switch {
	case t.ConfigMap != nil:
		var m *corev1.ConfigMap
		m, err = do(ctx, call{"get", "configmaps", t.ConfigMap.Namespace, t.ConfigMap.Name}, func(ctx context.Context) (*corev1.ConfigMap, error) {
			return i.client.CoreV1().ConfigMaps(t.ConfigMap.Namespace).Get(ctx, t.ConfigMap.Name, metav1.GetOptions{})
		})
		if err == nil {
			var text string
			if text, found = m.Data[t.ConfigMap.Key]; found {
				data = []byte(text)
			} else {
				data, found = m.BinaryData[t.ConfigMap.Key]
			}
		}
	case t.Secret != nil:
		var s *corev1.Secret
		if s, err = i.getSecret(ctx, t.Secret.Namespace, t.Secret.Name); s != nil {
			data, found = s.Data[t.Secret.Key]
		}
	default:
		data, err := readFile(t.File)
		if err != nil {
			return nil, err.Error(), nil
		}
		return data, "", nil
	}
	switch {
	case apierrors.IsNotFound(err):
		return nil, "it does not exist", nil
	case err == nil && !found:
		return nil, "it does not exist or has no such key", nil
	}
	return data, "", err
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxTrustFile))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return data, nil
}

// putBundle stores the bundle beside the pair, and when each of its CAs came.
func (c *Certificate) putBundle(s *corev1.Secret, b k8scsr.Bundle) {
	if len(b.PEM) == 0 {
		return // no trust is configured
	}
	s.Data[c.Keys.CA] = b.PEM
	s.Annotations[AnnotationTrusted] = b.Record()
}

// writeBundle publishes the bundle alone. A Secret that somebody else wrote does
// not become ours by that.
func (i *Issuer) writeBundle(ctx context.Context, c *Certificate, o *observation, b k8scsr.Bundle) error {
	marked := c.liveSecret(o.live, func(s *corev1.Secret) { c.putBundle(s, b) })
	if !o.Live.Managed {
		marked.Labels = maps.Clone(o.live.Labels)
	}
	written, err := i.writeSecret(ctx, marked, false)
	if err == nil {
		o.live = written
	}
	return err
}

// TrustStatus is the bundle that clients follow, and how far its change has come.
// The zero value is for where no trust is configured, or it is not known.
type TrustStatus struct {
	State       k8scsr.ChangeState
	Reason      string
	Authorities []AuthorityStatus
	Peers       []k8scsr.PeerStatus // while they decide
}

// AuthorityStatus is one CA of the bundle.
type AuthorityStatus struct {
	Subject     string
	SHA256      string // in hexadecimal
	NotAfter    time.Time
	Wanted      bool      // false: it is to leave
	PublishedAt time.Time // zero: it is not known
}
