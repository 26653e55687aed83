package k8scsr

import (
	"fmt"
	"slices"
	"strings"
)

// DefaultClusterDomain is the domain of a cluster's DNS where nothing else was
// chosen when it was made (kubelet, clusterDomain).
const DefaultClusterDomain = "cluster.local"

// The rules about names that are drawn from objects of the cluster.
const (
	RuleNamesMissing  = "names-source-missing"
	RuleNamesUnusable = "names-source-unusable"
)

// ServiceNames are the names by which a pod reaches the Service: the full one
// (Kubernetes DNS-Based Service Discovery 1.1.0, section 2.3), and those that a
// pod's search path completes to it. Of a headless one they are also the
// wildcards that stand for its pods (section 2.4).
func ServiceNames(namespace, name, clusterDomain string, headless bool) []string {
	names := inCluster(name, namespace, clusterDomain)
	if headless {
		names = append(names, inCluster("*."+name, namespace, clusterDomain)...)
	}
	return names
}

// StatefulSetNames are the names of the pods NAME-FIRST and on, count of them,
// below the set's governing Service (Kubernetes, "StatefulSets", section "Stable
// Network ID"). There are none without a governing Service.
func StatefulSetNames(namespace, name, service, clusterDomain string, first, count int) []string {
	var names []string
	if service == "" {
		return nil
	}
	for n := range count {
		names = append(names, inCluster(fmt.Sprintf("%s-%d.%s", name, first+n, service), namespace, clusterDomain)...)
	}
	return names
}

// IngressNames are the hosts of an Ingress, of its rules and of its tls
// section, each once. A rule without a host is for all of them and names none.
func IngressNames(hosts []string) []string {
	return slices.DeleteFunc(sorted(hosts), func(host string) bool { return host == "" })
}

// inCluster are the forms of a name in a namespace, shortest first.
func inCluster(name, namespace, clusterDomain string) []string {
	inNamespace := name + "." + namespace
	return []string{name, inNamespace, inNamespace + ".svc", inNamespace + ".svc." + strings.Trim(clusterDomain, ".")}
}
