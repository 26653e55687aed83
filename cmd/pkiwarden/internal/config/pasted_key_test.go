package config

import (
	"strings"
	"testing"
)

// TestPastedKeyIsNotSaid: somebody puts the CA's key where the name of its entry
// belongs. The message names the place, and nothing of the key.
func TestPastedKeyIsNotSaid(t *testing.T) {
	const secret = "VGhpcyB0ZXh0IG9ubHkgc3RhbmRzIHdoZXJlIGEga2V5IHdvdWxkIGJlLg==" // it says in base64 that it is none
	for _, where := range []string{"name", "certificate", "key"} {
		text := "signers:\n  - name: pkiwarden.io/consul\n    maxLifetime: 720h\n    allow: {dnsNames: [a.example]}\n" +
			"    caSecret:\n      namespace: pkiwarden\n"
		for _, entry := range []string{"name", "certificate", "key"} {
			value := " consul-ca"
			if entry == where {
				value = " |\n        -----BEGIN EC PRIVATE KEY-----\n        " + secret + "\n        -----END EC PRIVATE KEY-----"
			}
			text += "      " + entry + ":" + value + "\n"
		}
		_, err := Parse("x.yml", []byte(text), noEnv)
		if err == nil || !strings.Contains(err.Error(), "caSecret."+where) || strings.Contains(err.Error(), secret[:6]) || !strings.Contains(err.Error(), "[private key]") {
			t.Errorf("%s: %v", where, err)
		}
	}
}

// TestPastedSecretIsNotSaid: so it is with what has no armour around it.
func TestPastedSecretIsNotSaid(t *testing.T) {
	for secret, said := range map[string]bool{
		"VGhpcyB0ZXh0IG9ubHkgc3RhbmRzIHdoZXJlIGEga2V5IHdvdWxkIGJlLg==": false,
		"hvs.CAESmadeUpForThisTest":                                    false,
		"11111111-2222-3333-4444-abcdefabcdef":                         false,
		"vault_server_with_a_name_that_is_rather_long_for_a_name":      true,
		"Vault1.example.com":                                           true,
	} {
		_, err := Parse("x.yml", []byte("certificates:\n- {name: a, secret: {namespace: vault, name: \""+secret+"_\"}, dnsNames: [a.example]}\n"), noEnv)
		if err == nil || !strings.Contains(err.Error(), "certificates[0].secret.name") || strings.Contains(err.Error(), secret[:8]) != said {
			t.Errorf("%s: %v", secret, err)
		}
	}
}

// TestPastedSecretIsNoKey: nor where it stands in the place of a key, or is taken
// for a tag.
func TestPastedSecretIsNoKey(t *testing.T) {
	const secret = "VGhpcyB0ZXh0IG9ubHkgc3RhbmRzIHdoZXJlIGEga2V5IHdvdWxkIGJlLg"
	for _, text := range []string{"vault:\n  " + secret + ": x\n", "vault: {address: !" + secret + " x}\n", "vault:\n  " + secret + ": x\n  " + secret + ": y\n"} {
		_, err := Parse("x.yml", []byte(text), noEnv)
		if err == nil || strings.Contains(err.Error(), secret[:8]) || !strings.Contains(err.Error(), "x.yml:") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
