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
	n, err := unix.Poll(poll, 0)
	for errors.Is(err, unix.EINTR) { // a signal of the runtime's own
		n, err = unix.Poll(poll, 0)
	}
	if err != nil || n > 0 {
		return errors.Join(err, ErrEnded)
	}
	switch {
	case strings.HasPrefix(status["State"], "Z") || strings.HasPrefix(status["State"], "X"):
		return fmt.Errorf("%w, or its first thread has", ErrEnded)
	case status["VmSize"] != "":
		return nil
	case readStat(p.pid, p.pid).flags&flagKernelThread != 0:
		return errors.New("it is a thread of the kernel")
	}
	return ErrEnded // it is about to
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

// Flags of a thread in its stat (include/linux/sched.h).
const (
	flagIOWorker     = 0x10     // PF_IO_WORKER
	flagUserWorker   = 0x4000   // PF_USER_WORKER: a thread that the kernel made for io_uring or vhost
	flagKernelThread = 0x200000 // PF_KTHREAD
)

// stat is some of /proc/PID/task/TID/stat. Of a thread that is gone it is empty.
type stat struct {
	state string // as "S"
	flags uint64
}

func readStat(pid, tid int) stat {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/stat", pid, tid))
	if err != nil {
		return stat{}
	}
	return parseStat(string(content))
}

// parseStat reads a line as "12 (name) S 1 12 12 0 -1 4194560 …". The name may hold anything.
func parseStat(line string) stat {
	fields := strings.Fields(line[strings.LastIndexByte(line, ')')+1:])
	const state, flags = 0, 6
	if len(fields) <= flags {
		return stat{}
	}
	bits, err := strconv.ParseUint(fields[flags], 10, 64)
	if err != nil {
		return stat{}
	}
	return stat{fields[state], bits}
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
