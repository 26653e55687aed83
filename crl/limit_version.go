package crl

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// writesTransactions tells whether this version of Vault writes to Consul
// through transactions: since 1.14.5 and 1.15.1 (GH-23013). Of a pre-release
// of just these two it is not known.
func writesTransactions(version string) (bool, error) {
	if version == "" {
		return true, nil
	}
	v, err := parseVersion(version)
	if err != nil {
		return false, err
	}
	since := [3]int{1, 14, 5}
	if v.numbers[0] == 1 && v.numbers[1] == 15 {
		since = [3]int{1, 15, 1}
	}
	if v.numbers == since && v.preRelease {
		return false, fmt.Errorf("version %q of Vault is a pre-release of the one that began to write through transactions: how it writes is not known", version)
	}
	return v.atLeast(since), nil
}

// countsEntries tells whether this version of Vault knows max_crl_entries:
// since 1.19.0 (GH-28654). One that cannot be read is taken to know it, for
// somebody has read the setting from it.
func countsEntries(version string) bool {
	v, err := parseVersion(version)
	return err != nil || v.atLeast([3]int{1, 19, 0})
}

// showsMaxEntrySize tells whether this version of Vault shows raft's
// max_entry_size in sys/config/state/sanitized: since 1.11.10, 1.12.6 and
// 1.13.2 (GH-20044).
func showsMaxEntrySize(version string) (bool, error) {
	if version == "" {
		return true, nil
	}
	v, err := parseVersion(version)
	if err != nil {
		return false, err
	}
	since := [3]int{1, 11, 10}
	switch {
	case v.numbers[0] == 1 && v.numbers[1] == 12:
		since = [3]int{1, 12, 6}
	case v.numbers[0] == 1 && v.numbers[1] == 13:
		since = [3]int{1, 13, 2}
	}
	return v.atLeast(since), nil
}

type vaultVersion struct {
	numbers    [3]int
	preRelease bool
}

func (v vaultVersion) atLeast(since [3]int) bool {
	return slices.Compare(v.numbers[:], since[:]) >= 0
}

// parseVersion reads versions as Vault reports them: 1.21.4, v1.15.0-rc1,
// 1.14.5+ent.hsm. What follows + does not take part in the order.
func parseVersion(version string) (vaultVersion, error) {
	numbers, _, _ := strings.Cut(strings.TrimPrefix(version, "v"), "+")
	numbers, _, preRelease := strings.Cut(numbers, "-")
	v := vaultVersion{preRelease: preRelease}
	parts := strings.Split(numbers, ".")
	if len(parts) != len(v.numbers) {
		return v, fmt.Errorf("version %q of Vault is not of the form 1.21.4", version)
	}
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 10, 31)
		if err != nil {
			return v, fmt.Errorf("version %q of Vault is not of the form 1.21.4", version)
		}
		v.numbers[i] = int(n)
	}
	return v, nil
}
