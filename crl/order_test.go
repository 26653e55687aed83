package crl

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"encoding/hex"
	"math/big"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// orderOf computes the order in another way: from numbers, and from strings as
// Vault's storage sorts them. Negative numbers stand for their contents.
func orderOf(serials []*big.Int) Order {
	key := func(n *big.Int) string {
		if n.Sign() >= 0 {
			return hex.EncodeToString(n.Bytes()) // "" for zero
		}
		size := uint(1)
		for n.Cmp(new(big.Int).Neg(new(big.Int).Lsh(big.NewInt(1), 8*size-1))) < 0 {
			size++
		}
		return hex.EncodeToString(new(big.Int).Add(n, new(big.Int).Lsh(big.NewInt(1), 8*size)).Bytes())
	}
	text := func(n *big.Int) string {
		if n.Sign() == 0 {
			return "00"
		}
		return key(n)
	}
	o := Order{Sorted: true, Numeric: true}
	if len(serials) > 0 {
		o.Runs = 1
	}
	for i := 1; i < len(serials); i++ {
		if strings.Compare(text(serials[i-1]), text(serials[i])) > 0 {
			o.Runs++
			o.Sorted = false
		}
		switch serials[i-1].Cmp(serials[i]) {
		case 1:
			o.Numeric = false
		case 0:
			o.Duplicates++
		}
	}
	return o
}

func TestOrder(t *testing.T) {
	n := func(digits ...string) (serials []*big.Int) {
		for _, d := range digits {
			i, ok := new(big.Int).SetString(d, 16)
			if !ok {
				t.Fatal(d)
			}
			serials = append(serials, i)
		}
		return serials
	}
	const long = "4123456789abcdef0123456789abcdef01234567"
	for _, c := range []struct {
		name    string
		serials []*big.Int
		want    Order
	}{
		{"none", nil, Order{Sorted: true, Numeric: true}},
		{"one", n(long), Order{true, true, 1, 0}},
		{"rising", n("1", "2", "7f", "80", "ff"), Order{true, true, 1, 0}},
		{"short prefix first", n(long, long+"00"), Order{true, true, 1, 0}},
		{"short prefix last", n(long+"00", long), Order{false, false, 2, 0}},
		{"by octets alone", n("0102", "02"), Order{true, false, 1, 0}},
		{"by number alone", n("02", "0102"), Order{false, true, 2, 0}},
		{"sign octet, by octets", n("7fffffffffffffffff", "80"), Order{true, false, 1, 0}},
		{"sign octet ahead", n("85ffffffffffffffff", "4200000000000000000001"), Order{false, true, 2, 0}},
		{"same length, sign octet", n("85ffffffffffffffffff", "4200000000000000000001"), Order{false, true, 2, 0}},
		{"two sign octets", n("85ffffffffffffffff", "84ffffffffffffffff"), Order{false, false, 2, 0}},
		{"differ in the ninth octet", n("01020304050607080a", "01020304050607080b", "01020304050607080a"), Order{false, false, 2, 0}},
		{"differ in the last octet", n(long, long[:39]+"8"), Order{true, true, 1, 0}},
		{"equal", n(long, long, long), Order{true, true, 1, 2}},
		{"equal short", n("5", "5", "6"), Order{true, true, 1, 1}},
		{"equal, not neighbours", n("5", "6", "5"), Order{false, false, 2, 0}},
		{"two runs", n("10", "20", "30", "10", "20"), Order{false, false, 2, 0}},
		{"falling", n("3", "2", "1"), Order{false, false, 3, 0}},
		{"negative", n("-5", "-4", "0", "1"), Order{false, true, 2, 0}},
		{"negative, longer", n("-1", "-ffff"), Order{true, false, 1, 0}},
		{"80 twice, once negative", n("-80", "80"), Order{true, true, 1, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := orderOf(c.serials); got != c.want {
				t.Fatalf("computed in the other way: %+v, want %+v", got, c.want)
			}
			if got := scanSerials(t, c.serials, 0); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}

// scanSerials scans a list with these numbers. Each entry at an index that
// unusual divides has extensions that only the slow path reads.
func scanSerials(t *testing.T, serials []*big.Int, unusual int) Order {
	t.Helper()
	a := p256(t)
	template := listOf(0)
	for i, serial := range serials {
		e := x509.RevocationListEntry{SerialNumber: serial, RevocationTime: time.Unix(1.7e9, 0).UTC()}
		if unusual > 0 && i%unusual == 0 {
			e.RevocationTime = time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC)
		}
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, e)
	}
	s, err := Scan(bytes.NewReader(a.sign(t, template)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s.Order
}

// TestOrderOfMany compares long lists, over several windows and in both paths,
// with the other way to compute it.
func TestOrderOfMany(t *testing.T) {
	t.Parallel()
	random := mathrand.New(mathrand.NewPCG(1, 2))
	for name, size := range map[string]func() int{
		"20 octets":   func() int { return 20 },
		"18 to 20":    func() int { return 18 + random.IntN(3) },
		"1 to 10":     func() int { return 1 + random.IntN(10) },
		"8 octets":    func() int { return 8 },
		"long prefix": func() int { return -12 },
	} {
		var serials []*big.Int
		for range 3000 {
			octets := make([]byte, max(size(), -size()))
			for i := range octets {
				octets[i] = byte(random.Uint32())
				if size() < 0 && i < 11 {
					octets[i] = 7
				}
			}
			if octets[0] < 4 {
				octets[0] = 0
			}
			serials = append(serials, new(big.Int).SetBytes(octets))
			if random.IntN(100) == 0 {
				serials = append(serials, serials[len(serials)-1])
			}
		}
		byOctets := slices.Clone(serials)
		slices.SortFunc(byOctets, func(a, b *big.Int) int { return bytes.Compare(a.Bytes(), b.Bytes()) })
		byNumber := slices.SortedFunc(slices.Values(serials), func(a, b *big.Int) int { return a.Cmp(b) })
		runs := slices.Concat(byOctets[:1000], byOctets[500:1500], byOctets[:10])
		for order, list := range map[string][]*big.Int{"any": serials, "by octets": byOctets, "by number": byNumber, "in runs": runs} {
			want := orderOf(list)
			if order == "by octets" && !want.Sorted || order == "by number" && !want.Numeric || order == "in runs" && want.Runs != 3 {
				t.Fatalf("%s, %s: %+v", name, order, want)
			}
			for _, unusual := range []int{0, 1, 7, 300} {
				if got := scanSerials(t, list, unusual); got != want {
					t.Errorf("%s, %s, every %d. unusual: %+v, want %+v", name, order, cmp.Or(unusual, len(list)), got, want)
				}
			}
		}
	}
}
