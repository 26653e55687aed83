package scale

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	sampleEvery = time.Second
	scrapeEvery = 15 * time.Second // as Prometheus does by default in most places
	maxAnswer   = 256 << 20

	// ticks a second of /proc/PID/stat's times; USER_HZ is 100 on all of Linux.
	ticks = 100
)

// sample is the state of the process at one time.
type sample struct {
	at  time.Time
	rss int64
	cpu time.Duration
}

// Usage is what the process used within one phase.
type Usage struct {
	RSS        int64 // median, in bytes
	Most       int64 // as the kernel has seen it, between the samples too
	CPU        time.Duration
	Goroutines int // at most, of the scrapes
}

// scrape is one answer of /metrics.
type scrape struct {
	at                 time.Time
	bytes              int64
	goroutines, series int
	renewals           int // certificates of which it is known when they are due
	leading            bool
}

// monitor looks at one process, which may be started again.
type monitor struct {
	address string // of its /metrics

	mu      sync.Mutex
	pid     int
	samples []sample
	scrapes []scrape
}

// of makes pid the process to look at.
func (m *monitor) of(pid int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pid = pid
}

// run samples, and scrapes as Prometheus would, until ctx ends.
func (m *monitor) run(ctx context.Context) {
	ticker := time.NewTicker(sampleEvery)
	defer ticker.Stop()
	var scraping sync.WaitGroup
	defer scraping.Wait()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		m.sample()
		if n%int(scrapeEvery/sampleEvery) == 0 {
			scraping.Go(func() {
				if s, err := m.scrape(ctx); err == nil { // it may be down, or starting
					m.mu.Lock()
					defer m.mu.Unlock()
					m.scrapes = append(m.scrapes, s)
				}
			})
		}
	}
}

func (m *monitor) sample() {
	m.mu.Lock()
	defer m.mu.Unlock()
	rss, _, err := memory(m.pid)
	if err != nil {
		return // it is down
	}
	cpu, err := processorTime(m.pid)
	if err != nil {
		return
	}
	m.samples = append(m.samples, sample{time.Now(), rss, cpu})
}

// forgetPeak lets the kernel's largest RSS of the process begin anew
// (proc_pid_clear_refs(5)). What cannot be forgotten counts on.
func (m *monitor) forgetPeak() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pid != 0 {
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", m.pid), []byte("5"), 0)
	}
}

// peak is the largest RSS of the process since forgetPeak, 0 where it has ended.
func (m *monitor) peak() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, peak, err := memory(m.pid)
	if err != nil {
		return 0
	}
	return peak
}

// usage is what was seen between two times, of which Most is that of the
// samples.
func (m *monitor) usage(from, to time.Time) Usage {
	m.mu.Lock()
	defer m.mu.Unlock()
	var u Usage
	var all []int64
	var last time.Duration
	for n, s := range m.samples {
		if s.at.Before(from) {
			last = s.cpu
			continue
		}
		if s.at.After(to) {
			break
		}
		all = append(all, s.rss)
		if n > 0 && s.cpu >= last {
			u.CPU += s.cpu - last
		} else {
			u.CPU += s.cpu // another process
		}
		last = s.cpu
	}
	if len(all) > 0 {
		slices.Sort(all)
		u.RSS, u.Most = all[len(all)/2], all[len(all)-1]
	}
	for _, s := range m.scrapes {
		if !s.at.Before(from) && !s.at.After(to) {
			u.Goroutines = max(u.Goroutines, s.goroutines)
		}
	}
	return u
}

// memory is VmRSS and VmHWM of a process, in bytes.
func memory(pid int) (rss, peak int64, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("measuring memory: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		for prefix, to := range map[string]*int64{"VmRSS:": &rss, "VmHWM:": &peak} {
			value, ok := strings.CutPrefix(line, prefix)
			if !ok {
				continue
			}
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			if err != nil {
				return 0, 0, fmt.Errorf("measuring memory: %w", err)
			}
			*to = kib << 10
		}
	}
	if rss == 0 || peak == 0 {
		return 0, 0, errors.New("measuring memory: no VmRSS or VmHWM: the process has ended")
	}
	return rss, peak, nil
}

// processorTime is the time that a process has spent, its kernel's included.
func processorTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("measuring processor time: %w", err)
	}
	// The name, in parentheses, may hold anything (proc_pid_stat(5)).
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	const user, system = 11, 12 // utime and stime, counted from the state
	if len(fields) <= system {
		return 0, errors.New("measuring processor time: /proc/PID/stat is short")
	}
	var sum int64
	for _, field := range []string{fields[user], fields[system]} {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("measuring processor time: %w", err)
		}
		sum += n
	}
	return time.Duration(sum) * time.Second / ticks, nil
}

// get passes the answer of a path to read.
func (m *monitor) get(ctx context.Context, path string, read func(io.Reader) error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.address+path, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, answer.Status)
	}
	return read(io.LimitReader(answer.Body, maxAnswer))
}

// scrape reads /metrics.
func (m *monitor) scrape(ctx context.Context) (scrape, error) {
	s := scrape{at: time.Now()}
	err := m.get(ctx, "/metrics", func(body io.Reader) error {
		lines := bufio.NewScanner(body)
		for lines.Scan() {
			line := lines.Text()
			s.bytes += int64(len(line)) + 1
			if strings.HasPrefix(line, "#") {
				continue
			}
			s.series++
			series, value, _ := strings.Cut(line, " ")
			switch {
			case strings.HasPrefix(series, "pkiwarden_certificate_renewal_timestamp_seconds{"):
				s.renewals++
			case series == "pkiwarden_leader":
				s.leading = value == "1"
			case series == "go_goroutines":
				n, err := strconv.ParseFloat(value, 64)
				if err != nil {
					return err
				}
				s.goroutines = int(n)
			}
		}
		return lines.Err()
	})
	return s, err
}

// size is how many bytes a path answers.
func (m *monitor) size(ctx context.Context, path string) (n int64, err error) {
	err = m.get(ctx, path, func(body io.Reader) error {
		var err error
		n, err = io.Copy(io.Discard, body)
		return err
	})
	return n, err
}
