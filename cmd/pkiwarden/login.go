package main

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/ops"
	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/vault"
)

// RuleVaultLogin is the finding that there is no token which Vault takes.
const RuleVaultLogin = "vault-login"

// needsToken are the rules that say only, of one mount after another, what a
// missing token explains.
var needsToken = []string{"tidy-permission"}

// login says in one finding that Vault does not take the login, and holds back
// those that follow from it.
type login struct {
	findings *ops.Findings
	// crl are the findings of the CRL watch now, without those that follow from a
	// bad token while out.
	crl func() []ops.Finding
	// mended is called when there is a good token again.
	mended func()

	out atomic.Bool // the last attempt to keep the login failed

	mu   sync.Mutex
	held bool          // there was a good token, ever
	tidy []ops.Finding // as last reported, all of them
}

const (
	loginSource = "login"
	crlSource   = "crl"
	tidySource  = "tidy"
)

// told takes what an attempt to keep the login came to.
func (l *login) told(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := !l.held
	l.held = l.held || err == nil
	was := l.out.Swap(err != nil)
	switch {
	case err == nil:
		l.findings.Set(loginSource, nil)
	case vault.Away(err) && !first:
		l.findings.Set(loginSource, nil) // the CRL watch says so
	default:
		l.findings.Set(loginSource, []ops.Finding{notLoggedIn(err)})
	}
	l.findings.Settle(loginSource)
	switch {
	case first: // nothing runs before the first login
	case was && err == nil:
		l.mended() // what was held back is looked at anew, and not shown before
	case !was && err != nil:
		l.findings.Set(crlSource, l.crl())
		l.findings.Set(tidySource, l.shown())
	}
}

// reportTidy takes the current findings of tidy.
func (l *login) reportTidy(list []ops.Finding) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tidy = list
	l.findings.Set(tidySource, l.shown())
	l.findings.Settle(tidySource)
}

func (l *login) shown() []ops.Finding {
	if !l.out.Load() {
		return l.tidy
	}
	return slices.DeleteFunc(slices.Clone(l.tidy), func(f ops.Finding) bool { return slices.Contains(needsToken, f.Rule) })
}

// forget drops all of it, without a word.
func (l *login) forget() {
	for _, source := range []string{loginSource, crlSource, tidySource} {
		l.findings.Forget(source)
	}
}

func notLoggedIn(err error) ops.Finding {
	return ops.Finding{
		Rule:     RuleVaultLogin,
		Severity: "unknown",
		Subject:  "Vault",
		Summary:  "There is no token that Vault takes: what needs a right is not known and not done, in any mount. CRLs are read all the same, once their mounts are known.",
		Evidence: err.Error(),
		Remedy:   "Mend what the evidence names. A token file is read again within seconds of a change, and all is looked at anew then; a token in VAULT_TOKEN needs a restart.",
		Citation: "Vault API, auth/token/lookup-self, auth/kubernetes/login; CRLs and issuers can be read without a token",
	}
}
