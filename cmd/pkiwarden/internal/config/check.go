package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
)

// require reports an empty text that has to be given.
func (d *decoder) require(path, value, example string) bool {
	if value != "" || !d.sound(path) {
		return value != ""
	}
	d.bad(path, "expected a value, found none; for example %s", example)
	return false
}

// check finds what is wrong with values that decode: ranges, formats, and
// settings that contradict each other.
func (d *decoder) check(c *Config) {
	if c.APIVersion != APIVersion && d.sound("apiVersion") {
		d.bad("apiVersion", "expected %s, found %s", APIVersion, quote(c.APIVersion))
	}
	d.checkVault(&c.Vault)
	d.checkConsul(&c.Consul)
	d.checkLeaderElection(&c.LeaderElection)
	d.checkState(&c.State, c.Consul.Address)
	d.checkNextSecrets(c.Certificates)
	d.checkSigners(c.Signers, c.Certificates)
	d.checkDeliver(c)
	d.checkCRL(&c.CRL)
	d.checkTidy(&c.Tidy)
	if _, _, ok := hostPort(c.Listen.Address); !ok && d.sound("listen.address") {
		d.bad("listen.address", "expected HOST:PORT or :PORT, found %s", quote(c.Listen.Address))
	}
}

func (d *decoder) checkVault(v *Vault) {
	if v.Address != "" {
		d.checkServer("vault.address", &v.Address, "a URL such as https://vault-active.vault.svc:8200")
	}
	if v.Namespace != "" && v.Namespace != AllNamespaces && (!isVaultPath(v.Namespace) || strings.Contains(v.Namespace, "*")) {
		d.bad("vault.namespace", "expected a namespace such as team/platform, or \"*\" for all, found %s", quote(v.Namespace))
	}
	if v.Auth.Method == AuthTokenFile {
		d.require("vault.auth.tokenFile", v.Auth.TokenFile, "/vault/token/token")
	}
	if v.Auth.Method == AuthToken && v.Auth.TokenFile != "" && d.sound("vault.auth") && d.set("vault.auth.method") {
		d.bad("vault.auth.tokenFile", "method token reads VAULT_TOKEN, not a file; did you mean method: tokenFile?")
	}
	if v.Auth.Method == AuthToken && v.Address != "" && !v.Auth.Token.IsSet() && d.sound("vault.auth") {
		d.bad("vault.auth.method", "method token reads VAULT_TOKEN, which is not set")
	}
	if v.Auth.Method == AuthKubernetes {
		d.require("vault.auth.mount", v.Auth.Mount, "kubernetes")
		d.require("vault.auth.role", v.Auth.Role, "pkiwarden")
	}
}

func (d *decoder) checkConsul(c *Consul) {
	const expected = "an address such as https://127.0.0.1:8501"
	switch host, _, ok := hostPort(c.Address); {
	case c.Address == "" || ok && host != "":
	case strings.HasPrefix(c.Address, "unix://"):
		d.bad("consul.address", "expected %s, found %s; Consul's socket is not spoken to", expected, quote(c.Address))
	case strings.Contains(c.Address, "://"):
		d.checkServer("consul.address", &c.Address, expected)
	default:
		d.bad("consul.address", "expected %s, found %s", expected, quote(c.Address))
	}
}

// checkServer checks the URL of a server, and drops the one slash that the
// servers' own clients pass over as well.
func (d *decoder) checkServer(path string, address *string, expected string) {
	server := strings.TrimSuffix(*address, "/")
	u, err := url.Parse(server)
	switch {
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.User != nil || u.Port() != "" && !isPort(u.Port()):
		d.bad(path, "expected %s, found %s", expected, quote(*address))
	case u.Path != "" || strings.ContainsAny(server, "?#"):
		d.bad(path, "expected %s with nothing after the port, found %s; did you mean %q?", expected, quote(*address), u.Scheme+"://"+u.Host)
	default:
		*address = server
	}
}

func (d *decoder) checkLeaderElection(l *LeaderElection) {
	const at = "leaderElection."
	d.name(at+"name", l.Name, "pkiwarden", validation.IsDNS1123Subdomain)
	if l.Namespace != "" {
		d.name(at+"namespace", l.Namespace, "vault", validation.IsDNS1123Label)
	}
	if !d.sound(at+"leaseDuration", at+"renewDeadline", at+"retryPeriod") {
		return
	}
	if l.LeaseDuration <= l.RenewDeadline {
		d.contradict(at+"leaseDuration", at+"renewDeadline", "leaseDuration (%s) has to be longer than renewDeadline (%s)", Span(l.LeaseDuration), Span(l.RenewDeadline))
	}
	// client-go waits for up to 1.2 retry periods (leaderelection.JitterFactor).
	if l.RenewDeadline <= l.RetryPeriod*6/5 {
		d.contradict(at+"renewDeadline", at+"retryPeriod", "renewDeadline (%s) has to be longer than 1.2 times retryPeriod (%s)", Span(l.RenewDeadline), Span(l.RetryPeriod))
	}
}

