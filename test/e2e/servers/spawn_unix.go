//go:build unix && !linux

package servers

import "syscall"

// bound cannot tie a child's life to ours outside Linux: a killed owner leaves
// its servers behind.
func bound() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
