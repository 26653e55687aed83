package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/pkiwarden/pkiwarden/cmd/pkiwarden/internal/wire"
)

const (
	maxStep      = time.Minute      // the session looks after itself at least this often
	fileStep     = 2 * time.Second  // a token file is looked at this often
	suspectPause = 10 * time.Second // between checks of a token that requests are refused with
	revokeWithin = 2 * time.Second
)

// lease is how long the token in use lasts, as Vault said when it was issued,
// looked up or renewed. The zero lease is that of no token.
type lease struct {
	granted   time.Duration // 0: does not expire
	first     time.Duration // what was granted before any renewal
	renewable bool
	renewAt   time.Time // half-life; zero: never
	expiresAt time.Time // zero: never
	checkedAt time.Time // last heard of from Vault
	own       bool      // this session logged in for the token
}

func newLease(granted time.Duration, renewable bool, now time.Time) lease {
	l := lease{granted: granted, first: granted, renewable: renewable, checkedAt: now}
	if granted > 0 {
		l.renewAt, l.expiresAt = now.Add(granted/2), now.Add(granted)
	}
	return l
}

func (l lease) expired(now time.Time) bool { return !l.expiresAt.IsZero() && !now.Before(l.expiresAt) }

// dueAt is when something has to be done about the token: at half-life where
// it can be renewed or replaced, else at its end. Zero is never.
func (l lease) dueAt() time.Time {
	if l.renewable || l.own {
		return l.renewAt
	}
	return l.expiresAt
}

func (l lease) due(now time.Time) bool { return !l.dueAt().IsZero() && !now.Before(l.dueAt()) }

// followFile wakes the session when its token file has changed, which mends
// what failed for want of a good one, until ctx ends. last is what it held, ""
// where there was none to be had.
func (s *Session) followFile(ctx context.Context, last wire.Secret) {
	ticker := time.NewTicker(fileStep)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if token, _ := s.file.Read(); token != last {
			last = token
			s.loop.Wake()
		}
	}
}

// step does what is due, says when it wants to be called next, and tells what
// came of it.
func (s *Session) step(ctx context.Context) (next time.Time, err error) {
	next, err = s.attempt(ctx)
	if s.told != nil && (err == nil || ctx.Err() == nil) {
		s.told(err)
	}
	return next, err
}

func (s *Session) attempt(ctx context.Context) (next time.Time, err error) {
	if s.o.Auth.Method == MethodKubernetes {
		err = s.keepLogin(ctx)
	} else {
		err = s.keepGiven(ctx)
	}
	if err != nil {
		s.giveUp(err)
		return time.Time{}, err
	}
	select {
	case <-s.ready:
	default:
		close(s.ready)
	}
	next = time.Now().Add(maxStep)
	if at := s.lease.dueAt(); !at.IsZero() && at.Before(next) {
		next = at
	}
	if at := s.lease.checkedAt.Add(suspectPause); s.isSuspect() && at.Before(next) {
		next = at
	}
	return next, nil
}

// giveUp ends the wait of Ready where err is a refusal and is to be the end.
func (s *Session) giveUp(err error) {
	if !s.o.GiveUp || s.refused != nil || !errors.Is(err, ErrRefused) {
		return
	}
	s.refused = err
	close(s.given)
}

// keepLogin keeps a token that this session logs in for.
func (s *Session) keepLogin(ctx context.Context) error {
	if s.current() == "" || s.lease.expired(time.Now()) {
		return s.login(ctx)
	}
	good, err := s.check(ctx)
	if err != nil {
		return err
	}
	if !good {
		return s.login(ctx)
	}
	if !s.lease.due(time.Now()) {
		return nil
	}
	if !s.lease.renewable {
		return s.login(ctx)
	}
	good, err = s.renew(ctx)
	if err != nil {
		return err
	}
	// Near its maximum TTL a token is renewed for less and less.
	if !good || s.lease.granted < s.lease.first/2 {
		return s.login(ctx)
	}
	return nil
}

// keepGiven keeps a token that someone else made: from a file, which may bring
// another one, or from the environment.
func (s *Session) keepGiven(ctx context.Context) error {
	token := s.o.Auth.Token
	if s.o.Auth.Method == MethodTokenFile {
		var err error
		if token, err = s.file.Read(); err != nil {
			return err
		}
	}
	if token != s.current() {
		s.set(token)
		s.lease = lease{}
	}
	if s.lease.checkedAt.IsZero() {
		s.suspectToken()
	}
	good, err := s.check(ctx)
	if err != nil {
		return err
	}
	if good && s.lease.renewable && s.lease.due(time.Now()) {
		renewed, err := s.renew(ctx)
		if err != nil {
			return err
		}
		if !renewed {
			s.log.Warn("Vault token cannot be renewed", "expires", s.lease.expiresAt.UTC())
			s.lease.renewable = false
		}
	}
	if !good || s.lease.expired(time.Now()) {
		s.lease = lease{}
		return refusal{fmt.Errorf("logging in to Vault: the token %s is not accepted: it has expired, was revoked, or lacks read on auth/token/lookup-self; %s", s.origin(), s.remedy())}
	}
	return nil
}

