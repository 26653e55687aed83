package servers

import (
	"fmt"
	"slices"
	"strings"
)

// program is one server that the harness knows how to find and build.
type program struct {
	name        string
	module      string // folder of the nested module, below test/e2e/servers
	pkg         string
	ldflags     string
	versionArgs []string
	// version is what the first line of the program's version output must
	// begin with: behaviour is taken to be the same within a minor version.
	version string
	// minutes is how long a cold build takes on two cores, for the progress
	// report. A program whose module was just built costs little more.
	minutes float64
}

const kubernetesFlags = "-s -w" +
	" -X k8s.io/component-base/version.gitVersion=v1.36.3" +
	" -X k8s.io/component-base/version.gitMajor=1" +
	" -X k8s.io/component-base/version.gitMinor=36" +
	" -X k8s.io/component-base/version.gitTreeState=clean"

const prometheusFlags = "-s -w -X github.com/prometheus/common/version.Version=3.15.0"

// catalog is in the order in which everything is built. To change a version,
// run "go get MODULE@VERSION" and "go list -mod=mod -deps PACKAGE" in the
// nested module, begin go.sum from the server's own, and change the version
// here. "go mod tidy" asks for the tests of every dependency as well, some of
// which do not resolve.
var catalog = []program{
	{
		name: "etcd", module: "kubernetes", pkg: "go.etcd.io/etcd/server/v3",
		ldflags: kubernetesFlags, versionArgs: []string{"--version"}, version: "etcd Version: 3.6.", minutes: 1,
	},
	{
		name: "kube-apiserver", module: "kubernetes", pkg: "k8s.io/kubernetes/cmd/kube-apiserver",
		ldflags: kubernetesFlags, versionArgs: []string{"--version"}, version: "Kubernetes v1.36.", minutes: 4,
	},
	{
		name: "kube-controller-manager", module: "kubernetes", pkg: "k8s.io/kubernetes/cmd/kube-controller-manager",
		ldflags: kubernetesFlags, versionArgs: []string{"--version"}, version: "Kubernetes v1.36.", minutes: 1,
	},
	{
		name: "kubectl", module: "kubernetes", pkg: "k8s.io/kubernetes/cmd/kubectl",
		ldflags: kubernetesFlags, versionArgs: []string{"version", "--client"}, version: "Client Version: v1.36.", minutes: 1,
	},
	{
		name: "vault", module: "vault", pkg: "github.com/hashicorp/vault",
		ldflags: "-s -w", versionArgs: []string{"version"}, version: "Vault v1.21.", minutes: 5,
	},
	{
		// The last of those that build which writes to Consul without transactions.
		name: "vault-1.13", module: "vault-1.13", pkg: "github.com/hashicorp/vault",
		ldflags: "-s -w", versionArgs: []string{"version"}, version: "Vault v1.13.", minutes: 3,
	},
	{
		name: "vault-1.17", module: "vault-1.17", pkg: "github.com/hashicorp/vault",
		ldflags: "-s -w", versionArgs: []string{"version"}, version: "Vault v1.17.", minutes: 5,
	},
	{
		name: "consul", module: "consul", pkg: "github.com/hashicorp/consul",
		ldflags: "-s -w", versionArgs: []string{"version"}, version: "Consul v1.21.", minutes: 3,
	},
	{
		name: "promtool", module: "prometheus", pkg: "github.com/prometheus/prometheus/cmd/promtool",
		ldflags: prometheusFlags, versionArgs: []string{"--version"}, version: "promtool, version 3.", minutes: 2,
	},
	{
		name: "prometheus", module: "prometheus", pkg: "github.com/prometheus/prometheus/cmd/prometheus",
		ldflags: prometheusFlags, versionArgs: []string{"--version"}, version: "prometheus, version 3.", minutes: 1,
	},
}

// Names lists every program that [Find] knows, in the order of building.
func Names() []string {
	names := make([]string, len(catalog))
	for i, p := range catalog {
		names[i] = p.name
	}
	return names
}

func lookup(name string) (program, error) {
	i := slices.IndexFunc(catalog, func(p program) bool { return p.name == name })
	if i < 0 {
		return program{}, fmt.Errorf("finding %q: not a known server program (known: %s)", name, strings.Join(Names(), ", "))
	}
	return catalog[i], nil
}
