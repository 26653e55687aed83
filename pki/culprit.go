package pki

import (
	"fmt"
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
		_, rest, found := strings.Cut(vaultError, form.before+" ")
		if !found {
			continue
		}
		key, after := serialKey(strings.TrimPrefix(rest, `"`))
		if key != "" && strings.HasPrefix(strings.TrimPrefix(after, `"`), form.after) {
			return Culprit{Serial: strings.ToLower(strings.ReplaceAll(key, "-", ":")), Store: form.store, Content: form.content}, true
		}
	}
	return Culprit{}, false
}

// serialKey is the serial number that text begins with, and what follows it; ""
// without one.
func serialKey(text string) (key, rest string) {
	end := strings.IndexFunc(text, func(r rune) bool { return !strings.ContainsRune("0123456789abcdefABCDEF-:", r) })
	if end < 0 {
		end = len(text)
	}
	// An error goes on after its serial number with a colon.
	key = strings.TrimSuffix(text[:end], ":")
	for octet := range strings.FieldsFuncSeq(key, func(r rune) bool { return r == '-' || r == ':' }) {
		if len(octet) != 2 {
			return "", text
		}
	}
	return key, text[len(key):]
}

// culpritForm is one way in which an error names an entry.
type culpritForm struct {
	before, after string // around the serial number
	store         string
	content       bool
}

// culpritForms are the errors of doTidyCertStore and doTidyRevocationStore
// (builtin/logical/pki/path_tidy.go), word for word the same in Vault 1.13.0,
// 1.17.6 and 1.21.1. Serial numbers are keys of the storage: octets with
// hyphens, or with colons where a very old version wrote them.
var culpritForms = []culpritForm{
	{"unable to parse stored revoked certificate with serial", "", "revoked", true},
	{"error decoding revocation entry for serial", "", "revoked", true},
	{"unable to parse stored certificate with serial", "", "certs", true},
	{"unable to fetch revoked cert with serial", "", "revoked", false},
	{"error deleting nil revoked entry with serial", "", "revoked", false},
	{"error deleting revoked entry with nil value with serial", "", "revoked", false},
	{"error building entry to persist changes to serial", "", "revoked", false},
	{"error persisting changes to serial", "", "revoked", false},
	{"error deleting serial", " from revoked list", "revoked", false},
	{"error fetching certificate", "", "certs", false},
	{"error deleting nil entry with serial", "", "certs", false},
	{"error deleting entry with nil value with serial", "", "certs", false},
	{"error deleting serial", " from storage", "certs", false},
	{"error deleting serial", " from store when tidying revoked", "certs", false},
}

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
	remedy := fmt.Sprintf("see it with %s; take a snapshot of the storage, then have an administrator read, repair or delete %s (raw_storage_endpoint, sudo)", read, raw)
	if c.Store == "certs" {
		remedy += "; until then tidy.certStore: false lets runs come to the revocations, which they look at after the certificates"
	}
	return remedy
}
