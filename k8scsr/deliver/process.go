package deliver

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// errNoServer says that there is no server to reload. It is the ordinary state
// of a pod that is being born: a server that starts later reads the new files.
var errNoServer = errors.New("no server process yet")

// procTable reads a proc(5) file system.
type procTable struct {
	root string // "/proc"
	self int    // never a candidate
}

// process is one process beyond doubt: a PID alone is reused.
type process struct {
	pid   int
	exe   string // resolved path of the executable
	start string // clock ticks after boot, as the kernel prints them
}

func (p process) String() string { return fmt.Sprintf("%s (pid %d)", p.exe, p.pid) }

// listen is an address that a server must be listening on. An invalid IP stands
// for any, since a host name may resolve to any of the pod's addresses.
type listen struct {
	ip   netip.Addr
	port uint16
}

func (l listen) matches(socket netip.AddrPort) bool {
	ip := socket.Addr().Unmap()
	return l.port == socket.Port() && (!l.ip.IsValid() || ip.IsUnspecified() || ip == l.ip.Unmap())
}

// find returns the one process that runs the named executable and owns a
// listening socket: on one of the addresses, or any at all where none is given.
// A process without one is never the answer: it may be a short-lived
// "vault status", which a signal would kill.
//
// It returns [errNoServer] where nobody listens on the addresses, or nothing of
// that name listens. Whenever more than one process could be meant, or one cannot be identified, it refuses and
// lists what it saw.
func (t procTable) find(name string, addresses []listen) (process, error) {
	sockets, err := t.listeners()
	if err != nil {
		return process{}, fmt.Errorf("reading listening sockets: %w", err)
	}
	if len(addresses) > 0 && !slices.ContainsFunc(slices.Collect(maps.Values(sockets)), func(s netip.AddrPort) bool { return wanted(s, addresses) }) {
		return process{}, errNoServer // whatever else runs, it is not yet the server
	}
	entries, err := os.ReadDir(t.root)
	if err != nil {
		return process{}, fmt.Errorf("listing processes: %w", err)
	}
	var owners, others []process
	var seen, doubts []string
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == t.self {
			continue
		}
		p, err := t.identify(pid)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) && t.calledLike(pid, name) {
				doubts = append(doubts, fmt.Sprintf("pid %d is called %s but %v", pid, name, err))
			}
			continue
		}
		if executableName(p.exe) != name {
			continue
		}
		listening, err := t.owned(pid, sockets)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				doubts = append(doubts, fmt.Sprintf("sockets of %s: %v", p, err))
			}
			continue
		}
		switch {
		case slices.ContainsFunc(listening, func(s netip.AddrPort) bool { return wanted(s, addresses) }):
			owners = append(owners, p)
		case len(listening) > 0:
			others = append(others, p)
		default:
			continue
		}
		seen = append(seen, fmt.Sprintf("%s listens on %s", p, join(listening)))
	}
	switch {
	case len(owners) == 1:
		return owners[0], nil
	case len(owners) > 1:
		return process{}, fmt.Errorf("finding process %s: %d could be meant, so none is signalled (%s): verify an address that only one of them listens on",
			name, len(owners), strings.Join(seen, "; "))
	case len(doubts) > 0:
		return process{}, fmt.Errorf("finding process %s: it cannot be verified, so it is not signalled (%s): run pkiwarden as the server's user, and the server's executable without file capabilities",
			name, strings.Join(doubts, "; "))
	case len(others) > 0:
		return process{}, fmt.Errorf("finding process %s: none listens on an address to verify, so none is signalled (%s): correct deliver's verify addresses or reload.process",
			name, strings.Join(seen, "; "))
	}
	return process{}, errNoServer
}

func wanted(socket netip.AddrPort, addresses []listen) bool {
	return len(addresses) == 0 || slices.ContainsFunc(addresses, func(l listen) bool { return l.matches(socket) })
}

func join(sockets []netip.AddrPort) string {
	texts := make([]string, len(sockets))
	for i, s := range sockets {
		texts[i] = s.String()
	}
	return strings.Join(texts, ", ")
}

// signal sends sig to the process and to no other. The PID is bound to a pidfd
// before the process is identified again, so what was verified is what is
// signalled, even where the PID was reused in between; without pidfd (Linux
// before 5.4, or a seccomp profile) nothing is sent.
func (t procTable) signal(p process, sig syscall.Signal) error {
	handle, err := os.FindProcess(p.pid)
	if err != nil {
		return fmt.Errorf("opening %s: %w", p, err)
	}
	defer handle.Release()
	switch err := handle.WithHandle(func(uintptr) {}); {
	case errors.Is(err, os.ErrNoHandle) && !errors.Is(handle.Signal(syscall.Signal(0)), os.ErrProcessDone):
		return fmt.Errorf("signalling %s: pidfd_open is not available (it needs Linux 5.4 and a seccomp profile that allows it), and a bare PID could be reused: nothing is signalled", p)
	case err != nil:
		return errNoServer // it has ended
	}
	now, err := t.identify(p.pid)
	if errors.Is(err, fs.ErrNotExist) || err == nil && now != p {
		return fmt.Errorf("signalling %s: it is gone, its PID may be another's by now: %w", p, errNoServer)
	}
	if err != nil {
		return fmt.Errorf("signalling %s: identifying it again: %w", p, err)
	}
	switch err := handle.Signal(sig); {
	case errors.Is(err, os.ErrProcessDone):
		return errNoServer
	case errors.Is(err, syscall.EPERM):
		return fmt.Errorf("signalling %s: %w: run pkiwarden as the server's user", p, err)
	case err != nil:
		return fmt.Errorf("signalling %s: %w", p, err)
	}
	return nil
}

