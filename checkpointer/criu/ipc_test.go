package criu

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	ipc_desc "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-desc"
	ipc_msg "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-msg"
	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu/nodetest"
)

// TestSecondRestoreInTheSamePod: what a restore has made in the pod's IPC namespace
// outlives it, and is removed by what its images say.
func TestSecondRestoreInTheSamePod(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	source := nodetest.NewPod(t, "pod", "1")
	c := started(t, source, "c1", "main", "systemv", "100")
	c.Output.WaitFor(t, "step ")
	objects := source.SystemV(t)
	from := checkpoint(t, source, c)
	c.Delete(t)

	goal := nodetest.NewPod(t, "pod", "2")
	first := goal.NewContainer(t, "r1", "main", nodetest.Spec{Args: []string{"systemv"}})
	restore(t, from, first, true)
	first.Output.WaitFor(t, "step ")
	first.Delete(t)

	neighbour := started(t, goal, "n1", "neighbour", "systemv", "200")
	neighbour.Output.WaitFor(t, "ready")
	imaged, err := IPCObjects(filepath.Join(from.dir, "main", ImagesDir))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, o := range imaged {
		names = append(names, fmt.Sprintf("%s %d", o.Kind, o.Key))
	}
	slices.Sort(names)
	if diff := gocmp.Diff(objects, names); diff != "" {
		t.Errorf("the images name other objects than there were (-there +images):\n%s", diff)
	}
	err = goal.In(unix.CLONE_NEWIPC, func() error {
		others := slices.Clone(imaged)
		for i := range others {
			others[i].Key++ // a neighbour's, which has such an ID by chance
		}
		err := client.RemoveIPC(others)
		present, presentErr := client.PresentIPC(imaged)
		if len(present) != len(imaged) {
			t.Errorf("of %v only %v is left", imaged, present)
		}
		return cmp.Or(err, presentErr, client.RemoveIPC(imaged), client.RemoveIPC(imaged))
	})
	if err != nil {
		t.Error(err)
	}
	second := goal.NewContainer(t, "r2", "main", nodetest.Spec{Args: []string{"systemv"}})
	restore(t, from, second, false)
	second.Output.WaitFor(t, "step ")

	// What a process has attached is in use.
	err = goal.In(unix.CLONE_NEWIPC, func() error { return client.RemoveIPC(imaged[:1]) })
	if err == nil || !strings.Contains(err.Error(), "attached") {
		t.Errorf("RemoveIPC of a segment in use = %v", err)
	}
	steps := len(neighbour.Output.Lines())
	nodetest.Eventually(t, 5*time.Second, "the neighbour goes on", func() bool { return len(neighbour.Output.Lines()) > steps })
	noErrors(t, first, second, neighbour)
}

func FuzzIPCObjects(f *testing.F) {
	entry, err := proto.Marshal(&ipc_msg.IpcMsgEntry{
		Desc: &ipc_desc.IpcDescEntry{
			Key: proto.Uint32(1), Uid: proto.Uint32(0), Gid: proto.Uint32(0), Cuid: proto.Uint32(0), Cgid: proto.Uint32(0), Mode: proto.Uint32(0o600), Id: proto.Uint32(3),
		},
		Qbytes: proto.Uint32(1), Qnum: proto.Uint32(0),
	})
	if err != nil {
		f.Fatal(err)
	}
	whole := append(make([]byte, imageHeader), binary.LittleEndian.AppendUint32(nil, uint32(len(entry)))...)
	whole = append(whole, entry...)
	if got, err := parseIPCObjects(client.MessageQueues, whole); err != nil || !slices.Equal(got, []client.IPCObject{{Kind: client.MessageQueues, ID: 3, Key: 1}}) {
		f.Fatalf("parseIPCObjects = %v, %v", got, err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Fuzz(func(t *testing.T, image []byte) {
		for _, kind := range []string{client.SharedMemory, client.Semaphores, client.MessageQueues} {
			// Every object has an entry of its own, so it takes some bytes.
			if objects, err := parseIPCObjects(kind, image); err == nil && len(objects)*4 > len(image) {
				t.Errorf("%d objects of %s in %d bytes", len(objects), kind, len(image))
			}
		}
	})
}
