// Package servers builds, starts and ends the real servers that the demo and
// the end-to-end tests run against: etcd, kube-apiserver,
// kube-controller-manager, Vault, Consul and Prometheus.
//
// A [Set] owns one temporary folder and everything started in it. Every server
// listens on loopback ports that the Set picks, writes its log into its own
// folder below the Set's, and is ready when the call that starts it returns.
// [Set.Close] ends all of them, in reverse order of their start.
//
// No process survives its owner: on Linux the kernel ends every started
// process when the owner dies, however it dies (SIGKILL, panic, Ctrl-C, a
// test's timeout). Folders that a dead owner left are removed by the next
// [New].
//
// The programs come from PKIWARDEN_SERVERS_DIR, from PATH, from the user's
// cache folder, or are built from the nested modules beside this file; see
// [Find].
package servers