// identify reads who a PID is now. A process that has ended, and a kernel
// thread, are fs.ErrNotExist.
func (t procTable) identify(pid int) (process, error) {
	directory := t.directory(pid)
	exe, err := os.Readlink(filepath.Join(directory, "exe"))
	if err != nil {
		return process{}, gone(err)
	}
	stat, err := os.ReadFile(filepath.Join(directory, "stat"))
	if err != nil {
		return process{}, gone(err)
	}
	// proc_pid_stat(5): field 2 is the command in parentheses, which may hold
	// spaces and parentheses itself; the start time is field 22.
	_, rest, _ := cutLast(string(stat), ")")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return process{}, fmt.Errorf("reading start time of pid %d: stat has too few fields", pid)
	}
	return process{pid: pid, exe: exe, start: fields[19]}, nil
}

// gone maps ESRCH, which /proc says of a process that ends while it is read.
func gone(err error) error {
	if errors.Is(err, syscall.ESRCH) {
		return fs.ErrNotExist
	}
	return err
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return "", s, false
	}
	return s[:i], s[i+len(sep):], true
}

// executableName is the base name; an executable replaced on disk since the
// start is still the same program.
func executableName(exe string) string {
	return filepath.Base(strings.TrimSuffix(exe, " (deleted)"))
}

// calledLike compares the command name, which any process can choose: enough to
// doubt, never enough to signal. The kernel cuts it to 15 octets.
func (t procTable) calledLike(pid int, name string) bool {
	comm, err := os.ReadFile(filepath.Join(t.directory(pid), "comm"))
	return err == nil && strings.TrimSuffix(string(comm), "\n") == name[:min(len(name), 15)]
}

// owned returns the listening sockets among a process's file descriptors.
func (t procTable) owned(pid int, sockets map[string]netip.AddrPort) ([]netip.AddrPort, error) {
	directory := filepath.Join(t.directory(pid), "fd")
	entries, err := os.ReadDir(directory)
	if err != nil {
		return nil, gone(err)
	}
	var owned []netip.AddrPort
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(directory, e.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		inode, isSocket := strings.CutPrefix(target, "socket:[")
		if address, ok := sockets[strings.TrimSuffix(inode, "]")]; isSocket && ok {
			owned = append(owned, address)
		}
	}
	slices.SortFunc(owned, netip.AddrPort.Compare)
	return owned, nil
}

func (t procTable) directory(pid int) string {
	return filepath.Join(t.root, strconv.Itoa(pid))
}

// listeners returns this network namespace's listening TCP sockets by inode.
func (t procTable) listeners() (map[string]netip.AddrPort, error) {
	sockets := make(map[string]netip.AddrPort)
	for _, family := range []string{"tcp", "tcp6"} {
		err := readListeners(filepath.Join(t.root, "net", family), sockets)
		if family == "tcp6" && errors.Is(err, fs.ErrNotExist) {
			continue // IPv6 is switched off
		}
		if err != nil {
			return nil, err
		}
	}
	return sockets, nil
}

// readListeners parses proc_pid_net_tcp(5).
func readListeners(path string, sockets map[string]netip.AddrPort) error {
	const stateListen = "0A"
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Scan() // the heading
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 || fields[3] != stateListen {
			continue
		}
		address, err := parseSocketAddress(fields[1])
		if err != nil {
			return fmt.Errorf("parsing %s: %w", path, err)
		}
		sockets[fields[9]] = address
	}
	return lines.Err()
}

// parseSocketAddress reads "0100007F:1F90": the address as 32-bit words in the
// machine's own byte order, the port as a number.
func parseSocketAddress(s string) (netip.AddrPort, error) {
	host, port, _ := strings.Cut(s, ":")
	octets, err := hex.DecodeString(host)
	if err != nil || len(octets) != 4 && len(octets) != 16 {
		return netip.AddrPort{}, fmt.Errorf("socket address %q", s)
	}
	number, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("socket address %q", s)
	}
	for i := 0; i < len(octets); i += 4 {
		binary.NativeEndian.PutUint32(octets[i:], binary.BigEndian.Uint32(octets[i:]))
	}
	ip, _ := netip.AddrFromSlice(octets)
	return netip.AddrPortFrom(ip, uint16(number)), nil
}
