package deliver

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fakeProcess is one entry of a made-up /proc.
type fakeProcess struct {
	pid     int
	exe     string // "" where it cannot be read
	comm    string
	start   string
	sockets []string // inodes
}

func (f fakeProcess) write(t *testing.T, proc string) {
	t.Helper()
	directory := filepath.Join(proc, fmt.Sprint(f.pid))
	if err := os.MkdirAll(filepath.Join(directory, "fd"), 0o755); err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(directory, "exe")
	_ = os.Remove(exe)
	var err error
	if f.exe != "" {
		err = os.Symlink(f.exe, exe)
	} else {
		err = os.WriteFile(exe, nil, 0) // readlink fails, and not because it is absent
	}
	stat := fmt.Sprintf("%d (%s) S 1 1 1 0 -1 4194304 1 1 1 1 1 1 1 1 20 0 8 0 %s 1 1", f.pid, f.comm, f.start)
	err = errors.Join(err,
		os.WriteFile(filepath.Join(directory, "comm"), []byte(f.comm+"\n"), 0o644),
		os.WriteFile(filepath.Join(directory, "stat"), []byte(stat), 0o644))
	for i, inode := range f.sockets {
		err = errors.Join(err, os.Symlink("socket:["+inode+"]", filepath.Join(directory, "fd", fmt.Sprint(i+3))))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Lines as Linux 6.18 prints them: 10 listens on 127.0.0.1:8200, 11 on
// 0.0.0.0:8100, 12 on [::]:8300, 13 is a connection from 8200; the addresses
// are in the byte order of a little-endian machine.
const (
	fakeTCP = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:2008 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 10 1 0000000000000000 100 0 0 10 0
   1: 00000000:1FA4 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0000000000000000 100 0 0 10 0
   2: 0100007F:2008 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 13 1 0000000000000000 20 4 30 10 -1
`
	fakeTCP6 = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:206C 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12 1 0000000000000000 100 0 0 10 0
`
)

func fakeProc(t *testing.T, processes ...fakeProcess) procTable {
	t.Helper()
	proc := t.TempDir()
	err := errors.Join(os.Mkdir(filepath.Join(proc, "net"), 0o755),
		os.WriteFile(filepath.Join(proc, "net", "tcp"), []byte(fakeTCP), 0o644),
		os.WriteFile(filepath.Join(proc, "net", "tcp6"), []byte(fakeTCP6), 0o644),
		os.Mkdir(filepath.Join(proc, "self"), 0o755))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		p.write(t, proc)
	}
	return procTable{root: proc, self: 999}
}

func TestFindProcess(t *testing.T) {
	at8200 := []listen{{ip: netip.MustParseAddr("127.0.0.1"), port: 8200}}
	server := fakeProcess{20, "/bin/vault", "vault", "100", []string{"13", "10"}}
	agent := fakeProcess{21, "/bin/vault", "vault", "101", []string{"11"}}
	probe := fakeProcess{22, "/bin/vault", "vault", "102", nil}
	other := fakeProcess{23, "/bin/sh", "vault", "103", []string{"10"}}
	hidden := fakeProcess{24, "", "vault", "104", []string{"10"}}
	stranger := fakeProcess{25, "", "envoy", "105", nil}
	for _, tc := range []struct {
		name      string
		processes []fakeProcess
		addresses []listen
		pid       int
		err       string // "waiting" stands for errNoServer
	}{
		{"one", []fakeProcess{server}, at8200, 20, ""},
		{"one, no address", []fakeProcess{server}, nil, 20, ""},
		{"beside a probe", []fakeProcess{probe, server}, at8200, 20, ""},
		{"beside an agent", []fakeProcess{agent, server}, at8200, 20, ""},
		{"beside one that only shares the name", []fakeProcess{other, server}, at8200, 20, ""},
		{"beside a hidden one", []fakeProcess{hidden, server}, at8200, 20, ""},
		{"the listener's host is a name", []fakeProcess{agent, server}, []listen{{port: 8100}}, 21, ""},
		{"wildcard listener", []fakeProcess{agent}, []listen{{ip: netip.MustParseAddr("10.1.2.3"), port: 8100}}, 21, ""},
		{"IPv6 wildcard listener", []fakeProcess{{26, "/bin/vault", "vault", "1", []string{"12"}}}, []listen{{ip: netip.MustParseAddr("127.0.0.1"), port: 8300}}, 26, ""},
		{"replaced on disk", []fakeProcess{{27, "/bin/vault (deleted)", "vault", "1", []string{"10"}}}, at8200, 27, ""},
		{"odd command name", []fakeProcess{{28, "/bin/vault", "a) R (b", "1", []string{"10"}}}, at8200, 28, ""},

		{"none", nil, at8200, 0, "waiting"},
		{"only a probe", []fakeProcess{probe}, at8200, 0, "waiting"},
		{"only a probe, no address", []fakeProcess{probe}, nil, 0, "waiting"},
		{"only another executable", []fakeProcess{other}, at8200, 0, "waiting"},
		{"only a stranger that is hidden", []fakeProcess{stranger}, at8200, 0, "waiting"},
		{"an agent, and nobody at the address", []fakeProcess{agent, hidden}, []listen{{port: 9999}}, 0, "waiting"},
		{"only ourselves", []fakeProcess{{999, "/bin/vault", "vault", "1", []string{"10"}}}, at8200, 0, "waiting"},

		{"two, no address", []fakeProcess{server, agent}, nil, 0, "2 could be meant, so none is signalled (/bin/vault (pid 20) listens on 127.0.0.1:8200; /bin/vault (pid 21) listens on 0.0.0.0:8100)"},
		{"two share the socket", []fakeProcess{server, {29, "/bin/vault", "vault", "1", []string{"10"}}}, at8200, 0, "2 could be meant"},
		{"hidden", []fakeProcess{hidden}, at8200, 0, "it cannot be verified, so it is not signalled (pid 24 is called vault but"},
		{"hidden beside an agent", []fakeProcess{hidden, agent}, at8200, 0, "run pkiwarden as the server's user"},
		{"listens elsewhere", []fakeProcess{agent}, at8200, 0, "none listens on an address to verify, so none is signalled (/bin/vault (pid 21) listens on 0.0.0.0:8100)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := fakeProc(t, tc.processes...).find("vault", tc.addresses)
			switch {
			case tc.err == "":
				if err != nil || got.pid != tc.pid {
					t.Errorf("find = %v, %v; want pid %d", got, err, tc.pid)
				}
			case tc.err == "waiting":
				if !errors.Is(err, errNoServer) {
					t.Errorf("find = %v, %v; want none", got, err)
				}
			case err == nil || !strings.Contains(err.Error(), tc.err) || errors.Is(err, errNoServer):
				t.Errorf("find = %v, %v; want %q", got, err, tc.err)
			}
		})
	}
}