func (d *decoder) checkState(s *State, consulAddress string) {
	if s.Backend == BackendConsul && d.sound("state") {
		if s.Path == "" {
			s.Path = DefaultConsulState
		}
		if !isVaultPath(s.Path) {
			d.bad("state.path", "expected a prefix of Consul's keys such as %s, found %s", DefaultConsulState, quote(s.Path))
		}
		if consulAddress == "" && d.sound("consul.address") {
			d.bad("state.backend", "state in Consul needs consul.address, or CONSUL_HTTP_ADDR")
		}
	}
	if s.Backend == BackendFile {
		if d.require("state.path", s.Path, "/var/lib/pkiwarden/state") && !filepath.IsAbs(s.Path) {
			d.bad("state.path", "expected an absolute path, found %s", quote(s.Path))
		}
	}
	if s.Backend == BackendKubernetes && s.Path != "" && d.sound("state") {
		d.bad("state.path", "backend kubernetes keeps state in ConfigMaps and has no path; did you mean backend: file?")
	}
}

const (
	minCRLInterval = time.Second
	minCRLBytes    = 64 << 10
)

func (d *decoder) checkCRL(c *CRL) {
	d.checkMounts("crl.mounts", c.Mounts)
	d.checkLimit(&c.Limit)
	if d.sound("crl.interval") && c.Interval < minCRLInterval {
		d.bad("crl.interval", "%s is shorter than %s, which would load Vault for nothing", Span(c.Interval), Span(minCRLInterval))
	}
	if d.sound("crl.maxBytes") && c.MaxBytes < minCRLBytes {
		d.bad("crl.maxBytes", "expected at least %d bytes, found %d; a list that is larger is an error, so leave room", minCRLBytes, c.MaxBytes)
	}
	const warn, critical = "crl.warn.", "crl.critical."
	if d.sound(warn+"share", critical+"share") && c.Warn.Share >= c.Critical.Share {
		d.contradict(warn+"share", critical+"share", "warn.share (%v) has to be below critical.share (%v)", c.Warn.Share, c.Critical.Share)
	}
	if d.sound(warn+"horizon", critical+"horizon") && c.Warn.Horizon <= c.Critical.Horizon {
		d.contradict(warn+"horizon", critical+"horizon", "warn.horizon (%s) has to be longer than critical.horizon (%s)", Span(c.Warn.Horizon), Span(c.Critical.Horizon))
	}
	if d.sound(warn+"headroom", critical+"headroom") && c.Warn.Headroom <= c.Critical.Headroom {
		d.contradict(warn+"headroom", critical+"headroom", "warn.headroom (%v) has to be above critical.headroom (%v)", c.Warn.Headroom, c.Critical.Headroom)
	}
}

// StorageTypes is every storage type of Vault (its physical/ folder and the
// integrated storage).
var StorageTypes = []string{
	"aerospike", "alicloudoss", "azure", "cassandra", "cockroachdb", "consul", "couchdb", "dynamodb", "etcd", "file",
	"foundationdb", "gcs", "inmem", "manta", "mssql", "mysql", "oci", "postgresql", "raft", "s3", "spanner", "swift", "zookeeper",
}

func (d *decoder) checkLimit(l *Limit) {
	if l.IsAuto() || !d.sound("crl.limit") {
		return
	}
	if l.Bytes > 0 {
		if other := *l; l.Backend != "" || other != (Limit{Bytes: l.Bytes}) {
			d.bad("crl.limit", "expected either bytes or backend with its settings, found both")
		}
		return
	}
	if !d.require("crl.limit.backend", l.Backend, "consul") {
		return
	}
	if !slices.Contains(StorageTypes, l.Backend) {
		hint := ""
		if meant := Closest(l.Backend, StorageTypes); meant != "" {
			hint = fmt.Sprintf("; did you mean %q?", meant)
		}
		d.bad("crl.limit.backend", "expected a storage type of Vault, found %s%s", quote(l.Backend), hint)
		return
	}
	for _, only := range []struct {
		key, backend string
		value        int64
	}{
		{"kvMaxValueSize", "consul", l.KVMaxValueSize},
		{"txnMaxReqLen", "consul", l.TxnMaxReqLen},
		{"maxEntrySize", "raft", l.MaxEntrySize},
	} {
		if only.value > 0 && l.Backend != only.backend {
			d.bad("crl.limit."+only.key, "%s is a setting of backend %s, not of %s", only.key, only.backend, l.Backend)
		}
	}
}

