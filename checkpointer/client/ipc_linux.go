package client

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The kinds of System V objects, by the names of the kernel's lists and of CRIU's images.
const (
	SharedMemory  = "shm"
	Semaphores    = "sem"
	MessageQueues = "msg"
)

// IPCObject is a System V object. The containers of a pod share the IPC namespace of
// its sandbox, so what one of them has made there outlives it.
type IPCObject struct {
	// Kind is SharedMemory, Semaphores or MessageQueues.
	Kind string `json:"kind"`
	// ID and Key are those of its namespace; a private object has the key 0.
	ID  int32 `json:"id"`
	Key int32 `json:"key"`
}

const (
	// ipcFolder has a list of each kind, of the IPC namespace of the thread that opens it.
	ipcFolder = "/proc/sysvipc"
	// attachedField is the field of the list of shared memory with how often a segment
	// is attached.
	attachedField = 6
	// removeID is IPC_RMID, which package syscall lacks.
	removeID = 0
	// detachTime is how long memory of processes that are ending is waited for.
	detachTime = 2 * time.Second
	// detachEvery is the time between two looks.
	detachEvery = 10 * time.Millisecond
)

// PresentIPC returns those of the objects that are in the IPC namespace of the calling
// thread. One with another key has the same ID by chance, and is none of them.
func PresentIPC(objects []IPCObject) ([]IPCObject, error) {
	there, err := listIPC()
	if err != nil {
		return nil, err
	}
	var present []IPCObject
	for _, o := range objects {
		if _, ok := there[o]; ok {
			present = append(present, o)
		}
	}
	return present, nil
}

// RemoveIPC removes objects from the IPC namespace of the calling thread. What is not
// there counts as removed. A segment that a process has attached for longer than
// processes take to end is in use: it stays, and the error names it.
func RemoveIPC(objects []IPCObject) error {
	limit := time.After(detachTime)
	for {
		attached, err := removeDetached(objects)
		if err != nil || len(attached) == 0 {
			return err
		}
		objects = attached
		select {
		case <-limit:
			return fmt.Errorf("the shared memory %v is attached by a process that goes on", attached)
		case <-time.After(detachEvery):
		}
	}
}

// removeDetached removes objects, but for those that are attached, which it returns.
func removeDetached(objects []IPCObject) (attached []IPCObject, err error) {
	there, err := listIPC()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, o := range objects {
		times, ok := there[o]
		switch {
		case !ok:
		case times > 0:
			attached = append(attached, o)
		default:
			errs = append(errs, o.remove())
		}
	}
	return attached, errors.Join(errs...)
}

func (o IPCObject) remove() error {
	var errno syscall.Errno
	switch o.Kind {
	case SharedMemory:
		_, _, errno = syscall.Syscall(syscall.SYS_SHMCTL, uintptr(o.ID), removeID, 0)
	case Semaphores:
		_, _, errno = syscall.Syscall6(syscall.SYS_SEMCTL, uintptr(o.ID), 0, removeID, 0, 0, 0)
	case MessageQueues:
		_, _, errno = syscall.Syscall(syscall.SYS_MSGCTL, uintptr(o.ID), removeID, 0)
	}
	if errno != 0 && errno != syscall.EINVAL && errno != syscall.EIDRM { // those two: it is gone
		return fmt.Errorf("remove %s %d: %w", o.Kind, o.ID, errno)
	}
	return nil
}

// listIPC returns what is in the IPC namespace of the calling thread, and how often
// each is attached, which only shared memory is.
func listIPC() (map[IPCObject]int, error) {
	objects := map[IPCObject]int{}
	for _, kind := range []string{SharedMemory, Semaphores, MessageQueues} {
		file, err := os.Open(filepath.Join(ipcFolder, kind))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without them
		}
		if err != nil {
			return nil, err
		}
		err = parseIPC(bufio.NewScanner(file), kind, objects)
		file.Close()
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", file.Name(), err)
		}
	}
	return objects, nil
}

// parseIPC adds the objects of one of the kernel's lists.
func parseIPC(lines *bufio.Scanner, kind string, objects map[IPCObject]int) error {
	lines.Scan() // the names of the fields
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) <= attachedField {
			return fmt.Errorf("%q has too few fields", lines.Text())
		}
		key, keyErr := strconv.ParseInt(fields[0], 10, 32)
		id, idErr := strconv.ParseInt(fields[1], 10, 32)
		attached := 0
		var attachedErr error
		if kind == SharedMemory {
			attached, attachedErr = strconv.Atoi(fields[attachedField])
		}
		if err := errors.Join(keyErr, idErr, attachedErr); err != nil {
			return err
		}
		objects[IPCObject{Kind: kind, ID: int32(id), Key: int32(key)}] = attached
	}
	return lines.Err()
}

// WithoutIPC returns the objects that are not among others.
func WithoutIPC(objects, others []IPCObject) []IPCObject {
	return slices.DeleteFunc(slices.Clone(objects), func(o IPCObject) bool { return slices.Contains(others, o) })
}
