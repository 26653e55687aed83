package config

import (
	"fmt"
	"iter"
)

// Certificates are a list of certificates in little space: most differ in their
// names alone, and what they have in common is there once.
type Certificates []packed

// packed is a Certificate: common, and in it what is its own.
type packed struct {
	common                   *Certificate
	name, secret, commonName string
	dnsNames                 []string
}

// NewCertificates packs a list.
func NewCertificates(list []Certificate) Certificates {
	p, out := newPool(), Certificates(nil)
	for _, c := range list {
		out = append(out, p.pack(c))
	}
	return out
}

// At is the certificate with that index. What it points at belongs to others,
// too, and is not to be changed.
func (l Certificates) At(i int) Certificate {
	p := &l[i]
	c := *p.common
	c.Name, c.Secret.Name, c.Subject.CommonName, c.DNSNames = p.name, p.secret, p.commonName, p.dnsNames
	return c
}

// All are the certificates in their order, each with its index.
func (l Certificates) All() iter.Seq2[int, Certificate] {
	return func(yield func(int, Certificate) bool) {
		for i := range l {
			if !yield(i, l.At(i)) {
				return
			}
		}
	}
}

// pack takes the certificate apart. Lists and pointers are compared by what they
// print: who shares them already has the same.
func (p *pool) pack(c Certificate) packed {
	out := packed{name: c.Name, secret: c.Secret.Name, commonName: c.Subject.CommonName, dnsNames: c.DNSNames}
	c.Name, c.Secret.Name, c.Subject.CommonName, c.DNSNames = "", "", "", nil
	out.common = pooled(p.common, fmt.Sprintf("%#v", c), &c)
	return out
}