func TestFindCutsTheCommandName(t *testing.T) {
	long := "a-server-with-a-long-name"
	_, err := fakeProc(t, fakeProcess{30, "", long[:15], "1", nil}).find(long, nil)
	if err == nil || !strings.Contains(err.Error(), "cannot be verified") {
		t.Errorf("find says %v", err)
	}
}

var realProc = procTable{root: "/proc", self: os.Getpid()}

// A process that only looks like the server is left alone: any signal would
// have ended it.
func TestSignalOnlyTheOneThatWasVerified(t *testing.T) {
	victim := start(t, uniqueName(), roleProbe)
	p, err := realProc.identify(victim.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	for name, stale := range map[string]process{
		"PID reused by the same executable": {p.pid, p.exe, p.start + "0"},
		"another executable":                {p.pid, "/bin/vault", p.start},
	} {
		if err := realProc.signal(stale, syscall.SIGHUP); !errors.Is(err, errNoServer) || !strings.Contains(err.Error(), "its PID may be another's") {
			t.Errorf("%s: signal says %v", name, err)
		}
	}
	time.Sleep(100 * time.Millisecond)
	if !victim.alive() {
		t.Fatal("a process that was not meant was signalled")
	}
	if err := realProc.signal(p, syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if err := victim.Wait(); err == nil || victim.ProcessState.ExitCode() != hungUp {
		t.Errorf("the verified process ended by %v, want the signal", err)
	}
	if err := realProc.signal(p, syscall.SIGHUP); !errors.Is(err, errNoServer) {
		t.Errorf("signalling a process that has ended says %v", err)
	}
}

func TestFindRealServer(t *testing.T) {
	directory := t.TempDir()
	writeDirectory(t, directory, newAuthority(t).issue(t, time.Hour))
	name := uniqueName()
	server := start(t, name, roleServer, filepath.Join(directory, "tls.crt"), filepath.Join(directory, "tls.key"), "127.0.0.1:0", "reload")
	probe := start(t, name, roleProbe)
	l, err := newListener(Address{Address: server.address})
	if err != nil {
		t.Fatal(err)
	}
	got, err := realProc.find(name, []listen{l.listen})
	if err != nil || got.pid != server.Process.Pid || got.pid == probe.Process.Pid {
		t.Errorf("find = %v, %v; want pid %d", got, err, server.Process.Pid)
	}
}
