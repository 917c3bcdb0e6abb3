package machine

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"
)

// children starts processes and reaps all that end, the machine's orphans included.
// os/exec cannot be used beside it: both would wait for the same processes.
type children struct {
	mu      sync.Mutex
	waiting map[int]chan<- syscall.WaitStatus
}

func newChildren() *children {
	return &children{waiting: map[int]chan<- syscall.WaitStatus{}}
}

// reap collects ended processes for as long as the machine lives.
func (c *children) reap() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	for ; ; <-ended {
		for {
			var status syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
			if err == syscall.EINTR {
				continue
			}
			if err != nil || pid <= 0 {
				break
			}
			// start holds the lock until the process is known, so none slips through.
			c.mu.Lock()
			if waiter, ok := c.waiting[pid]; ok {
				waiter <- status
				delete(c.waiting, pid)
			}
			c.mu.Unlock()
		}
	}
}

// start runs a program with the given standard files, in a session of its own, and
// returns its process ID and a channel that gets its status when it ends.
func (c *children) start(argv []string, env []string, dir string, files [3]uintptr) (int, <-chan syscall.WaitStatus, error) {
	if len(argv) == 0 {
		return 0, nil, fmt.Errorf("start: no program given")
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return 0, nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{
		Dir:   dir,
		Env:   append(os.Environ(), env...),
		Files: files[:],
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	ended := make(chan syscall.WaitStatus, 1)
	c.waiting[pid] = ended
	return pid, ended, nil
}

// exitCode is a status as a shell reports it.
func exitCode(status syscall.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}
