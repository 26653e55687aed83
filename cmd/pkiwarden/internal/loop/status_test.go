package loop

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What a loop has come to is known at any time, also while it runs, and gone
// with its end.
func TestStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := NewMetrics(nil)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		at := func(s int) time.Time { return begin.Add(time.Duration(s) * time.Second) }
		run := 0
		_, end := start(t, Options{Name: "crl", Interval: time.Minute, Metrics: m, Once: func(context.Context) error {
			time.Sleep(10 * time.Second)
			run++
			switch run {
			case 2:
				return errors.New("no answer")
			case 3:
				return errors.New(strings.Repeat("x", 5000))
			}
			return nil
		}})
		want := func(second int, want State) {
			t.Helper()
			time.Sleep(time.Until(at(second)))
			synctest.Wait()
			want.Name = "crl"
			got := m.States()
			if len(got) != 1 {
				t.Fatalf("%d loops", len(got))
			}
			// The back-off after a failure has jitter: about when is enough.
			if want.NextAt.Sub(got[0].NextAt).Abs() < time.Second {
				want.NextAt = got[0].NextAt
			}
			if !reflect.DeepEqual(got[0], want) {
				t.Errorf("after %d s\n%+v\nwant\n%+v", second, got[0], want)
			}
		}
		want(5, State{RunningAt: at(0)})
		want(20, State{LastSuccess: at(10), NextAt: at(70)})
		want(75, State{LastSuccess: at(10), RunningAt: at(70)})
		time.Sleep(time.Until(at(80)))
		synctest.Wait()
		failed := m.States()[0]
		if failed.Failures != 1 || failed.LastError != "no answer" || !failed.LastErrorAt.Equal(at(80)) || !failed.LastSuccess.Equal(at(10)) || failed.NextAt.Before(at(80)) || failed.NextAt.After(at(83)) {
			t.Errorf("after a failure %+v", failed)
		}
		time.Sleep(15 * time.Second) // the third has failed too
		synctest.Wait()
		failed = m.States()[0]
		if failed.Failures != 2 || len(failed.LastError) != 503 || !strings.HasSuffix(failed.LastError, "x…") {
			t.Errorf("after two failures %d, %d octets", failed.Failures, len(failed.LastError))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := m.States()[0]; s.Failures != 0 || s.LastErrorAt.IsZero() || !s.LastSuccess.After(s.LastErrorAt) {
			t.Errorf("after it has recovered %+v", s)
		}
		end()
		if left := m.States(); len(left) != 0 {
			t.Errorf("after its end: %+v", left)
		}
	})
}
