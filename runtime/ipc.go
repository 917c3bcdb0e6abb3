package runtime

import (
	"fmt"
	"os"
	"strings"

	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
)

// absentIPC returns those of the System V objects that are not in the pod's IPC
// namespace yet. What was there before is another container's. CRIU makes each of them, with
// its ID and key, or fails, so what is there of them afterwards is the restore's.
func (b *bundle) absentIPC(objects []client.IPCObject, log logger) []client.IPCObject {
	if len(objects) == 0 || b.namespace("ipc") == "" {
		return nil
	}
	var present []client.IPCObject
	err := inNamespace(b.namespace("ipc"), func() (err error) {
		present, err = client.PresentIPC(objects)
		return err
	})
	if err != nil {
		log.warn("look for System V objects: %v; if the restore fails, those that it has made stay", err)
		return nil
	}
	return client.WithoutIPC(objects, present)
}

// removeIPC removes System V objects from the pod's IPC namespace.
func (b *bundle) removeIPC(objects []client.IPCObject) error {
	if len(objects) == 0 {
		return nil
	}
	if err := inNamespace(b.namespace("ipc"), func() error { return client.RemoveIPC(objects) }); err != nil {
		return fmt.Errorf("remove the restore's System V objects: %w", err)
	}
	return nil
}

// misplaced returns the objects that CRIU says in its log to have made under a wrong ID,
// because another object has theirs.
func misplaced(file string, objects []client.IPCObject) []client.IPCObject {
	log, err := os.ReadFile(file)
	if err != nil {
		return nil // it has not come that far
	}
	var made []client.IPCObject
	for line := range strings.Lines(string(log)) {
		_, message, _ := strings.Cut(line, "Failed to restore ")
		var kind string
		var got, wanted int32
		if n, _ := fmt.Sscanf(message, "%s id (%d instead of %d)", &kind, &got, &wanted); n < 3 {
			continue
		}
		for _, o := range objects {
			if o.Kind == kind && o.ID == wanted {
				made = append(made, client.IPCObject{Kind: kind, ID: got, Key: o.Key})
			}
		}
	}
	return made
}
