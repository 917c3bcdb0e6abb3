package nodetest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SystemV is a workload with System V objects of every kind, whose keys begin with the
// number that is its argument. It makes them itself: what is there already ends it with
// "error". Then it writes "ready", and "step" for each time it has found in them what it
// left.
func SystemV(args []string) {
	const create, size, getValue, setValue = unix.IPC_CREAT | unix.IPC_EXCL | 0o600, 4096, 12, 16
	fail := func(what string, err error) {
		fmt.Println("error", what, err)
		os.Exit(1)
	}
	call := func(what string, number uintptr, args ...uintptr) uintptr {
		args = append(args, make([]uintptr, 6-len(args))...)
		result, _, errno := unix.Syscall6(number, args[0], args[1], args[2], args[3], args[4], args[5])
		if errno != 0 {
			fail(what, errno)
		}
		return result
	}
	var base int
	if _, err := fmt.Sscan(args[0], &base); err != nil {
		fail("key", err)
	}
	var segments [][]byte
	for _, key := range []int{base, base + 1, unix.IPC_PRIVATE} {
		id, err := unix.SysvShmGet(key, size, create)
		if err != nil {
			fail("shmget", err)
		}
		segment, err := unix.SysvShmAttach(id, 0, 0)
		if err != nil {
			fail("shmat", err)
		}
		segments = append(segments, segment)
	}
	var sets []uintptr
	for n := range 2 { // of sizes of which one is filled up in CRIU's images
		sets = append(sets, call("semget", unix.SYS_SEMGET, uintptr(base+n), uintptr(3+n), create))
		call("semctl", unix.SYS_SEMCTL, sets[n], 0, setValue, uintptr(7+n))
	}
	for n := range 2 {
		queue := call("msgget", unix.SYS_MSGGET, uintptr(base+n), create)
		message := struct {
			kind int64
			text [5]byte
		}{kind: 1}
		for range 2 {
			call("msgsnd", unix.SYS_MSGSND, queue, uintptr(unsafe.Pointer(&message)), 5, 0)
		}
	}
	fmt.Println("ready")
	for step := byte(0); ; step++ {
		for _, segment := range segments {
			if segment[0] != step {
				fail("segment", fmt.Errorf("it holds %d, not %d", segment[0], step))
			}
			segment[0]++
		}
		for n, set := range sets {
			if value := call("semctl", unix.SYS_SEMCTL, set, 0, getValue, 0); value != uintptr(7+n) {
				fail("semaphore", fmt.Errorf("it is %d", value))
			}
		}
		fmt.Println("step", step)
		time.Sleep(5 * time.Millisecond)
	}
}

// SystemV lists the System V objects in the pod's IPC namespace, each as its kind and key.
func (p *Pod) SystemV(t T) []string {
	t.Helper()
	var objects []string
	err := p.In(unix.CLONE_NEWIPC, func() error {
		for _, kind := range []string{"shm", "sem", "msg"} {
			list, err := os.ReadFile(filepath.Join("/proc/sysvipc", kind))
			if err != nil {
				return err
			}
			for _, line := range strings.Split(strings.TrimSpace(string(list)), "\n")[1:] {
				objects = append(objects, kind+" "+strings.Fields(line)[0])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(objects)
	return objects
}
