// Package filelock keeps programs from working on the same thing at once, and tells the
// one that has to wait who is at it. A lock ends with its holder, even a killed one.
package filelock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Held is returned when somebody else holds a lock.
type Held struct {
	Holder string // who, as "process 123 (lab up)"
}

func (h *Held) Error() string { return "locked by " + h.Holder }

// A Lock is held until Release.
type Lock struct{ file *os.File }

// Release gives the lock back.
func (l *Lock) Release() { l.file.Close() }

// Try takes the lock for this program alone; if somebody holds it, the error is a *Held.
func Try(path string) (*Lock, error) { return try(path, unix.LOCK_EX) }

// Wait takes the lock for this program alone as soon as nobody holds it. The function
// waiting is told once who does.
func Wait(ctx context.Context, path string, waiting func(holder string)) (*Lock, error) {
	return wait(ctx, path, unix.LOCK_EX, waiting)
}

// WaitShared takes the lock, together with any others who share it, as soon as nobody
// has it alone.
func WaitShared(ctx context.Context, path string) (*Lock, error) {
	return wait(ctx, path, unix.LOCK_SH, func(string) {})
}

func wait(ctx context.Context, path string, how int, waiting func(string)) (*Lock, error) {
	told := false
	for {
		lock, err := try(path, how)
		held, isHeld := errors.AsType[*Held](err)
		if !isHeld {
			return lock, err
		}
		if !told {
			told = true
			waiting(held.Holder)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for %s, which holds %s: %w", held.Holder, path, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func try(path string, how int) (*Lock, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	err = unix.Flock(int(file.Fd()), how|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		holder, _ := os.ReadFile(path)
		file.Close()
		if len(holder) == 0 {
			holder = []byte("another process")
		}
		return nil, &Held{Holder: string(holder)}
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	me := fmt.Sprintf("process %d (%s)", os.Getpid(), strings.Join(append([]string{filepath.Base(os.Args[0])}, os.Args[1:]...), " "))
	if err := os.WriteFile(path, []byte(me), 0o644); err != nil {
		file.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &Lock{file: file}, nil
}
