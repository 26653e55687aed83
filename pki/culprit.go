package pki

import (
	"fmt"
	"regexp"
	"strings"
)

// Culprit is the stored entry that an error of Vault's tidy names.
type Culprit struct {
	Serial  string // as requests name it: octets with colons
	Store   string // "certs" or "revoked": which of the mount's stores holds it
	Content bool   // the entry itself cannot be read, so that every run ends there; else storage failed
}

// Key is the entry's key in the mount's storage.
func (c Culprit) Key() string { return c.Store + "/" + strings.ReplaceAll(c.Serial, ":", "-") }

// FindCulprit reads which entry an error of Vault's tidy is about, false where
// it names none.
func FindCulprit(vaultError string) (Culprit, bool) {
	for _, form := range culpritForms {
		if m := form.text.FindStringSubmatch(vaultError); m != nil {
			serial := strings.ToLower(strings.ReplaceAll(m[1], "-", ":"))
			return Culprit{Serial: serial, Store: form.store, Content: form.content}, true
		}
	}
	return Culprit{}, false
}

// culpritForm is one way in which an error names an entry.
type culpritForm struct {
	text    *regexp.Regexp
	store   string
	content bool
}

// culpritForms are the errors of doTidyCertStore and doTidyRevocationStore
// (builtin/logical/pki/path_tidy.go), word for word the same in Vault 1.13.0,
// 1.17.6 and 1.21.1. Serial numbers are keys of the storage: octets with
// hyphens, or with colons where a very old version wrote them.
var culpritForms = func() []culpritForm {
	form := func(before, after, store string, content bool) culpritForm {
		return culpritForm{regexp.MustCompile(before + ` "?([0-9A-Fa-f]{2}(?:[-:][0-9A-Fa-f]{2})*)"?` + after), store, content}
	}
	return []culpritForm{
		form("unable to parse stored revoked certificate with serial", "", "revoked", true),
		form("error decoding revocation entry for serial", "", "revoked", true),
		form("unable to parse stored certificate with serial", "", "certs", true),
		form("unable to fetch revoked cert with serial", "", "revoked", false),
		form("error deleting nil revoked entry with serial", "", "revoked", false),
		form("error deleting revoked entry with nil value with serial", "", "revoked", false),
		form("error (?:building entry to persist|persisting) changes to serial", "", "revoked", false),
		form("error deleting serial", " from revoked list", "revoked", false),
		form("error fetching certificate", "", "certs", false),
		form("error deleting (?:nil entry|entry with nil value) with serial", "", "certs", false),
		form("error deleting serial", " from (?:storage|store when tidying revoked)", "certs", false),
	}
}()

// remedy is what to do about an entry of mount m.
func (c Culprit) remedy(m Mount) string {
	if !c.Content {
		return fmt.Sprintf("see why Vault's storage fails at the entry %s of the mount, and run again", c.Key())
	}
	read := fmt.Sprintf("vault read -field=certificate %s/cert/%s", m.Path, c.Serial)
	if c.Store == "revoked" {
		read = "vault list " + m.Path + "/certs/revoked"
	}
	raw := "sys/raw/logical/" + m.UUID + "/" + c.Key()
	if m.UUID == "" {
		raw = "sys/raw/logical/UUID/" + c.Key() + " with the mount's uuid of sys/mounts"
	}
	return fmt.Sprintf("see it with %s; take a snapshot of the storage, then have an administrator read, repair or delete %s (raw_storage_endpoint, sudo)", read, raw)
}
