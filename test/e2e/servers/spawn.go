package servers

import (
	"os/exec"
	"runtime"
	"sync"
)

// spawner starts processes on one operating system thread that never ends: the
// kernel ends a child when the thread that started it ends, not the process
// (prctl(2), PR_SET_PDEATHSIG).
var spawner = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for do := range work {
			do()
		}
	}()
	return work
})

// spawn starts the command so that it does not outlive this process and a
// Ctrl-C at the terminal reaches only this process.
func spawn(cmd *exec.Cmd) error {
	cmd.SysProcAttr = bound()
	started := make(chan error)
	spawner() <- func() { started <- cmd.Start() }
	return <-started
}
