package deliver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ErrNotYet says that the Secret, or the pair in it, does not exist yet. It is
// an ordinary state: a cluster's first certificate takes a while to be issued.
var ErrNotYet = errors.New("no certificate yet")

// Source yields the pair as it is stored now.
type Source interface {
	// Pair reads the pair anew. It returns an error wrapping [ErrNotYet] where
	// there is none yet; any other error leaves the stored state unknown. No
	// error text holds key material.
	Pair(ctx context.Context) (Pair, error)
}

// Keys names the entries of a Secret, or the files of its volume. Empty fields
// stand for tls.crt, tls.key and ca.crt.
type Keys struct {
	Certificate string
	Key         string
	CA          string
}

func (k Keys) withDefaults() Keys {
	if k.Certificate == "" {
		k.Certificate = certificateFile
	}
	if k.Key == "" {
		k.Key = keyFile
	}
	if k.CA == "" {
		k.CA = caFile
	}
	return k
}

// SecretGetter is the one right that is needed on Secrets: get, by name.
// CoreV1().Secrets(namespace) of a client-go clientset is one.
type SecretGetter interface {
	Get(ctx context.Context, name string, options metav1.GetOptions) (*corev1.Secret, error)
}

// requestTimeout bounds one request to the API server.
const requestTimeout = 10 * time.Second

type secretSource struct {
	secrets   SecretGetter
	namespace string
	name      string
	keys      Keys
}

// NewSecretSource reads one named Secret through the API. It needs "get" on
// that Secret and nothing else: no list, no watch. The namespace is for messages.
func NewSecretSource(secrets SecretGetter, namespace, name string, keys Keys) (Source, error) {
	if secrets == nil {
		return nil, errors.New("reading a secret through the API needs a client")
	}
	if name == "" {
		return nil, errors.New("reading a secret through the API needs its name")
	}
	return &secretSource{secrets: secrets, namespace: namespace, name: name, keys: keys.withDefaults()}, nil
}

func (s *secretSource) Pair(ctx context.Context) (Pair, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	secret, err := s.secrets.Get(ctx, s.name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return Pair{}, fmt.Errorf("secret %s/%s does not exist: %w", s.namespace, s.name, ErrNotYet)
	case apierrors.IsForbidden(err):
		return Pair{}, fmt.Errorf("permission denied: needs verb \"get\" on resource secrets, name %q, in namespace %q: %w", s.name, s.namespace, err)
	case err != nil:
		return Pair{}, fmt.Errorf("getting secret %s/%s: %w", s.namespace, s.name, err)
	}
	pair := Pair{
		Certificate: secret.Data[s.keys.Certificate],
		Key:         NewKey(secret.Data[s.keys.Key]),
		CA:          secret.Data[s.keys.CA],
	}
	if err := complete(pair, s.keys, func() []string {
		names := make([]string, 0, len(secret.Data))
		for name := range secret.Data {
			names = append(names, name)
		}
		slices.Sort(names)
		return names
	}); err != nil {
		return Pair{}, fmt.Errorf("secret %s/%s %w", s.namespace, s.name, err)
	}
	return pair, nil
}

// complete tells an empty Secret, which is about to be filled, from one that
// holds half a pair.
func complete(p Pair, k Keys, present func() []string) error {
	hasCertificate, hasKey := len(p.Certificate) > 0, len(p.Key.PEM()) > 0
	switch {
	case hasCertificate && hasKey:
		return nil
	case !hasCertificate && !hasKey:
		if names := present(); len(names) > 0 {
			return fmt.Errorf("has neither %s nor %s (it has %s): %w", k.Certificate, k.Key, strings.Join(names, ", "), ErrNotYet)
		}
		return fmt.Errorf("is empty: %w", ErrNotYet)
	case hasKey:
		return fmt.Errorf("has %s but no %s", k.Key, k.Certificate)
	default:
		return fmt.Errorf("has %s but no %s", k.Certificate, k.Key)
	}
}