func (s *Session) origin() string {
	if s.o.Auth.Method == MethodTokenFile {
		return "in " + s.o.Auth.TokenFile
	}
	return "in VAULT_TOKEN"
}

func (s *Session) remedy() string {
	if s.o.Auth.Method == MethodTokenFile {
		return "put a good one there, it is read again by itself"
	}
	return "start again with a good one"
}

// check asks Vault about a suspect token, and reports whether it is good. One
// that is not suspect is good; one that was checked just now is asked about
// later.
func (s *Session) check(ctx context.Context) (good bool, err error) {
	if !s.isSuspect() || time.Since(s.lease.checkedAt) < suspectPause {
		return true, nil
	}
	secret, err := s.client.Auth().Token().LookupSelfWithContext(ctx)
	if rejected(err) {
		return false, nil
	}
	if err != nil {
		return false, s.explain("looking up the Vault token", err)
	}
	ttl, renewable, err := lookedUp(secret)
	if err != nil {
		return false, fmt.Errorf("looking up the Vault token: %w", err)
	}
	fresh := s.lease.checkedAt.IsZero()
	first, own := s.lease.first, s.lease.own
	s.lease = newLease(ttl, renewable, time.Now())
	if s.lease.own = own; !fresh {
		s.lease.first = first
	}
	s.set(s.current())
	if fresh {
		s.log.Info("logged in to Vault", "ttl", ttl, "renewable", renewable)
	}
	return true, nil
}

// lookedUp reads the answer of auth/token/lookup-self.
func lookedUp(secret *api.Secret) (ttl time.Duration, renewable bool, err error) {
	if secret == nil {
		return 0, false, errors.New("the answer is empty")
	}
	n, ok := secret.Data["ttl"].(json.Number)
	if !ok {
		return 0, false, errors.New("the answer has no ttl")
	}
	seconds, err := n.Int64()
	if err != nil || seconds < 0 {
		return 0, false, fmt.Errorf("the answer has ttl %s", n)
	}
	renewable, _ = secret.Data["renewable"].(bool)
	return time.Duration(seconds) * time.Second, renewable, nil
}

// renew renews the token, and reports whether Vault did.
func (s *Session) renew(ctx context.Context) (renewed bool, err error) {
	secret, err := s.client.Auth().Token().RenewSelfWithContext(ctx, 0)
	if rejected(err) {
		return false, nil
	}
	if err != nil {
		return false, s.explain("renewing the Vault token", err)
	}
	if secret == nil || secret.Auth == nil {
		return false, errors.New("renewing the Vault token: the answer holds no lease")
	}
	first, own := s.lease.first, s.lease.own
	s.lease = newLease(time.Duration(secret.Auth.LeaseDuration)*time.Second, secret.Auth.Renewable, time.Now())
	s.lease.first, s.lease.own = first, own
	s.log.Debug("Vault token renewed", "ttl", s.lease.granted)
	return true, nil
}

// login logs in with the service account's JWT, read anew each time.
func (s *Session) login(ctx context.Context) error {
	jwt, err := s.file.Read()
	if err != nil {
		return fmt.Errorf("logging in to Vault: %w", err)
	}
	r := s.client.NewRequest("POST", authPath+s.o.Auth.Mount+"/login")
	r.ClientToken = ""
	if err := r.SetJSONBody(map[string]string{"role": s.o.Auth.Role, "jwt": jwt.Reveal()}); err != nil {
		return fmt.Errorf("logging in to Vault: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	//lint:ignore SA1019 Logical().Write would hide the status of the answer
	resp, err := s.client.RawRequestWithContext(ctx, r)
	if err != nil {
		return s.explainLogin(err, jwt)
	}
	defer resp.Body.Close()
	secret, err := api.ParseSecret(resp.Body)
	if err != nil {
		return fmt.Errorf("logging in to Vault: reading the answer: %w", err)
	}
	if secret == nil || secret.Auth == nil || secret.Auth.ClientToken == "" {
		return errors.New("logging in to Vault: the answer holds no token")
	}
	s.lease = newLease(time.Duration(secret.Auth.LeaseDuration)*time.Second, secret.Auth.Renewable, time.Now())
	s.lease.own = true
	s.set(wire.Secret(secret.Auth.ClientToken))
	s.log.Info("logged in to Vault", "mount", s.o.Auth.Mount, "role", s.o.Auth.Role, "ttl", s.lease.granted, "renewable", s.lease.renewable)
	return nil
}

// end revokes the token if this session logged in for it. A token that cannot
// be revoked in time runs out.
func (s *Session) end() {
	if !s.lease.own || s.current() == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), revokeWithin)
	defer cancel()
	if err := s.client.Auth().Token().RevokeSelfWithContext(ctx, ""); err != nil {
		s.log.Debug("leaving the Vault token to run out", "error", s.explain("revoking the Vault token", err))
	}
	s.set("")
}

func (s *Session) isSuspect() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.suspect
}

func (s *Session) suspectToken() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.suspect = true
}
