package state

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/kube"
	"github.com/pkiwarden/pkiwarden/pki"
)

// The shape of a ConfigMap that holds a record.
const (
	configMapPrefix = "pkiwarden-state-"
	dataKey         = "state"
	keyAnnotation   = "pkiwarden.io/state-key"
	managedByLabel  = "app.kubernetes.io/managed-by"
)

// ConfigMaps keeps each record in a ConfigMap of its own, pkiwarden-state-KEY,
// whose resourceVersion is the record's version. It needs the verbs get, create
// and update on configmaps in one namespace.
type ConfigMaps struct {
	client    kubernetes.Interface
	namespace string
}

// NewConfigMaps makes a store in a namespace. It sends nothing.
func NewConfigMaps(client kubernetes.Interface, namespace string) (*ConfigMaps, error) {
	if client == nil || namespace == "" {
		return nil, errors.New("making state store: it needs a client and a namespace")
	}
	return &ConfigMaps{client: client, namespace: namespace}, nil
}

// Where names the object of a key.
func (c *ConfigMaps) Where(key string) string {
	return fmt.Sprintf("ConfigMap %s/%s", c.namespace, configMapPrefix+safeName(key))
}

// Get implements [Store].
func (c *ConfigMaps) Get(ctx context.Context, key string) ([]byte, string, error) {
	name := configMapPrefix + safeName(key)
	m, err := c.client.CoreV1().ConfigMaps(c.namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", c.explain(err, "get", "reading", key)
	}
	text := m.Data[dataKey]
	corrupt := func(why string) error {
		return fmt.Errorf("reading state %s: ConfigMap %s/%s %s; repair it, or delete it to begin anew", key, c.namespace, name, why)
	}
	switch {
	case m.Annotations[keyAnnotation] != key:
		return nil, "", corrupt(fmt.Sprintf("belongs to key %q, says its annotation %s", m.Annotations[keyAnnotation], keyAnnotation))
	case text == "":
		return nil, "", corrupt(fmt.Sprintf("holds nothing under %q", dataKey))
	case len(text) > MaxBytes:
		return nil, "", corrupt(fmt.Sprintf("holds %d bytes, more than the %d that are allowed", len(text), MaxBytes))
	case m.ResourceVersion == "":
		return nil, "", corrupt("has no resourceVersion")
	}
	return []byte(text), m.ResourceVersion, nil
}

// Put implements [Store].
func (c *ConfigMaps) Put(ctx context.Context, key string, data []byte, version string) (string, error) {
	if err := checkRecord(key, data); err != nil {
		return "", err
	}
	m := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       c.namespace,
			Name:            configMapPrefix + safeName(key),
			ResourceVersion: version,
			Labels:          map[string]string{managedByLabel: "pkiwarden"},
			Annotations:     map[string]string{keyAnnotation: key},
		},
		Data: map[string]string{dataKey: string(data)},
	}
	if version == "" {
		created, err := c.client.CoreV1().ConfigMaps(c.namespace).Create(ctx, m, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return "", fmt.Errorf("writing state %s: %w", key, pki.ErrConflict)
		}
		if err != nil {
			return "", c.explain(err, "create", "writing", key)
		}
		return created.ResourceVersion, nil
	}
	updated, err := c.client.CoreV1().ConfigMaps(c.namespace).Update(ctx, m, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return "", fmt.Errorf("writing state %s: %w", key, pki.ErrConflict)
	}
	if err != nil {
		return "", c.explain(err, "update", "writing", key)
	}
	return updated.ResourceVersion, nil
}

func (c *ConfigMaps) explain(err error, verb, doing, key string) error {
	return fmt.Errorf("%s state %s: %w", doing, key,
		kube.Explain(err, verb, "configmaps", c.namespace, configMapPrefix+safeName(key)))
}
