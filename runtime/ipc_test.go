package runtime

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu/nodetest"
)

// TestFailedRestoreLeavesNoSystemV: a container whose restore has failed starts anew in
// the IPC namespace of its pod. Its program must not find there what the restore has made;
// and another container's objects stay.
func TestFailedRestoreLeavesNoSystemV(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	s, program := serve(t), runtimeProgram(t)
	uses := func(key string) nodetest.Spec {
		return nodetest.Spec{Args: []string{"systemv", key}, Annotations: protectedSpec.Annotations}
	}
	imaged := s.takeSystemV(t, program, uses("100"))
	images := filepath.Join(s.dir, "main", criu.ImagesDir)

	// restored creates the container in a pod where containers with these keys run.
	restored := func(uid string, neighbours ...string) (c *nodetest.Container, report *client.ReportRequest) {
		goal := nodetest.NewPod(t, "db-"+uid, uid)
		for _, key := range neighbours {
			n := goal.NewContainer(t, "n"+uid+key, "neighbour", nodetest.Spec{Args: []string{"systemv", key}})
			n.Start(t)
			n.Output.WaitFor(t, "ready")
		}
		before := goal.SystemV(t)
		s.answer = func(req client.CreateRequest) client.CreateResponse {
			resp := s.restoring(t, goal)(req)
			resp.IPC = imaged
			return resp
		}
		c = goal.NewContainer(t, "r"+uid, "main", uses("100"))
		if err := c.Runtime(program, "create", "--bundle", c.Bundle, "--pid-file", c.PidFile(), c.ID); err != nil {
			t.Fatal(err)
		}
		for report == nil {
			report = s.next(t).Report
		}
		if !report.Restored {
			if diff := cmp.Diff(before, goal.SystemV(t)); diff != "" {
				t.Errorf("pod %s: after %s there is (-before +after):\n%s", uid, report.Message, diff)
			}
		}
		if err := c.Runtime(program, "start", c.ID); err != nil {
			t.Fatal(err)
		}
		c.Output.WaitFor(t, "step ") // it has objects of its own, and finds in them what it left
		if problem := c.Output.Last("error"); problem != "" {
			t.Errorf("pod %s: %s", uid, problem)
		}
		return c, report
	}

	_, report := restored("2", "200")
	registration, err := registered("r2")
	if !report.Restored || err != nil || !slices.Equal(registration.IPC, imaged) {
		t.Errorf("reported %+v, registered %+v, %v", report, registration, err)
	}
	if _, report := restored("3", "200", "300"); report.Restored {
		t.Error("restored with IDs that a neighbour has")
	} else {
		t.Log(report.Message)
	}
	// This one CRIU reads only after it has made what is in the namespaces.
	if err := os.Truncate(filepath.Join(images, "pagemap-1.img"), 20); err != nil {
		t.Fatal(err)
	}
	if _, report := restored("4", "200"); report.Restored {
		t.Error("restored from an image that is not whole")
	} else {
		t.Log(report.Message)
	}
	if registration, err := registered("r4"); err != nil || registration.IPC != nil {
		t.Errorf("registered %+v, %v", registration, err)
	}
}

// takeSystemV takes the checkpoint of a container, and returns which System V objects it
// has. Their IDs are not the lowest, which are those that others get.
func (s *checkpointer) takeSystemV(t *testing.T, program string, spec nodetest.Spec) []client.IPCObject {
	t.Helper()
	source := nodetest.NewPod(t, "db-old", "1")
	before := source.NewContainer(t, "c0", "before", nodetest.Spec{Args: []string{"systemv", "900"}})
	before.Start(t)
	before.Output.WaitFor(t, "ready")
	var others []client.IPCObject
	for id := range int32(3) {
		for _, kind := range []string{client.SharedMemory, client.Semaphores, client.MessageQueues} {
			others = append(others, client.IPCObject{Kind: kind, ID: id, Key: 900 + id})
		}
	}
	others = append(others, client.IPCObject{Kind: client.SharedMemory, ID: 2})
	c := source.NewContainer(t, "c1", "main", spec)
	run(t, program, c)
	s.next(t)
	c.Output.WaitFor(t, "step ")
	before.Delete(t)
	if err := source.In(unix.CLONE_NEWIPC, func() error { return client.RemoveIPC(others) }); err != nil {
		t.Fatal(err)
	}
	s.dump(t, source, c)
	c.Delete(t)
	imaged, err := criu.IPCObjects(filepath.Join(s.dir, "main", criu.ImagesDir))
	if err != nil || len(imaged) != 7 {
		t.Fatalf("the images name %v, %v", imaged, err)
	}
	return imaged
}
