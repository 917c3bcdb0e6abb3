package agent

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu/nodetest"
)

// TestKilledContainerTakesItsSystemVObjects: of what is in a pod's IPC namespace when a
// restored container is killed, that goes which its restore has made.
func TestKilledContainerTakesItsSystemVObjects(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	pod := nodetest.NewPod(t, "db-0", "1")
	neighbour := pod.NewContainer(t, "n1", "neighbour", nodetest.Spec{Args: []string{"systemv", "200"}})
	neighbour.Start(t)
	neighbour.Output.WaitFor(t, "ready")
	want := pod.SystemV(t)

	c := pod.NewContainer(t, "c1", "main", nodetest.Spec{Args: []string{"systemv", "100"}})
	c.Start(t)
	c.Output.WaitFor(t, "ready")
	made := []client.IPCObject{{Kind: client.SharedMemory, ID: 5}} // the private segment
	for id := range int32(2) {
		made = append(made, client.IPCObject{Kind: client.SharedMemory, ID: 3 + id, Key: 100 + id},
			client.IPCObject{Kind: client.Semaphores, ID: 2 + id, Key: 100 + id},
			client.IPCObject{Kind: client.MessageQueues, ID: 2 + id, Key: 100 + id})
	}
	raw, err := json.Marshal(client.Registration{Container: client.Container{ID: c.ID}, Restored: true, IPC: made})
	if err == nil {
		err = os.MkdirAll(client.ContainersFolder, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(client.ContainersFolder, c.ID+".json"), raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{host: criu.Host{ProcRoot: "/proc", Root: "/"}}
	if err := a.killContainer(t.Context(), c.ID); err != nil {
		t.Error(err)
	}
	if left := pod.SystemV(t); !slices.Equal(left, want) {
		t.Errorf("left are %v, and the neighbour's are %v", left, want)
	}
	if problem := neighbour.Output.Last("error"); problem != "" {
		t.Errorf("the neighbour: %s", problem)
	}
}
