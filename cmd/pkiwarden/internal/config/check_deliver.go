package config

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// clusterPort is where Vault's nodes talk to each other, with certificates of
// their own.
const clusterPort = "8201"

func (d *decoder) checkDeliver(c *Config) {
	directories := map[string]int{}
	for i := range c.Deliver {
		e, at := &c.Deliver[i], fmt.Sprintf("deliver[%d]", i)
		if d.require(at+".certificate", e.Certificate, "vault-server") && !d.isDeclared(e.Certificate) && d.sound("certificates") {
			d.bad(at+".certificate", "no entry of certificates has the name %s%s", quote(e.Certificate), d.declaredLike(c, e.Certificate))
		}
		d.checkFrom(at, e)
		if e.Files.Directory != "" {
			if first, twice := directories[filepath.Clean(e.Files.Directory)]; twice {
				d.bad(at+".files.directory", "deliver[%d] writes to %s already", first, e.Files.Directory)
			}
			directories[filepath.Clean(e.Files.Directory)] = i
		}
		d.checkReload(at+".reload", &e.Reload)
		for j, l := range e.Verify {
			d.checkListener(fmt.Sprintf("%s.verify[%d]", at, j), l)
		}
	}
}

func (d *decoder) isDeclared(certificate string) bool {
	_, ok := d.names[certificate]
	return ok
}

// declaredLike is the hint at the certificate that was probably meant. It is
// looked for among all of them, so only while somebody will read it.
func (d *decoder) declaredLike(c *Config, certificate string) string {
	if d.found >= maxShown {
		return ""
	}
	names := make([]string, len(c.Certificates))
	for i := range c.Certificates {
		names[i] = c.Certificates[i].name
	}
	if meant := Closest(certificate, names); meant != "" {
		return fmt.Sprintf("; did you mean %q?", meant)
	}
	return ""
}

var ownerForm = regexp.MustCompile(`^[0-9]{1,10}(:[0-9]{1,10})?$`)

func (d *decoder) checkFrom(at string, e *Deliver) {
	from, files := at+".from", at+".files"
	if e.From.Mounted != "" {
		if e.From.API && d.set(from+".api") {
			d.bad(from, "expected either api or mounted, found both")
		}
		e.From.API = false
		d.absolute(from+".mounted", e.From.Mounted)
		if d.set(files) {
			d.bad(files, "a mounted Secret is used where it is; leave files out, or use from: {api: true}")
		}
		return
	}
	if !e.From.API && d.sound(from) {
		d.bad(from, "expected api: true or mounted, found neither")
	}
	if d.require(files+".directory", e.Files.Directory, "/vault/tls") {
		d.absolute(files+".directory", e.Files.Directory)
	}
	if e.Files.Mode&0o400 == 0 {
		d.bad(files+".mode", "the owner has to be able to read the files, found %04o", e.Files.Mode)
	}
	if e.Files.Mode&0o007 != 0 {
		d.bad(files+".mode", "%04o lets everyone at the private key; 0600 and 0640 do not", e.Files.Mode)
	}
	if e.Files.Owner != "" && !ownerForm.MatchString(e.Files.Owner) && d.sound(files+".owner") {
		d.bad(files+".owner", "expected UID or UID:GID as numbers, such as \"100:1000\", found %s", quote(e.Files.Owner))
	}
}

func (d *decoder) checkReload(at string, r *Reload) {
	var kinds []string
	for _, kind := range []struct {
		name string
		on   bool
	}{{"signal", r.Signal != ""}, {"consul", r.Consul}, {"command", len(r.Command) > 0}, {"none", r.None}} {
		if kind.on {
			kinds = append(kinds, kind.name)
		}
	}
	if len(kinds) > 1 {
		d.bad(at, "expected one of signal, consul, command or none, found %s", strings.Join(kinds, " and "))
	}
	if r.Signal == "" && r.Process != "" && d.sound(at) {
		d.bad(at+".process", "process goes with signal; did you leave out signal: HUP?")
	}
	if r.Signal != "" && r.Process == "" {
		r.Process = "vault"
	}
}

func (d *decoder) checkListener(at string, l Listener) {
	if !d.require(at+".address", l.Address, "127.0.0.1:8200") || !d.sound(at+".address") {
		return
	}
	host, port, ok := hostPort(l.Address)
	switch {
	case !ok || host == "":
		d.bad(at+".address", "expected HOST:PORT, found %s", quote(l.Address))
	case port == clusterPort:
		d.bad(at+".address", "%s is Vault's cluster port, which never shows this certificate; verify the API port, 8200", l.Address)
	}
	if l.ServerName != "" && len(validation.IsDNS1123Subdomain(strings.ToLower(l.ServerName))) > 0 {
		d.bad(at+".serverName", "expected a DNS name such as vault-active.vault.svc, found %s", quote(l.ServerName))
	}
}

func (d *decoder) absolute(at, path string) {
	if path != "" && !filepath.IsAbs(path) && d.sound(at) {
		d.bad(at, "expected an absolute path, found %s", quote(path))
	}
}