func (d *decoder) checkTidy(t *Tidy) {
	d.checkMounts("tidy.mounts", t.Mounts)
	const floor, least = 24 * time.Hour, time.Second
	switch {
	case t.SafetyBuffer < least && d.sound("tidy.safetyBuffer"):
		d.bad("tidy.safetyBuffer", "%s is shorter than %s, the least that Vault takes; 72h is usual", t.SafetyBuffer, Span(least))
	case t.SafetyBuffer < floor && !t.AllowShortSafetyBuffer && d.sound("tidy.safetyBuffer", "tidy.allowShortSafetyBuffer"):
		d.bad("tidy.safetyBuffer", "%s is below the floor of 24h, which clock differences and slow clients need; set allowShortSafetyBuffer: true to insist", Span(t.SafetyBuffer))
	}
	if d.sound("tidy.minInterval", "tidy.trigger.atLeastEvery") && t.MinInterval > t.Trigger.AtLeastEvery {
		d.contradict("tidy.minInterval", "tidy.trigger.atLeastEvery", "minInterval (%s) has to be at most trigger.atLeastEvery (%s)", Span(t.MinInterval), Span(t.Trigger.AtLeastEvery))
	}
	if t.OwnAutoTidy && !t.Enabled && d.sound("tidy.ownAutoTidy", "tidy.enabled") {
		d.contradict("tidy.ownAutoTidy", "tidy.enabled", "with ownAutoTidy the mounts' own auto-tidy is switched off, so nothing would tidy them: set enabled: true as well")
	}
	if t.IgnoreWindowsWhenCritical && len(t.Windows) == 0 && d.sound("tidy.ignoreWindowsWhenCritical", "tidy.windows") {
		d.bad("tidy.ignoreWindowsWhenCritical", "there are no windows to ignore: set tidy.windows as well, or leave this out")
	}
	d.checkWindows("tidy.windows", t.Windows)
}

func (d *decoder) checkMounts(at string, mounts []string) {
	if !d.sound(at) {
		return
	}
	includes := 0
	for i, mount := range mounts {
		name, leaveOut := strings.CutPrefix(mount, "!")
		if !leaveOut {
			includes++
		}
		here := fmt.Sprintf("%s[%d]", at, i)
		if _, err := path.Match(name, ""); d.sound(here) && (err != nil || !isVaultPath(name)) {
			d.bad(here, "expected a mount, a pattern such as pki* or an exclusion such as !pki-test, found %s", quote(mount))
		}
	}
	if includes == 0 && d.set(at) {
		d.bad(at, `expected at least one mount or pattern, found none; ["*"] is every mount`)
	}
}

// isVaultPath tells whether s can be a path in Vault, or a pattern of such:
// slashes at its ends aside, segments that are none of "", "." and ".." and
// hold nothing but what is printed.
func isVaultPath(s string) bool {
	for segment := range strings.SplitSeq(strings.Trim(s, "/"), "/") {
		if segment == "" || segment == "." || segment == ".." || visible(segment) != segment {
			return false
		}
	}
	return true
}

// contradict reports two values that do not go together, at the one that the
// file sets.
func (d *decoder) contradict(path, other, format string, args ...any) {
	if !d.set(path) && d.set(other) {
		path = other
	}
	d.bad(path, format, args...)
}

// name checks a required name by one of Kubernetes' rules.
func (d *decoder) name(path, value, example string, rule func(string) []string) {
	if !d.require(path, value, example) || !d.sound(path) {
		return
	}
	if wrong := rule(value); len(wrong) > 0 {
		reason, _, _ := strings.Cut(wrong[0], " (e.g.") // what follows is a regular expression
		d.bad(path, "expected a name such as %s, found %s: %s", example, quote(value), reason)
	}
}

// hostPort splits HOST:PORT; the host may be empty, an IP address or a DNS name.
func hostPort(s string) (host, port string, ok bool) {
	host, port, err := net.SplitHostPort(s)
	if err != nil || !isPort(port) {
		return "", "", false
	}
	_, notIP := netip.ParseAddr(host)
	if host != "" && notIP != nil && len(validation.IsDNS1123Subdomain(strings.ToLower(host))) > 0 {
		return "", "", false
	}
	return host, port, true
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}
