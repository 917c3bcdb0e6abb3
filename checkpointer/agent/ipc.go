package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu"
)

// imagedIPC is what the restore of a container makes in its pod's IPC namespace. A
// restore need not fail because that cannot be told.
func (a *Agent) imagedIPC(images string, c client.Container) []client.IPCObject {
	objects, err := criu.IPCObjects(images)
	if err != nil {
		a.log.Warn("which System V objects are restored is not known; if the restore fails, they stay",
			"pod", c.Namespace+"/"+c.PodName, "container", c.Name, "err", err)
		return nil
	}
	return objects
}

// madeIPC is what the restore of a container has made in its pod's IPC namespace.
// The namespace outlives the container, so the next restore, or a start, would meet it.
type madeIPC struct {
	namespace *os.File
	objects   []client.IPCObject
}

// findIPC finds what the restore of a container has made. The container must still
// run: its end takes its registration and the way to its namespace.
func (a *Agent) findIPC(id string, pid int) (*madeIPC, error) {
	registered, err := registration(id)
	if err != nil {
		return nil, err
	}
	if len(registered.IPC) == 0 {
		return new(madeIPC), nil
	}
	namespace, err := os.Open(filepath.Join(a.host.ProcRoot, strconv.Itoa(pid), "ns/ipc"))
	if err != nil {
		return nil, fmt.Errorf("find the IPC namespace of container %s: %w", id, err)
	}
	return &madeIPC{namespace: namespace, objects: registered.IPC}, nil
}

// remove removes the objects, once nothing of the container runs any more.
func (m *madeIPC) remove() error {
	if len(m.objects) == 0 {
		return nil
	}
	result := make(chan error, 1)
	go func() {
		// Never unlocked: the thread, which is in the pod's namespace, ends with this.
		runtime.LockOSThread()
		if err := unix.Setns(int(m.namespace.Fd()), unix.CLONE_NEWIPC); err != nil {
			result <- fmt.Errorf("enter the IPC namespace: %w", err)
			return
		}
		result <- client.RemoveIPC(m.objects)
	}()
	return <-result
}

func (m *madeIPC) close() {
	if m.namespace != nil {
		m.namespace.Close()
	}
}
