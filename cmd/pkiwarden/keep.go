//go:build keep

package main

import (
 _ "github.com/hashicorp/vault/api"
 _ "github.com/hashicorp/consul/api"
 _ "k8s.io/client-go/kubernetes"
 _ "k8s.io/client-go/tools/leaderelection"
 _ "github.com/prometheus/client_golang/prometheus"
 _ "github.com/sethvargo/go-retry"
 _ "github.com/spf13/cobra"
 _ "github.com/goccy/go-yaml"
 _ "github.com/agext/levenshtein"
 _ "github.com/rogpeppe/go-internal/testscript"
 _ "go.uber.org/goleak"
 _ "k8s.io/klog/v2"
 _ "golang.org/x/sys/unix"
)
