// Package state keeps small records that survive restarts: tidy records,
// histories, budgets. Every store has the same two operations:
//
//	Get(ctx, key) (data, version, err)        // nil, "" when the key is absent
//	Put(ctx, key, data, version) (newVersion, err)
//
// Put replaces a record only if it still has the version that the caller read;
// version "" creates it and demands that it is absent. Otherwise it fails with
// an error that wraps pki.ErrConflict, and nothing was written. When Put fails
// in another way, the record may have been written all the same: read again.
//
// A record has at most [MaxBytes] bytes and at least one. One that is there but
// not as this package wrote it is an error that names it; it is never taken for
// absent, and never replaced.
package state

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// MaxBytes is the largest record. A ConfigMap could hold 1 MiB, but lives in
// etcd, of which everybody has a share.
const MaxBytes = 64 << 10

// Store is a compare-and-swap store; see the package's comment.
type Store interface {
	Get(ctx context.Context, key string) (data []byte, version string, err error)
	Put(ctx context.Context, key string, data []byte, version string) (newVersion string, err error)
}

func checkRecord(key string, data []byte) error {
	switch {
	case key == "":
		return errors.New("writing state: the key is empty")
	case len(data) == 0:
		return fmt.Errorf("writing state %s: the record is empty", key)
	case len(data) > MaxBytes:
		return fmt.Errorf("writing state %s: the record has %d bytes, more than the %d that are allowed", key, len(data), MaxBytes)
	}
	return nil
}

// maxName leaves room for the ConfigMap's prefix below Kubernetes' 253.
const maxName = 200

// safeName maps a key to a name of lower-case letters, digits and single
// hyphens, which is a DNS label's alphabet. A key that is not such a name
// already gets a part of its hash at the end, so that two keys share no name.
func safeName(key string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(key) {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' {
			b.WriteRune(r)
		} else if s := b.String(); s != "" && !strings.HasSuffix(s, "-") {
			b.WriteByte('-')
		}
	}
	name := strings.Trim(b.String(), "-")
	if name == key && len(name) <= maxName {
		return name
	}
	sum := sha256.Sum256([]byte(key))
	hash := hex.EncodeToString(sum[:8])
	name = strings.Trim(name[:min(len(name), maxName-len(hash)-1)], "-")
	if name == "" {
		return hash
	}
	return name + "-" + hash
}
