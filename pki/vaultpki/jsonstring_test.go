package vaultpki

import (
	"encoding/json"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestFindString(t *testing.T) {
	tests := []struct {
		name, json, want string
		err              string // of finding or reading
	}{
		{"first", `{"data":{"crl":"abc"}}`, "abc", ""},
		{"after others", ` { "request_id" : "x\"}{" , "auth":null, "n":-1.5e3, "l":[1,{"data":{"crl":"no"}},"]"], "data" : {"ca_chain":[],"o":{"crl":"no"}, "crl" : "abc" , "z":1} }`, "abc", ""},
		{"escapes", `{"data":{"crl":"a\n\r\t\b\f\/\\\"\u0041\u00e9\u20ac\ud83d\ude00é€z"}}`, "a\n\r\t\b\f/\\\"Aé€😀é€z", ""},
		{"lone surrogate", `{"data":{"crl":"a\ud83dz"}}`, "a\ufffdz", ""},
		{"empty", `{"data":{"crl":""}}`, "", ""},
		{"not there", `{"data":{"certificate":"x"}}`, "", "finding crl in the JSON answer: no such key"},
		{"no data", `{"errors":[]}`, "", "finding data in the JSON answer: no such key"},
		{"null", `{"data":{"crl":null}}`, "", "it is not a string"},
		{"data null", `{"data":null}`, "", "no object"},
		{"cut in the string", `{"data":{"crl":"abc`, "abc", "unexpected EOF"},
		{"cut in an escape", `{"data":{"crl":"abc\u00`, "abc", "unexpected EOF"},
		{"cut before", `{"data":{"c`, "", "unexpected EOF"},
		{"cut at once", ``, "", "unexpected EOF"},
		{"wrong escape", `{"data":{"crl":"ab\x"}}`, "ab", `unknown escape \x`},
		{"raw line", "{\"data\":{\"crl\":\"ab\nc\"}}", "ab\nc", ""},
		{"array", `[1]`, "", "no object"},
		{"key is no string", `{1:2}`, "", "where a key is expected"},
		{"long before", `{"a":"` + strings.Repeat("x", 2<<20) + `","data":{"crl":"abc"}}`, "", "unexpected EOF"},
		{"long", `{"data":{"crl":"` + strings.Repeat("x\\n", 1<<20) + `"}}`, strings.Repeat("x\n", 1<<20), ""},
	}
	for _, tt := range tests {
		for _, wrap := range []func(io.Reader) io.Reader{func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.DataErrReader} {
			if len(tt.json) > 1<<20 && testing.Short() {
				continue
			}
			t.Run(tt.name, func(t *testing.T) {
				r, err := findString(wrap(strings.NewReader(tt.json)), "data", "crl")
				var got []byte
				if err == nil {
					got, err = io.ReadAll(r)
				}
				if string(got) != tt.want {
					t.Errorf("read %.60q, want %.60q", got, tt.want)
				}
				if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
					t.Errorf("error %v, want %q", err, tt.err)
				}
			})
		}
	}
}

// What encoding/json accepts is read alike.
func FuzzFindString(f *testing.F) {
	for _, seed := range []string{
		`{"data":{"crl":"a\nb"}}`, `{"x":[{"y":"\""}],"data":{"z":{},"crl":"\ud83d\ude00"}}`, `{"data":{"crl":"é"}}`, `{"data":{}}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := findString(strings.NewReader(text), "data", "crl")
		var got []byte
		if err == nil {
			got, err = io.ReadAll(r)
		}
		var want struct {
			Data *struct {
				CRL *string `json:"crl"`
			} `json:"data"`
		}
		if json.Unmarshal([]byte(text), &want) != nil || want.Data == nil || want.Data.CRL == nil {
			return // may be read or not: what follows the string is not looked at
		}
		lower := strings.ToLower(text)
		if strings.Count(lower, "data") != 1 || strings.Count(lower, "crl") != 1 || !strings.Contains(text, `"data"`) || !strings.Contains(text, `"crl"`) {
			return // encoding/json takes the last of equal keys, and keys of other case
		}
		if err != nil || strings.ToValidUTF8(string(got), "\ufffd") != strings.ToValidUTF8(*want.Data.CRL, "\ufffd") && strings.ToValidUTF8(text, "") == text {
			t.Errorf("read %q, %v, want %q", got, err, *want.Data.CRL)
		}
	})
}

func BenchmarkFindString(b *testing.B) {
	line := strings.Repeat("A", 64) + `\n`
	text := `{"request_id":"x","data":{"crl":"` + strings.Repeat(line, 1<<14) + `"}}`
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		r, err := findString(strings.NewReader(text), "data", "crl")
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			b.Fatal(err)
		}
	}
}
