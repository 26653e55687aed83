package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/pkiwarden/pkiwarden/pki"
)

const (
	barWidth     = 24
	redrawEvery  = 100 * time.Millisecond
	clearLine    = "\r\x1b[K"
	usualColumns = 80
)

// progress is one line at the end of a terminal that is drawn anew. What else
// is written to the terminal goes through it, above the line. A nil progress
// draws nothing.
type progress struct {
	w       io.Writer
	columns func() int
	now     func() time.Time

	mu    sync.Mutex
	line  string // as it stands there; "": none
	drawn time.Time
	pace  pace
	where string // what pace is of
}

// newProgress is nil unless stderr is a terminal that can clear a line.
func newProgress(a *app) *progress {
	f, ok := a.stderr.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || a.env("TERM") == "dumb" {
		return nil
	}
	return &progress{w: f, now: a.now, columns: func() int {
		if columns, _, err := term.GetSize(int(f.Fd())); err == nil && columns > 0 {
			return columns
		}
		return usualColumns
	}}
}

// Write writes above the line.
func (p *progress) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	line := p.line
	p.draw("")
	n, err := p.w.Write(text)
	p.draw(line)
	return n, err
}

// clear takes the line away.
func (p *progress) clear() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.draw("")
}

// draw puts a line in the place of the one that stands there.
func (p *progress) draw(line string) {
	if columns := p.columns() - 1; len([]rune(line)) > columns {
		line = string([]rune(line)[:max(columns, 0)])
	}
	if line == "" && p.line == "" {
		return
	}
	p.line = line
	fmt.Fprint(p.w, clearLine+line)
}

// tidy shows how far a run is.
func (p *progress) tidy(m pki.Mount, s pki.TidyStatus) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	deleted := fmt.Sprintf("%d deleted", s.CertStoreDeleted+s.RevokedDeleted)
	at, ok := s.Progress()
	switch {
	case !s.State.Active():
		p.draw(fmt.Sprintf("%s: tidy has ended, %s; measuring the CRL", m.Name(), deleted))
	case s.State == pki.TidyCancelling:
		p.draw(fmt.Sprintf("%s: Vault is stopping tidy, %s", m.Name(), deleted))
	case !ok:
		p.draw(m.Name() + ": tidy has begun")
	default:
		p.draw(p.bar(m.Name()+": "+string(at.Phase), at.Done, at.Total) + ", " + deleted)
	}
}

// reading shows how far the reading of certificates for an estimate is.
func (p *progress) reading(m pki.Mount, done, total int64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch now := p.now(); {
	case done >= total:
		p.draw("")
	case now.Sub(p.drawn) >= redrawEvery:
		p.drawn = now
		p.draw(p.bar(m.Name()+": reading certificates", done, total))
	}
}

// bar is "what [####----] 40 of 100, 5/s, 12s left".
func (p *progress) bar(what string, done, total int64) string {
	if p.where != what || done < p.pace.done {
		p.where, p.pace = what, pace{}
	}
	p.pace.add(p.now(), done)
	full := 0
	if total > 0 {
		full = int(min(done, total) * barWidth / total)
	}
	line := fmt.Sprintf("%s [%s%s] %d of %d", what, strings.Repeat("#", full), strings.Repeat("-", barWidth-full), done, total)
	if rate := p.pace.rate; rate > 0 {
		left := time.Duration(float64(total-done) / rate * float64(time.Second))
		line += fmt.Sprintf(", %.0f/s, %s left", rate, left.Round(time.Second))
	}
	return line
}

// pace is how many entries are done in a second, the latest counting most.
type pace struct {
	at   time.Time
	done int64
	rate float64 // 0: not known yet
}

func (p *pace) add(now time.Time, done int64) {
	took := now.Sub(p.at).Seconds()
	switch {
	case p.at.IsZero():
	case took <= 0:
		return
	case p.rate == 0:
		p.rate = float64(done-p.done) / took
	default:
		const weight = 0.3
		p.rate = (1-weight)*p.rate + weight*float64(done-p.done)/took
	}
	p.at, p.done = now, done
}
