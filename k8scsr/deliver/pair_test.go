package deliver

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestCheck(t *testing.T) {
	ca := newAuthority(t)
	good, other := ca.issue(t, time.Hour), ca.issue(t, time.Hour)
	certificate := func(data []byte) Pair { return Pair{data, good.Key, good.CA} }
	key := func(data []byte) Pair { return Pair{good.Certificate, NewKey(data), good.CA} }
	garbage := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("garbage")})
	for _, tc := range []struct {
		name string
		pair Pair
		err  string // "" for none
	}{
		{"good", good, ""},
		{"without CA", Pair{good.Certificate, good.Key, nil}, ""},
		{"with chain", certificate(append(bytes.Clone(good.Certificate), ca.bundle...)), ""},
		{"expired", ca.issue(t, -time.Minute), ""},
		{"another's key", Pair{good.Certificate, other.Key, good.CA}, "matching private key with leaf: tls: private key does not match public key"},
		{"leaf is not first", certificate(append(bytes.Clone(ca.bundle), good.Certificate...)), "does not match"},
		{"leaf is garbage", certificate(garbage), "parsing certificate chain: PEM block 1: x509"},
		{"chain is garbage", certificate(append(bytes.Clone(good.Certificate), garbage...)), "parsing certificate chain: PEM block 2: x509"},
		{"certificate is DER", certificate([]byte("0\x82")), "no CERTIFICATE block"},
		{"key in the certificate", certificate(append(bytes.Clone(good.Certificate), good.Key.PEM()...)), "PEM block 2 is not a CERTIFICATE"},
		{"key is garbage", key([]byte("garbage")), "matching private key with leaf"},
		{"key is missing", key(nil), "matching private key with leaf"},
		{"CA is garbage", Pair{good.Certificate, good.Key, []byte("garbage")}, "parsing CA bundle: no CERTIFICATE block"},
		{"huge certificate", certificate(bytes.Repeat([]byte("x"), 330_001)), "certificate chain has 330001 bytes, more than the 330000 allowed"},
		{"huge key", key(bytes.Repeat([]byte("x"), 13_001)), "private key has 13001 bytes, more than the 13000 allowed"},
		{"huge CA", Pair{good.Certificate, good.Key, bytes.Repeat([]byte("x"), 330_001)}, "CA bundle has 330001 bytes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := check(tc.pair)
			if tc.err == "" {
				if err != nil || got.leaf.Subject.CommonName != "vault.test" {
					t.Errorf("check = %v, %v", got, err)
				}
			} else if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("check says %v, want %q", err, tc.err)
			}
		})
	}
}

func TestKeyIsNeverShown(t *testing.T) {
	const secret = "hunter2"
	key := NewKey([]byte(secret))
	pair := Pair{Key: key}
	hidden := struct{ inner stored }{stored{Pair: pair}} // fmt asks no methods in here
	var out bytes.Buffer
	for _, v := range []any{key, &key, pair, &pair, hidden, &hidden, []Pair{pair}, map[string]Key{"k": key}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(data)
		slog.New(slog.NewTextHandler(&out, nil)).Info("m", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "v", v)
	}
	for _, form := range []string{secret, fmt.Sprintf("%x", secret), fmt.Sprint([]byte(secret)), strings.Trim(fmt.Sprint([]byte(secret)), "[]"), "aHVudGVyMg"} {
		if strings.Contains(out.String(), form) {
			t.Errorf("the key is shown as %q", form)
		}
	}
	if !strings.Contains(out.String(), "[redacted private key]") {
		t.Error("no placeholder was printed")
	}
}
