package pki

import "fmt"

// How many leases are worth a warning, and how many are an emergency: the quota
// that new clusters of Vault Enterprise begin with. Vault itself logs a warning
// above 256,000 (vault/expiration.go, maxLeaseThreshold).
const (
	manyLeases    = 100_000
	tooManyLeases = 300_000
)

// VaultFindings are the verdicts on what all mounts share. Leases that were not
// counted are none of them: reading them takes a right that is optional.
func VaultFindings(l *Leases) []Finding {
	if l == nil {
		return nil
	}
	var found []Finding
	if l.Total >= manyLeases {
		f := Finding{
			Rule:     "vault-lease-backlog",
			Severity: Warning,
			Subject:  "Vault",
			Summary:  "Vault holds a backlog of leases; when they expire together it revokes them together.",
			Evidence: fmt.Sprintf("%d leases (vault.expire.num_leases); a warning from %d on, critical from %d on", l.Total, manyLeases, tooManyLeases),
			Remedy:   "find who makes them (vault list sys/leases/lookup/PATH, or sys/internal/counters/tokens), shorten their TTLs, use batch tokens, and give roles of the PKI generate_lease=false",
			Citation: "HashiCorp support, article 48263792242579: new clusters of Vault Enterprise since 1.16.0 have a quota of 300000 leases; Vault vault/expiration.go, maxLeaseThreshold = 256000",
		}
		if l.Total >= tooManyLeases {
			f.Severity = Critical
		}
		found = append(found, f)
	}
	if l.Irrevocable > 0 {
		found = append(found, Finding{
			Rule:     "vault-irrevocable-leases",
			Severity: Warning,
			Subject:  "Vault",
			Summary:  "Vault gave up revoking leases: what they gave out is still valid.",
			Evidence: fmt.Sprintf("%d leases of %d (vault.expire.num_irrevocable_leases)", l.Irrevocable, l.Total),
			Remedy:   "read the reasons with vault read sys/leases type=irrevocable, remove the cause, then vault lease revoke -force -prefix PATH",
			Citation: "Vault vault/expiration.go: a lease is irrevocable after six attempts to revoke it",
		})
	}
	return found
}
