package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// socketName is where CRIU's restore looks for its page daemon, in the work folder.
	socketName = "lazy-pages.socket"
	lazyLog    = "lazy-pages.log"
	// socketTime is how long the page daemon may take to listen.
	socketTime = 10 * time.Second
)

// LazyPages is a daemon that fills in the memory of a restored container while
// the container already runs. Were it to end early, the pages that are missing
// would read as zeros: after an error from Wait the container must be killed.
type LazyPages struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
	err  error
}

// StartLazyPages starts the page daemon for the images in imagesDir, and returns
// when it listens in workDir for a restore that uses the same folders. Both are
// paths of the node. ctx bounds only the start.
func (e *Engine) StartLazyPages(ctx context.Context, imagesDir, workDir string) (*LazyPages, error) {
	l := &LazyPages{log: filepath.Join(workDir, lazyLog), done: make(chan struct{})}
	err := e.host.Run(func() error {
		path, err := program("criu")
		if err != nil {
			return err
		}
		l.cmd = command(context.WithoutCancel(ctx), path, "lazy-pages",
			"--images-dir", imagesDir, "--work-dir", workDir, fmt.Sprintf("-v%d", logLevel), "--log-file", lazyLog)
		return l.cmd.Start()
	})
	if err != nil {
		return nil, fmt.Errorf("start the page daemon: %w", err)
	}
	go func() {
		defer close(l.done)
		l.err = l.cmd.Wait()
	}()
	if err := l.listening(ctx, filepath.Join(workDir, socketName)); err != nil {
		l.Stop()
		return nil, fmt.Errorf("start the page daemon: %w", err)
	}
	return l, nil
}

// listening waits until the daemon accepts connections. Its socket has a name
// just before it listens, and connecting would use up the one connection that
// the daemon serves; so the kernel's list of listening sockets is asked.
func (l *LazyPages) listening(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, socketTime)
	defer cancel()
	for delay := 200 * time.Microsecond; ; delay = min(2*delay, 5*time.Millisecond) {
		select {
		case <-l.done:
			return l.Wait()
		case <-ctx.Done():
			return fmt.Errorf("it does not listen at %s: %w", socket, ctx.Err())
		case <-time.After(delay):
		}
		listening, err := isListening(socket, l.cmd.Process.Pid)
		if err != nil || listening {
			return err
		}
	}
}

// isListening is whether a process has a listening UNIX socket of that name,
// which CRIU binds relative to its work folder.
func isListening(socket string, pid int) (bool, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/unix", pid))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return false, nil // it has ended
	}
	if err != nil {
		return false, err
	}
	var inodes []string
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		const listens = "00010000" // __SO_ACCEPTCON of the kernel
		if len(fields) == 8 && fields[3] == listens && filepath.Base(fields[7]) == filepath.Base(socket) {
			inodes = append(inodes, "socket:["+fields[6]+"]")
		}
	}
	return len(inodes) > 0 && hasDescriptor(pid, inodes), nil
}

func hasDescriptor(pid int, links []string) bool {
	folder := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(folder)
	if err != nil {
		return false
	}
	for _, entry := range entries {
		link, _ := os.Readlink(filepath.Join(folder, entry.Name()))
		for _, l := range links {
			if l == link {
				return true
			}
		}
	}
	return false
}

// Wait returns when the daemon has ended: nil when it has filled in every page.
func (l *LazyPages) Wait() error {
	<-l.done
	if l.err == nil {
		return nil
	}
	log, _ := os.ReadFile(l.log) // it may be gone, as may the node's path to it
	lines := errorLines(string(log))
	if len(lines) > maxErrorLines {
		lines = lines[:maxErrorLines]
	}
	return fmt.Errorf("the page daemon ended early: %w: %s", l.err, strings.Join(lines, " | "))
}

// Stop ends the daemon. It is for a restore that has not taken place: stopped
// later, it leaves holes in the memory of the container.
func (l *LazyPages) Stop() {
	l.cmd.Process.Kill()
	<-l.done
}

// Pid is the daemon's process in this process's pid namespace.
func (l *LazyPages) Pid() int { return l.cmd.Process.Pid }
