package servers

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// progress writes what goes on: lines that stay, and for long work one line
// that is updated in place on a terminal or repeated now and then elsewhere.
type progress struct {
	out      io.Writer
	terminal bool
	every    time.Duration
}

func newProgress(out io.Writer) *progress {
	p := &progress{out: out, every: 30 * time.Second}
	if out == nil {
		p.out = io.Discard
	}
	if f, ok := out.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			p.terminal, p.every = true, time.Second
		}
	}
	return p
}

func (p *progress) line(format string, args ...any) {
	fmt.Fprintf(p.out, format+"\n", args...)
}

// during reports one fixed text with the time elapsed, until the returned
// function is called.
func (p *progress) during(format string, args ...any) (stop func()) {
	text := fmt.Sprintf(format, args...)
	p.line("%s", text)
	return p.counting(func() string { return text })
}

// counting reports what state says, with the time elapsed, until the returned
// function is called.
func (p *progress) counting(state func() string) (stop func()) {
	ended := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		start := time.Now()
		tick := time.NewTicker(p.every)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				if p.terminal {
					fmt.Fprint(p.out, "\r\x1b[K")
				}
				return
			case <-tick.C:
				elapsed := time.Since(start).Round(time.Second)
				if p.terminal {
					fmt.Fprintf(p.out, "\r\x1b[K%s, %s", state(), elapsed)
				} else {
					p.line("%s, %s", state(), elapsed)
				}
			}
		}
	})
	return func() {
		close(ended)
		writer.Wait()
	}
}
