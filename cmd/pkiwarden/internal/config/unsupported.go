package config

import "reflect"

// unsupported is every key of the contract whose feature does not exist yet:
// set to anything but its default it is refused, never ignored. A key is a
// pattern of paths, or PATTERN=VALUE where only one value is refused.
var unsupported = map[string]string{
	"vault.auth.method=approle":              "AppRole login; use kubernetes, tokenFile or token",
	"leaderElection.backend=consul":          "election by a Consul session; use kubernetes or none",
	"deliver[].reload.command":               "reloading by a command; use signal, consul or none",
	"deliver[].verify[].protocol=consul-rpc": "proof on Consul's RPC port",
	"deliver[].rollout":                      "one replica at a time",
	"canary":                                 "canary issuance",
	"workloads":                              "auditing workloads",
	"listen.webConfigFile":                   "TLS and authentication for metrics",
}

// refuseUnsupported reports a value that asks for a feature of that table.
func (d *decoder) refuseUnsupported(path string, before, after reflect.Value) {
	if reflect.DeepEqual(before.Interface(), after.Interface()) || isEmptyList(before) && isEmptyList(after) {
		return
	}
	key := pattern(path)
	feature, ok := unsupported[key]
	if !ok && after.Kind() == reflect.String {
		feature, ok = unsupported[key+"="+after.String()]
	}
	if ok {
		d.bad(path, "not supported yet: %s", feature)
	}
}

func isEmptyList(v reflect.Value) bool { return v.Kind() == reflect.Slice && v.Len() == 0 }
