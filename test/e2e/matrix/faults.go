package matrix

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pkiwarden/pkiwarden/test/e2e/world"
)

// disturb lets a fault begin at a point that chance chooses, and ends it.
func (t *trial) disturb(ctx context.Context, o *Outcome) error {
	points := pointsOf(t.name)
	o.Point = points[t.chance(len(points))]
	w := t.lane.world
	before, err := w.Client.CoreV1().Secrets(world.Namespace).Get(ctx, world.SecretName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		before, err = nil, nil
	}
	if err != nil {
		return err
	}
	if t.name == signerClock { // somebody else signs
		if err := w.Kubernetes.ControllerManager.Pause(); err != nil {
			return err
		}
		defer func() { _ = w.Kubernetes.ControllerManager.Resume() }()
	}
	begun := make(chan error, 1)
	lift := func() error { return nil }
	first := t.first.Load()
	first.gate.at(o.Point, func() {
		var err error
		lift, err = t.begin(ctx, first)
		begun <- err
	})
	started := first.Start(ctx)
	select {
	case err := <-begun:
		if err != nil {
			return err
		}
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(hitWithin):
		return started
	}
	if started != nil && first.Running() {
		return started
	}
	o.Hit = true
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(t.lasting()):
	}
	if err := lift(); err != nil {
		return err
	}
	if setbacks[t.name] != nil {
		return t.recover(ctx, before)
	}
	return nil
}

// lasting is for how long a fault goes on: mostly about as long as a renewal
// takes, at times much longer, and long enough for another to take over the
// Lease.
func (t *trial) lasting() time.Duration {
	switch {
	case t.name == standby || t.name == second || t.name == tokenRotated || t.name == approved || setbacks[t.name] != nil:
		return t.draw(300 * time.Millisecond) // they are for good
	case t.leases && t.name == splitBrain:
		return leaseDuration + time.Second + t.draw(3*time.Second)
	case t.chance(8) == 0:
		return 3*time.Second + t.draw(9*time.Second)
	}
	return 300*time.Millisecond + t.draw(2700*time.Millisecond)
}

// begin starts the trial's fault and returns what ends it. It is called at a
// point, so the process waits for an answer meanwhile.
func (t *trial) begin(ctx context.Context, p *process) (lift func() error, err error) {
	through := func(change func(*gate)) func() error {
		p.gate.set(change)
		return func() error {
			p.gate.set(func(g *gate) {
				g.closed, g.answer, g.refuse = false, nil, ""
				g.delay = func() time.Duration { return t.draw(20 * time.Millisecond) }
			})
			return nil
		}
	}
	now := func() error { return nil }
	w := t.lane.world
	switch t.name {
	case apiAway:
		return through(func(g *gate) { g.closed = true }), nil
	case apiSlow:
		return through(func(g *gate) { g.delay = func() time.Duration { return 300*time.Millisecond + t.draw(2*time.Second) } }), nil
	case apiBusy:
		return through(func(g *gate) { g.answer = func() (int, bool) { return http.StatusTooManyRequests, t.chance(2) == 0 } }), nil
	case apiFailing:
		return through(func(g *gate) {
			g.answer = func() (int, bool) { return http.StatusInternalServerError, t.chance(2) == 0 }
		}), nil
	case etcdKilled:
		if err := w.Kubernetes.Etcd.Kill(); err != nil {
			return nil, err
		}
		return func() error { return w.Kubernetes.Etcd.Start(ctx) }, nil
	case splitBrain:
		if err := p.Pause(); err != nil {
			return nil, err
		}
		if err := t.another(ctx); err != nil {
			return nil, err
		}
		return p.Resume, nil
	case second:
		return now, t.another(ctx)
	case standby:
		if err := t.another(ctx); err != nil {
			return nil, err
		}
		t.end9(p)
		return now, nil
	case signerAway:
		return w.Kubernetes.ControllerManager.Resume, w.Kubernetes.ControllerManager.Pause()
	case signerClock:
		off := t.draw(10*time.Minute) - 5*time.Minute
		switch t.chance(5) {
		case 0:
			off = -24 * time.Hour
		case 1:
			off = 24 * time.Hour
		case 2: // a certificate that is not valid yet, but soon
			off = 5*time.Minute + t.draw(10*time.Second)
		}
		return now, t.sign(ctx, off)
	case approved:
		return now, t.decide(ctx, certificatesv1.CertificateApproved)
	case denied:
		return now, t.decide(ctx, certificatesv1.CertificateDenied)
	case failed:
		return now, t.fail(ctx)
	case removed:
		if err := t.remove(ctx); err != nil {
			return nil, err
		}
		if t.chance(2) == 0 {
			return now, nil
		}
		t.end9(p)
		return func() error {
			p, err := t.process(ctx, podNames[t.chance(2)])
			if err != nil {
				return err
			}
			t.first.Store(p)
			return p.Start(ctx)
		}, nil
	case rightsLost:
		return t.takeRights(ctx)
	case tokenRotated:
		old, err := os.ReadFile(p.Identity.TokenFile)
		if err != nil {
			return nil, err
		}
		if err := p.Identity.Refresh(ctx, time.Hour); err != nil {
			return nil, err
		}
		p.gate.set(func(g *gate) { g.refuse = string(old) })
		return now, nil // it stays refused
	}
	return nil, fmt.Errorf("no fault %q", t.name)
}

// another starts a second pkiwarden, which leads too.
func (t *trial) another(ctx context.Context) error {
	p, err := t.process(ctx, podNames[1])
	if err != nil {
		return err
	}
	return p.Start(ctx)
}

// takeRights removes one of the bindings that pkiwarden lives by.
func (t *trial) takeRights(ctx context.Context) (lift func() error, err error) {
	rbac := t.lane.world.Client.RbacV1()
	if t.chance(2) == 0 {
		const name = "pkiwarden-certificates"
		bindings := rbac.RoleBindings(world.Namespace)
		was, err := bindings.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		again := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: was.RoleRef, Subjects: was.Subjects}
		return func() error {
			_, err := bindings.Create(ctx, again, metav1.CreateOptions{})
			return err
		}, bindings.Delete(ctx, name, metav1.DeleteOptions{})
	}
	name := []string{"pkiwarden-requests", "pkiwarden-approver"}[t.chance(2)]
	bindings := rbac.ClusterRoleBindings()
	was, err := bindings.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	again := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: was.RoleRef, Subjects: was.Subjects}
	return func() error {
		_, err := bindings.Create(ctx, again, metav1.CreateOptions{})
		return err
	}, bindings.Delete(ctx, name, metav1.DeleteOptions{})
}
