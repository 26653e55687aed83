package vaultpki

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/pkiwarden/pkiwarden/pki"
)

// CRLConfig is the mount's config/crl.
func (v *Vault) CRLConfig(ctx context.Context, m pki.Mount) (pki.CRLConfig, error) {
	var c struct {
		Disable     bool    `json:"disable"`
		AutoRebuild bool    `json:"auto_rebuild"`
		Expiry      seconds `json:"expiry"`
		Grace       seconds `json:"auto_rebuild_grace_period"`
		MaxEntries  int64   `json:"max_crl_entries"`
		EnableDelta bool    `json:"enable_delta"`
	}
	if err := v.read(ctx, get(m, "config/crl"), &c); err != nil {
		return pki.CRLConfig{}, fmt.Errorf("reading CRL configuration of mount %s: %w", m.Name(), err)
	}
	return pki.CRLConfig{
		Disabled:    c.Disable,
		AutoRebuild: c.AutoRebuild,
		Expiry:      time.Duration(c.Expiry),
		GracePeriod: time.Duration(c.Grace),
		MaxEntries:  c.MaxEntries,
		EnableDelta: c.EnableDelta,
	}, nil
}

// TidyStatus is the mount's tidy-status. Vault's active node keeps it in
// memory: after a restart or a failover it is Inactive, whatever ran before.
func (v *Vault) TidyStatus(ctx context.Context, m pki.Mount) (pki.TidyStatus, error) {
	var s struct {
		State            pki.TidyState `json:"state"`
		Error            string        `json:"error"`
		Message          string        `json:"message"`
		StartedAt        time.Time     `json:"time_started"`
		FinishedAt       time.Time     `json:"time_finished"`
		SafetyBuffer     seconds       `json:"safety_buffer"`
		CertStore        bool          `json:"tidy_cert_store"`
		RevokedCerts     bool          `json:"tidy_revoked_certs"`
		CertStoreDeleted int64         `json:"cert_store_deleted_count"`
		RevokedDeleted   int64         `json:"revoked_cert_deleted_count"`
		CertStoreCount   *int64        `json:"current_cert_store_count"`
		RevokedCount     *int64        `json:"current_revoked_cert_count"`
		CountingError    string        `json:"certificate_counting_error"`
	}
	if err := v.read(ctx, get(m, "tidy-status"), &s); err != nil {
		return pki.TidyStatus{}, fmt.Errorf("reading tidy-status of mount %s: %w", m.Name(), err)
	}
	return pki.TidyStatus{
		State:            s.State,
		Error:            printable(s.Error),
		TooLarge:         tooLarge(s.Error),
		Message:          printable(s.Message),
		StartedAt:        s.StartedAt,
		FinishedAt:       s.FinishedAt,
		SafetyBuffer:     time.Duration(s.SafetyBuffer),
		CertStore:        s.CertStore,
		RevokedCerts:     s.RevokedCerts,
		CertStoreDeleted: s.CertStoreDeleted,
		RevokedDeleted:   s.RevokedDeleted,
		CertStoreCount:   s.CertStoreCount,
		RevokedCount:     s.RevokedCount,
		CountingError:    printable(s.CountingError),
	}, nil
}

// alreadyOn is Vault's warning, with status 200, where a run is on. A run that
// was started is answered with 202, and a warning that says so (path_tidy.go,
// pathTidyWrite; alike in 1.13.0, 1.17.6 and 1.21.1).
const alreadyOn = "already in progress"

// ignored begins Vault's warning of parameters that it does not know
// (sdk/framework/backend.go).
const ignored = "Endpoint ignored"

// StartTidy asks for one run, with the parameters that p.Version knows, and
// tells whether Vault started it: false without an error means that another run
// is on. After an error that is none of
// [pki.PermissionError], [pki.RefusedError], [pki.RedirectError] and
// [pki.ErrSealed] the run may have been started all the same.
func (v *Vault) StartTidy(ctx context.Context, m pki.Mount, p pki.TidyParams) (started bool, err error) {
	a, err := v.do(ctx, request{method: http.MethodPost, path: m.Path + "/tidy", namespace: m.Namespace, body: tidyBody(p)})
	switch {
	case err != nil:
		return false, fmt.Errorf("starting tidy of mount %s: %w", m.Name(), err)
	case a.status == http.StatusAccepted:
		if a.warns(ignored) {
			v.log.Warn("Vault did not know all of tidy's parameters", "mount", m.Name(), "warnings", printable(strings.Join(a.Warnings, "; ")))
		}
		return true, nil
	case a.warns(alreadyOn):
		return false, nil
	}
	return false, fmt.Errorf("starting tidy of mount %s: unexpected status %d with warnings %q", m.Name(), a.status, a.Warnings)
}

// tidyBody is what is sent: what the server's version knows.
func tidyBody(p pki.TidyParams) map[string]any {
	values := map[string]any{
		"tidy_cert_store":                       p.CertStore,
		"tidy_revoked_certs":                    p.RevokedCerts,
		"tidy_revoked_cert_issuer_associations": false,
		"safety_buffer":                         inSeconds(p.SafetyBuffer),
		"pause_duration":                        inSeconds(p.Pause),
	}
	body := make(map[string]any, len(values))
	names, _ := pki.TidySwitches(p.Version)
	for _, name := range names {
		body[name] = values[name]
	}
	return body
}

// CancelTidy asks the mount's run to stop, which it does between two entries,
// and tells whether there was one.
func (v *Vault) CancelTidy(ctx context.Context, m pki.Mount) (asked bool, err error) {
	a, err := v.do(ctx, request{method: http.MethodPost, path: m.Path + "/tidy-cancel", namespace: m.Namespace})
	if err != nil {
		return false, fmt.Errorf("cancelling tidy of mount %s: %w", m.Name(), err)
	}
	return !a.warns("cannot be cancelled"), nil
}

// Rotate rebuilds all CRLs of the mount, which reads every revocation of it. A
// list that is too large to be stored is a [pki.TooLargeError]; the old list
// stays.
func (v *Vault) Rotate(ctx context.Context, m pki.Mount) error {
	r := get(m, "crl/rotate")
	r.slow = true
	if _, err := v.do(ctx, r); err != nil {
		return fmt.Errorf("rotating CRL of mount %s: %w", m.Name(), err)
	}
	return nil
}

func get(m pki.Mount, path string) request {
	return request{method: http.MethodGet, path: m.Path + "/" + path, namespace: m.Namespace}
}

// inSeconds is a duration as Vault's parameters take it.
func inSeconds(d time.Duration) string {
	return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + "s"
}
