package track

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// process is a process that is not mistaken for a later one with the same number.
type process struct {
	pid   int
	pidfd int
}

func open(pid int) (*process, error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, ErrEnded
	}
	if err != nil {
		return nil, fmt.Errorf("open its pidfd: %w", err)
	}
	p := &process{pid, pidfd}
	if err := p.alive(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// alive fails when the process has ended, or has no memory: then what its folder
// of /proc says may be of another one, or nothing.
func (p *process) alive() error {
	status, err := readStatus(p.pid)
	if err != nil {
		return err
	}
	poll := []unix.PollFd{{Fd: int32(p.pidfd), Events: unix.POLLIN}}
	if n, err := unix.Poll(poll, 0); err != nil || n > 0 {
		return errors.Join(err, ErrEnded)
	}
	switch {
	case status["Kthread"] == "1" || status["State"] == "":
		return errors.New("it is a thread of the kernel")
	case strings.HasPrefix(status["State"], "Z") || strings.HasPrefix(status["State"], "X"):
		return fmt.Errorf("%w, or its first thread has", ErrEnded)
	case status["VmSize"] == "":
		return errors.New("it has no memory of its own: it is a thread of the kernel, or about to end")
	}
	return nil
}

func (p *process) Close() error { return unix.Close(p.pidfd) }

// file opens a file of the process's folder of /proc.
func (p *process) file(name string, flags int) (*os.File, error) {
	file, err := os.OpenFile(fmt.Sprintf("/proc/%d/%s", p.pid, name), flags, 0)
	if err != nil {
		return nil, ended(err)
	}
	// Only now is it certain that the folder was this process's.
	if err := p.alive(); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// ended turns what /proc answers for a process that is gone into ErrEnded.
func ended(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return ErrEnded
	}
	return err
}

// readStatus reads the lines of /proc/PID/status.
func readStatus(pid int) (map[string]string, error) {
	content, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return nil, ended(err)
	}
	status := map[string]string{}
	for line := range bytes.Lines(content) {
		key, value, _ := strings.Cut(string(line), ":")
		status[key] = strings.TrimSpace(value)
	}
	return status, nil
}
