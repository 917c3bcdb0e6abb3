package runtime

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu/nodetest"
	"github.com/lifeboat-dev/lifeboat/checkpointer/pages"
	"github.com/lifeboat-dev/lifeboat/checkpointer/track"
)

func TestMain(m *testing.M) {
	// A copy of the test program under this name is the runtime itself.
	if filepath.Base(os.Args[0]) == "lifeboat-runtime" {
		r, err := FromEnvironment()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(r.Run(os.Args[1:]))
	}
	nodetest.Main(m, map[string]func([]string){"server": server, "systemv": nodetest.SystemV})
}

// server is a program of a protected pod: it counts, notes what it was started
// with, and accepts connections by Go's defaults, which means MPTCP.
func server([]string) {
	listener, err := net.Listen("tcp", "127.0.0.1:8080")
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	count := 0
	if err := os.WriteFile("/state", []byte("written by the program"), 0o600); err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println("ready", count)
	for {
		conn, err := listener.Accept()
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		count++
		state, _ := os.ReadFile("/state")
		fmt.Println("served", count)
		fmt.Fprintf(conn, "%d %s", count, state)
		conn.Close()
	}
}

// visit asks the server of a pod and returns its answer.
func visit(t *testing.T, p *nodetest.Pod) string {
	t.Helper()
	var answer []byte
	err := p.In(unix.CLONE_NEWNET, func() error {
		conn, err := net.DialTimeout("tcp", "127.0.0.1:8080", 5*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		answer, err = io.ReadAll(conn)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

// checkpointer answers the runtime as the node's checkpointer does, from a
// checkpoint that was really taken. Each container is restored once.
type checkpointer struct {
	engine   *criu.Engine
	dir      string
	memory   nodetest.Memory
	answer   func(client.CreateRequest) client.CreateResponse
	requests chan client.Request
}

func serve(t *testing.T) *checkpointer {
	t.Helper()
	if err := os.MkdirAll(client.Folder, 0o755); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", client.SocketPath)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	s := &checkpointer{
		engine:   criu.NewEngine(criu.Host{ProcRoot: "/proc", Root: "/"}, criu.Options{Tracking: track.None}, slog.New(slog.NewTextHandler(t.Output(), nil))),
		dir:      t.TempDir(),
		answer:   func(client.CreateRequest) client.CreateResponse { return client.CreateResponse{} },
		requests: make(chan client.Request, 100),
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			var req client.Request
			var resp client.Response
			if err := json.NewDecoder(conn).Decode(&req); err != nil {
				resp.Error = err.Error()
			} else if req.Create != nil {
				create := s.answer(*req.Create)
				resp.Create = &create
			}
			s.requests <- req
			json.NewEncoder(conn).Encode(resp)
			conn.Close()
		}
	}()
	return s
}

// next is the next request that the runtime has made.
func (s *checkpointer) next(t *testing.T) client.Request {
	t.Helper()
	select {
	case req := <-s.requests:
		return req
	case <-time.After(10 * time.Second):
		t.Fatal("the runtime asks nothing")
		return client.Request{}
	}
}

// restoring answers with the checkpoint in s.dir.
func (s *checkpointer) restoring(t *testing.T, p *nodetest.Pod) func(client.CreateRequest) client.CreateResponse {
	return func(req client.CreateRequest) client.CreateResponse {
		ctx := context.Background()
		if err := s.engine.ApplyFiles(ctx, s.dir, req.Name, filepath.Join(req.Bundle, "rootfs"), p.EmptyDirs, p.Shm); err != nil {
			return client.CreateResponse{Reason: err.Error()}
		}
		images, work := filepath.Join(s.dir, req.Name, criu.ImagesDir), t.TempDir()
		config := filepath.Join(work, "restore.conf")
		if err := s.engine.PrepareRestore(ctx, s.dir, req.Name, config, false); err != nil {
			return client.CreateResponse{Reason: err.Error()}
		}
		t.Cleanup(func() {
			if err := s.engine.CleanRestore(s.dir, req.Name); err != nil {
				t.Error(err)
			}
		})
		if _, err := pages.Start(ctx, work, s.memory.Of(req.Name), pages.Options{}); err != nil {
			return client.CreateResponse{Reason: err.Error()}
		}
		return client.CreateResponse{Restore: true, ImagesPath: images, WorkPath: work, ConfigPath: config, Lazy: true, Generation: 7}
	}
}

// protectedSpec is a container of a protected pod.
var protectedSpec = nodetest.Spec{Args: []string{"server"}, Annotations: map[string]string{annotationFailover: "true"}}

// runtimeProgram puts a copy of the test program where it is the runtime.
func runtimeProgram(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "lifeboat-runtime")
	if err := os.Symlink(nodetest.Program, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// run has the runtime create and start a container, as containerd's shim does.
func run(t *testing.T, program string, c *nodetest.Container) {
	t.Helper()
	if err := c.Runtime(program, "create", "--bundle", c.Bundle, "--pid-file", c.PidFile(), c.ID); err != nil {
		t.Fatal(err)
	}
	if err := c.Runtime(program, "start", c.ID); err != nil {
		t.Fatal(err)
	}
}

func registered(id string) (client.Registration, error) {
	return (&Runtime{Containers: client.ContainersFolder}).registration(id)
}

// takeCheckpoint starts a protected container through the runtime, has it serve
// twice, takes its checkpoint and deletes it.
func (s *checkpointer) takeCheckpoint(t *testing.T, program string) {
	t.Helper()
	source := nodetest.NewPod(t, "web-7d9f-old", "1")
	c := source.NewContainer(t, "c1", "main", protectedSpec)
	run(t, program, c)
	c.Output.WaitFor(t, "ready")
	if req := s.next(t).Create; req == nil || req.Container != (client.Container{ID: "c1", Name: "main", Namespace: "default", PodName: "web-7d9f-old", PodUID: "1", SandboxID: source.SandboxID}) || req.Bundle != c.Bundle {
		t.Errorf("the runtime asked %+v", req)
	}
	visit(t, source)
	visit(t, source)
	s.dump(t, source, c)
	if err := c.Runtime(program, "delete", "--force", c.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := registered("c1"); !os.IsNotExist(err) {
		t.Errorf("the registration after delete: %v", err)
	}
}

// dump takes the checkpoint of a pod's one container into the checkpointer's folder.
func (s *checkpointer) dump(t *testing.T, source *nodetest.Pod, c *nodetest.Container) {
	t.Helper()
	dump, err := s.engine.Checkpoint(context.Background(), criu.PodTarget{
		Namespace: "default", Name: source.Name, UID: source.UID, EmptyDirs: source.EmptyDirs, ShmDir: source.Shm, Hostname: source.Name,
		Containers: []criu.Target{{
			Container: client.Container{ID: c.ID, Name: c.Name}, Pid: c.Pid(t), BundleDir: c.Bundle, RuncStateDir: filepath.Join(nodetest.RuncRoot, c.ID),
		}},
	}, s.dir, false)
	if err == nil {
		defer dump.Close()
		err = s.memory.Take(dump.Memory)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestCreateRestores(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	s, program := serve(t), runtimeProgram(t)
	s.takeCheckpoint(t, program)
	if err := os.WriteFile(client.Folder+"/fence.json", []byte(`{"state":"Running","epoch":3}`), 0o600); err != nil {
		t.Fatal(err)
	}

	goal := nodetest.NewPod(t, "web-7d9f-new", "2")
	c := goal.NewContainer(t, "r1", "main", protectedSpec)
	s.answer = func(req client.CreateRequest) client.CreateResponse {
		if registration, err := registered(req.ID); err != nil || registration.Epoch != 3 || req.Epoch != 3 || registration.CgroupsPath != c.CgroupsPath() {
			t.Errorf("registered %+v, %v before the checkpointer was asked", registration, err)
		}
		return s.restoring(t, goal)(req)
	}
	run(t, program, c)
	s.next(t)
	if report := s.next(t).Report; report == nil || !report.Restored || report.ID != "r1" || report.Seconds <= 0 {
		t.Errorf("the runtime reported %+v", report)
	}
	if answer := visit(t, goal); answer != "3 written by the program" {
		t.Errorf("the restored server answered %q", answer)
	}
	if served := c.Output.WaitFor(t, "served "); served != "3" {
		t.Errorf("the restored server wrote %q to its new output", served)
	}
	var host string
	if err := goal.In(unix.CLONE_NEWUTS, func() (err error) { host, err = os.Hostname(); return err }); err != nil || host != goal.Name {
		t.Errorf("the new pod's host name is %q, %v", host, err)
	}
	if registration, err := registered("r1"); err != nil || !registration.Restored {
		t.Errorf("registered %+v, %v", registration, err)
	}

	// Its death must be seen as that of any container.
	if err := c.Runtime(program, "kill", "r1", "KILL"); err != nil {
		t.Fatal(err)
	}
	nodetest.Eventually(t, 10*time.Second, "the container is stopped", func() bool {
		_, err := client.FirstProcess(nodetest.RuncRoot, "/proc", "r1")
		return err != nil
	})
	if err := c.Runtime(program, "start", "r1"); err == nil {
		t.Error("start of a restored container that has died succeeded")
	}
	if err := c.Runtime(program, "delete", "r1"); err != nil {
		t.Fatal(err)
	}
	if _, err := registered("r1"); !os.IsNotExist(err) {
		t.Errorf("the registration after delete: %v", err)
	}
}

// TestFailedRestoreOfAClone: what may only be restored is not created when that fails.
func TestFailedRestoreOfAClone(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	s, program := serve(t), runtimeProgram(t)
	s.takeCheckpoint(t, program)
	if err := os.Truncate(filepath.Join(s.dir, "main", criu.ImagesDir, "core-1.img"), 20); err != nil {
		t.Fatal(err)
	}
	goal := nodetest.NewPod(t, "web-clone", "3")
	c := goal.NewContainer(t, "r2", "main", protectedSpec)
	s.answer = func(req client.CreateRequest) client.CreateResponse {
		resp := s.restoring(t, goal)(req)
		resp.Lazy, resp.OrNothing = false, true
		return resp
	}
	if err := c.Runtime(program, "create", "--bundle", c.Bundle, "--pid-file", c.PidFile(), c.ID); err == nil {
		t.Error("the container was created")
	}
	s.next(t)
	if report := s.next(t).Report; report == nil || report.Restored || report.Message == "" {
		t.Errorf("the runtime reported %+v", report)
	}
	if _, err := registered("r2"); !os.IsNotExist(err) {
		t.Errorf("it is still registered: %v", err)
	}
	if err := c.Runtime(program, "state", c.ID); err == nil {
		t.Error("runc has a container of its name")
	}
}

func TestFailedRestoreStartsAnew(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	s, program := serve(t), runtimeProgram(t)
	s.takeCheckpoint(t, program)
	images := filepath.Join(s.dir, "main", criu.ImagesDir)
	if err := os.Truncate(filepath.Join(images, "core-1.img"), 20); err != nil {
		t.Fatal(err)
	}

	goal := nodetest.NewPod(t, "web-7d9f-new", "2")
	c := goal.NewContainer(t, "r1", "main", protectedSpec)
	before, err := os.ReadFile(filepath.Join(c.Bundle, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	leftover := filepath.Join(c.Bundle, "rootfs", "state")
	var applied bool
	s.answer = func(req client.CreateRequest) client.CreateResponse {
		resp := s.restoring(t, goal)(req)
		_, err := os.Stat(leftover)
		applied = err == nil
		resp.Lazy = false
		return resp
	}
	if err := c.Runtime(program, "create", "--bundle", c.Bundle, "--pid-file", c.PidFile(), c.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(leftover); !applied || !os.IsNotExist(err) {
		t.Errorf("the checkpoint's file was there: %v; after the failure: %v", applied, err)
	}
	if err := c.Runtime(program, "start", c.ID); err != nil {
		t.Fatal(err)
	}
	c.Output.WaitFor(t, "ready")
	if answer := visit(t, goal); answer != "1 written by the program" {
		t.Errorf("the server answered %q, but it should have started anew", answer)
	}
	s.next(t)
	report := s.next(t).Report
	if report == nil || report.Restored || !strings.Contains(report.Message, "runc restore") || !strings.Contains(report.Message, "core-1.img") {
		t.Errorf("the runtime reported %+v", report)
	}
	after, err := os.ReadFile(filepath.Join(c.Bundle, "config.json"))
	if err != nil || string(after) != string(before) {
		t.Errorf("config.json was not put back: %v", err)
	}
	if registration, err := registered("r1"); err != nil || registration.Restored {
		t.Errorf("registered %+v, %v", registration, err)
	}
	c.Delete(t)
}

// confirm says which pods the API said are the node's, in which epoch.
func confirm(t *testing.T, pods string) {
	t.Helper()
	if err := os.MkdirAll(client.Folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(client.ConfirmedPath, []byte(pods), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestNoCheckpointerStartsAnew(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	program := runtimeProgram(t)
	pod := nodetest.NewPod(t, "web", "1")
	c := pod.NewContainer(t, "c1", "main", protectedSpec)
	confirm(t, `{"1":0}`)
	started := time.Now()
	run(t, program, c)
	if waited := time.Since(started); waited < absentTime || waited > absentTime+5*time.Second {
		t.Errorf("create took %v without a checkpointer", waited)
	}
	c.Output.WaitFor(t, "ready")
	if _, err := registered("c1"); err != nil {
		t.Error(err)
	}
	log, err := os.ReadFile(filepath.Join(c.Bundle, "log.json"))
	if err != nil || !strings.Contains(string(log), "lifeboat: container c1: reach the checkpointer") {
		t.Errorf("the log says nothing of it: %v\n%s", err, log)
	}
	for line := range strings.Lines(string(log)) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %s", line)
		}
	}
	c.Delete(t)
}

// A pod that was moved while its node was away must not come back there because
// nobody can be asked.
func TestNobodyToAskRefuses(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	program := runtimeProgram(t)
	pod := nodetest.NewPod(t, "web", "1")
	for name, pods := range map[string]string{
		"never confirmed":                      `{"2":0}`,
		"confirmed before the node was fenced": `{"1":2}`,
		"unreadable":                           `{`,
	} {
		c := pod.NewContainer(t, "c1", "main", protectedSpec)
		confirm(t, pods)
		if err := c.Runtime(program, "create", "--bundle", c.Bundle, "--pid-file", c.PidFile(), c.ID); err == nil {
			t.Errorf("%s: the container was created", name)
		}
		if _, err := registered("c1"); !os.IsNotExist(err) {
			t.Errorf("%s: the registration: %v", name, err)
		}
	}
}

func TestUnprotectedContainerIsRuncsAlone(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	s, program := serve(t), runtimeProgram(t)
	pod := nodetest.NewPod(t, "web", "1")
	c := pod.NewContainer(t, "c1", "main", nodetest.Spec{Args: []string{"server"}})
	run(t, program, c)
	c.Output.WaitFor(t, "ready")
	if len(s.requests) != 0 {
		t.Errorf("the checkpointer was asked %+v", <-s.requests)
	}
	if entries, err := os.ReadDir(client.ContainersFolder); len(entries) != 0 {
		t.Errorf("registered %v, %v", entries, err)
	}
	var mptcp []byte
	err := pod.In(unix.CLONE_NEWNET, func() (err error) { mptcp, err = os.ReadFile(mptcpSwitch); return err })
	if err == nil && strings.TrimSpace(string(mptcp)) != "1" {
		t.Errorf("MPTCP is %s in the pod", mptcp)
	}
	c.Delete(t)
	for _, args := range [][]string{{"--version"}, {"features"}, {"--root", nodetest.RuncRoot, "list"}} {
		want, _ := exec.Command("runc", args...).CombinedOutput()
		got, err := exec.Command(program, args...).CombinedOutput()
		if err != nil || string(got) != string(want) {
			t.Errorf("%v: %v\n%s\nwant\n%s", args, err, got, want)
		}
	}
}
