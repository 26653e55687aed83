package vaultpki

import (
	"context"
	"fmt"
	"strings"

	"github.com/pkiwarden/pkiwarden/pki"
)

// Revoked calls each with the serial number of every revocation that a mount
// keeps, as the answer arrives; an error of each ends it. It is what Vault puts
// on its lists, apart from revoked issuers. An answer that is cut short, or
// longer than 64 MiB, is an error, and so is a Vault before 1.13, which has no
// such list. It costs the capability "list" on MOUNT/certs/revoked, and Vault
// in proportion to the number of revocations.
func (v *Vault) Revoked(ctx context.Context, m pki.Mount, each func(serial string) error) error {
	r := request{method: "LIST", path: m.Path + "/certs/revoked", namespace: m.Namespace, slow: true}
	ctx, cancel := v.deadline(ctx, r)
	defer cancel()
	err := v.listCertificates(ctx, r, each)
	switch {
	case err == nil:
		return nil
	case !notFound(err), strings.Contains(err.Error(), noMount):
		return fmt.Errorf("listing revocations of mount %s: %w", m.Name(), err)
	case strings.Contains(err.Error(), noPath):
		return fmt.Errorf("listing revocations of mount %s: this Vault has no such list, which came with 1.13: %w", m.Name(), err)
	}
	return nil // an empty list is a 404 without words
}

// noPath is how Vault says that a mount has nothing at a path, with the status
// that an empty list has (sdk/framework/backend.go).
const noPath = "unsupported path"
