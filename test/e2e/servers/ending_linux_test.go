package servers

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// ownerVariable makes the test program an owner of servers instead: it starts
// some, says so on standard output, and ends as told.
const ownerVariable = "PKIWARDEN_TEST_OWNER"

func TestMain(m *testing.M) {
	if mode := os.Getenv(ownerVariable); mode != "" {
		if err := own(mode, os.Getenv(ownerVariable+"_DIR")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func own(mode, dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := New(Options{TempDir: dir})
	if err != nil {
		return err
	}
	e, err := s.StartEtcd(ctx)
	if err != nil {
		return err
	}
	v, err := s.StartVault(ctx, VaultOptions{Storage: InmemStorage{}})
	if err != nil {
		return err
	}
	if mode == "close" {
		return s.Close()
	}
	if err := v.Pause(); err != nil { // a stopped process must end as well
		return err
	}
	fmt.Println(s.Dir(), e.PID(), v.PID())
	if mode == "panic" {
		panic("as the test wants")
	}
	select {}
}

func owner(t *testing.T, mode, dir string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), ownerVariable+"="+mode, ownerVariable+"_DIR="+dir)
	cmd.Stderr = os.Stderr
	return cmd
}

func TestNothingSurvivesItsOwner(t *testing.T) {
	for mode, kill := range map[string]syscall.Signal{
		"killed":      syscall.SIGKILL,
		"interrupted": syscall.SIGINT,
		"panic":       0,
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			temp := t.TempDir()
			cmd := owner(t, mode, temp)
			if mode == "panic" {
				cmd.Stderr = nil
			}
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(stdout).ReadString('\n')
			if err != nil {
				t.Fatalf("the owner started nothing: %v, %v", err, cmd.Wait())
			}
			var dir string
			pids := make([]int, 2)
			if _, err := fmt.Sscan(line, &dir, &pids[0], &pids[1]); err != nil {
				t.Fatal(err)
			}
			if kill != 0 {
				for _, pid := range pids {
					if !lives(pid) {
						t.Fatalf("process %d ended before its owner", pid)
					}
				}
				if err := cmd.Process.Signal(kill); err != nil {
					t.Fatal(err)
				}
			}
			if err := cmd.Wait(); err == nil {
				t.Fatal("the owner ended well")
			}
			eventually(t, func() error {
				for _, pid := range pids {
					if lives(pid) {
						return fmt.Errorf("process %d lives", pid)
					}
				}
				return nil
			})
			if _, err := os.Stat(dir); err != nil {
				t.Fatalf("the folder before the sweep: %v", err)
			}
			next, err := New(Options{TempDir: temp})
			if err != nil {
				t.Fatal(err)
			}
			defer next.Close()
			if _, err := os.Stat(dir); !os.IsNotExist(err) {
				t.Errorf("the dead owner's folder after New: %v, want none", err)
			}
			third, err := New(Options{TempDir: temp})
			if err != nil {
				t.Fatal(err)
			}
			defer third.Close()
			if _, err := os.Stat(next.Dir()); err != nil {
				t.Errorf("New removes the folder of a living owner: %v", err)
			}
		})
	}
}

// lives says whether a process runs or could run again; a zombie is dead.
func lives(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(after, "Z") && !strings.HasPrefix(after, "X")
}

// Two test programs that start the same servers at once get in nobody's way.
func TestTwoOwnersAtOnce(t *testing.T) {
	temp := t.TempDir()
	var owners []*exec.Cmd
	for range 2 {
		cmd := owner(t, "close", temp)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		owners = append(owners, cmd)
	}
	for _, cmd := range owners {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	left, err := os.ReadDir(temp)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range left {
		if entry.IsDir() {
			t.Errorf("left behind: %s", entry.Name())
		}
	}
}
