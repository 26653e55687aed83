//go:build servers

// Package kubernetes pins the Kubernetes servers and kubectl of the end-to-end
// tests in a module of its own, so that none of their dependencies reaches the
// product's go.mod. etcd is the version that Kubernetes selects.
package kubernetes

import (
	_ "go.etcd.io/etcd/server/v3"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kubectl"
)
