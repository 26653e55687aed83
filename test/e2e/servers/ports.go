package servers

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// ports remembers what this process has handed out. Every port is also a
// locked byte of one file per user, which the kernel unlocks when the process
// dies: otherwise two test processes could pick the same port before either
// binds it, and one would take the other's server for its own.
var ports = struct {
	sync.Mutex
	file  *os.File
	taken map[int]bool
}{taken: map[int]bool{}}

// freePorts picks loopback ports that nobody listens on and no other process
// of the harness was given. They lie below the range from which the kernel
// takes the ports of outgoing connections: a server that is started again on
// its port must not find it taken by some client. A foreign program may still
// bind one first; see launch.
func freePorts(n int) ([]int, error) {
	ports.Lock()
	defer ports.Unlock()
	if ports.file == nil {
		f, err := os.OpenFile(filepath.Join(os.TempDir(), dirPrefix()+"ports.lock"), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, fmt.Errorf("picking free ports: %w", err)
		}
		ports.file = f
	}
	high := ephemeralLow()
	const low, tries = 10000, 1000
	var free []int
	for range tries {
		if len(free) == n {
			return free, nil
		}
		if port := low + rand.IntN(high-low); reserve(port) {
			free = append(free, port)
		}
	}
	return nil, fmt.Errorf("picking %d free loopback ports: only %d found between %d and %d", n, len(free), low, high)
}

// FreePort picks a loopback port that nobody listens on and that no other
// process of the harness is given while this one lives.
func FreePort() (int, error) {
	free, err := freePorts(1)
	if err != nil {
		return 0, err
	}
	return free[0], nil
}

// reserve needs the lock of ports.
func reserve(port int) bool {
	if ports.taken[port] {
		return false
	}
	ports.taken[port] = true // or unusable, which comes to the same
	byteOfPort := &syscall.Flock_t{Type: syscall.F_WRLCK, Whence: io.SeekStart, Start: int64(port), Len: 1}
	if err := syscall.FcntlFlock(ports.file.Fd(), syscall.F_SETLK, byteOfPort); err != nil {
		return false
	}
	l, err := net.Listen("tcp", loopback(port))
	if err != nil {
		return false
	}
	l.Close()
	return true
}

// launch starts a server on free loopback ports, in a new folder. When one of
// them is bound by another program between pick and bind, it tries again with
// other ports. describe writes the server's configuration into dir and says
// how to start it.
func (s *Set) launch(ctx context.Context, name string, n int, describe func(dir string, ports []int) (ProgramOptions, error)) (*Program, error) {
	for attempt := 1; ; attempt++ {
		ports, err := freePorts(n)
		if err != nil {
			return nil, fmt.Errorf("starting %s: %w", name, err)
		}
		dir, err := s.folder(name)
		if err != nil {
			return nil, err
		}
		o, err := describe(dir, ports)
		if err != nil {
			return nil, fmt.Errorf("preparing %s: %w", name, err)
		}
		o.Env = append([]string{collectLater, memoryLimit}, o.Env...)
		p, err := s.newProgramIn(dir, o)
		if err != nil {
			return nil, err
		}
		p.disposable = true
		err = p.Start(ctx)
		if err == nil {
			return p, nil
		}
		if attempt == 5 || !strings.Contains(p.Log(), "address already in use") {
			return nil, err
		}
	}
}

func ephemeralLow() int {
	const usual = 32768
	content, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return usual
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(content)), "\t")
	low, err := strconv.Atoi(first)
	if err != nil || low < 12000 {
		return usual
	}
	return low
}

// Every server is a Go program, and its start makes much garbage. Up to a few
// hundred megabytes, memory is cheaper than the time to collect it.
const (
	collectLater = "GOGC=400"
	memoryLimit  = "GOMEMLIMIT=400MiB"
)

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
