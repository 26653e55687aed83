package servers

import (
	"context"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Identity is who a process is to the cluster: a service account, or a pod
// that runs as it. The process is given Kubeconfig, and has exactly the rights
// that RBAC gives the service account.
type Identity struct {
	Namespace      string
	ServiceAccount string
	Pod            string    // empty when the token is bound to no pod
	PodUID         types.UID // likewise
	// Kubeconfig names TokenFile, which clients read again now and then, as
	// they do a projected token.
	Kubeconfig string
	TokenFile  string

	client *kubernetes.Clientset
}

// ServiceAccountKubeconfig makes a kubeconfig of a service account. With a pod
// name, a Pod object that uses the account is made and the token bound to it,
// so that the API server knows the process as that pod; deleting the Pod
// revokes the token. Namespace, account and pod are made where they are missing.
func (k *Kubernetes) ServiceAccountKubeconfig(ctx context.Context, namespace, serviceAccount, pod string) (*Identity, error) {
	client, err := k.Client()
	if err != nil {
		return nil, err
	}
	dir, err := k.set.folder("identity-" + namespace + "-" + serviceAccount)
	if err != nil {
		return nil, err
	}
	i := &Identity{
		Namespace: namespace, ServiceAccount: serviceAccount, Pod: pod,
		Kubeconfig: dir + "/kubeconfig", TokenFile: dir + "/token", client: client,
	}
	if err := i.ensureObjects(ctx); err != nil {
		return nil, err
	}
	if err := i.Refresh(ctx, time.Hour); err != nil {
		return nil, err
	}
	return i, k.writeKubeconfig(i.Kubeconfig, namespace, &clientcmdapi.AuthInfo{TokenFile: i.TokenFile})
}

func (i *Identity) ensureObjects(ctx context.Context) error {
	core := i.client.CoreV1()
	_, err := core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: i.Namespace}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("making namespace %s: %w", i.Namespace, err)
	}
	_, err = core.ServiceAccounts(i.Namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: i.ServiceAccount}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("making service account %s/%s: %w", i.Namespace, i.ServiceAccount, err)
	}
	if i.Pod == "" {
		return nil
	}
	pods := core.Pods(i.Namespace)
	pod, err := pods.Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: i.Pod},
		Spec: corev1.PodSpec{
			ServiceAccountName: i.ServiceAccount,
			// What a namespace that enforces the restricted profile asks for.
			SecurityContext: &corev1.PodSecurityContext{
				RunAsNonRoot:   new(true),
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{{
				Name: "never-runs", Image: "example.invalid/none",
				SecurityContext: &corev1.SecurityContext{
					AllowPrivilegeEscalation: new(false),
					Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				},
			}},
		},
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		pod, err = pods.Get(ctx, i.Pod, metav1.GetOptions{})
	}
	if err != nil {
		return fmt.Errorf("making pod %s/%s: %w", i.Namespace, i.Pod, err)
	}
	i.PodUID = pod.UID
	return nil
}

// Refresh replaces the token in TokenFile by a new one of the given lifetime,
// of which the API takes no less than ten minutes.
func (i *Identity) Refresh(ctx context.Context, life time.Duration) error {
	seconds := int64(life / time.Second)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}
	if i.Pod != "" {
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: i.Pod, UID: i.PodUID}
	}
	answer, err := i.client.CoreV1().ServiceAccounts(i.Namespace).CreateToken(ctx, i.ServiceAccount, request, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("requesting a token of %s/%s: %w", i.Namespace, i.ServiceAccount, err)
	}
	return replaceFile(i.TokenFile, []byte(answer.Status.Token), 0o600)
}
