package k8scsr

import (
	"strings"
	"testing"
	"time"
)

// TestSignerRules: what the known signers do not give is refused with the
// reason and the alternative, and nothing else is.
func TestSignerRules(t *testing.T) {
	const good = ""
	cases := []struct {
		name, signer string
		edit         func(*Spec)
		want         string
	}{
		{"nodes", KubeletServing, func(*Spec) {}, good},
		{"nodes, the shorter usages", KubeletServing, usagesOf("server auth", "digital signature"), good},
		{"nodes, client", KubeletServing, usagesOf("digital signature", "server auth", "client auth"),
			`signer kubernetes.io/kubelet-serving does not give ["client auth"]: it signs for servers only; use another signer for these usages, for example one of your own`},
		{"nodes, other usages", KubeletServing, usagesOf("digital signature", "server auth", "key agreement"),
			`does not give ["key agreement"], only ["digital signature" "server auth"] with or without ["key encipherment"]: leave them out, or use another signer`},
		{"nodes, a usage less", KubeletServing, usagesOf("server auth"), `requires the usages ["digital signature" "server auth"], and ["server auth"] lacks ["digital signature"]: add them`},
		{"nodes, URI", KubeletServing, func(s *Spec) { s.URIs = []string{"spiffe://a/b"} }, `signs no URIs: use another signer, or leave uris out`},
		{"nodes, only a URI", KubeletServing, func(s *Spec) { s.URIs, s.DNSNames = []string{"spiffe://a/b"}, nil }, `wants at least one DNS name or IP address`},
		{"nodes, subject", KubeletServing, func(s *Spec) { s.CommonName = "vault" },
			`signs only common names that begin with "system:node:" in the organization "system:nodes", not "vault" in []: leave the subject empty, or use another signer`},
		{"nodes, organization", KubeletServing, func(s *Spec) { s.CommonName, s.Organizations = "system:node:a", []string{"system:masters"} },
			`not "system:node:a" in ["system:masters"]`},
		{"nodes, two organizations", KubeletServing, func(s *Spec) { s.CommonName, s.Organizations = "system:node:a", []string{"ops", "system:nodes"} },
			`not "system:node:a" in ["ops" "system:nodes"]`},
		{"nodes, ten years", KubeletServing, func(s *Spec) { s.Lifetime = 87600 * time.Hour }, good}, // the cluster's setting decides

		{"EKS", EKSAppServing, func(*Spec) {}, good},
		{"EKS, any subject", EKSAppServing, func(s *Spec) { s.CommonName, s.Organizations = "vault.example", []string{"ops"} }, good},
		{"EKS, one usage", EKSAppServing, usagesOf("server auth"), good},
		{"EKS, client", EKSAppServing, usagesOf("server auth", "client auth"), `signer beta.eks.amazonaws.com/app-serving does not give ["client auth"]: it signs for servers only; use another signer`},
		{"EKS, longer than a year", EKSAppServing, func(s *Spec) { s.Lifetime = 8761 * time.Hour },
			`grants 8760h0m0s at most, not the lifetime of 8761h0m0s: ask for less, or use another signer`},

		{"anybody's", "ca.example/any", func(s *Spec) { s.CommonName, s.URIs, s.Lifetime = "x", []string{"spiffe://a/b"}, 87600*time.Hour }, good},
		{"anybody's, client", "ca.example/any", usagesOf("server auth", "client auth"), good},
		{"client certificates", "kubernetes.io/kube-apiserver-client", usagesOf("client auth"), `does not exist or does not sign serving certificates`},
		{"no path", "ca.example", func(*Spec) {}, `is not of the form domain.example/name`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := Spec{Name: "vault", Signer: c.signer, DNSNames: []string{"vault.vault.svc"}}
			c.edit(&s)
			err := s.WithDefaults().Validate()
			switch {
			case c.want == good && err != nil:
				t.Error(err)
			case c.want != good && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), `certificate "vault": `)):
				t.Errorf("%v\nlacks %s", err, c.want)
			}
		})
	}
}

func usagesOf(usages ...string) func(*Spec) { return func(s *Spec) { s.Usages = usages } }

func TestSubjectOfNodes(t *testing.T) {
	for signer, want := range map[string]string{KubeletServing: "system:node:vault", EKSAppServing: "system:node:vault", "ca.example/any": ""} {
		s := Spec{Name: "vault", Signer: signer}.WithDefaults()
		if s.CommonName != want || (len(s.Organizations) == 1) != (want != "") {
			t.Errorf("%s: %q in %q", signer, s.CommonName, s.Organizations)
		}
	}
}
