package preflight_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/cgroup"
	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu/nodetest"
	"github.com/lifeboat-dev/lifeboat/checkpointer/preflight"
	"github.com/lifeboat-dev/lifeboat/checkpointer/track"
)

func TestMain(m *testing.M) {
	for name, do := range workloads {
		workloads[name] = staying(do)
	}
	nodetest.Main(m, workloads)
}

type object = map[string]any

// change edits a container's configuration before it is started.
type change func(config object)

// privileged gives a container every capability.
func privileged(config object) {
	var all []string
	for _, name := range []string{"SYS_ADMIN", "BPF", "PERFMON", "NET_ADMIN", "NET_RAW", "SYS_PTRACE", "MKNOD", "SETUID", "SETGID", "DAC_OVERRIDE", "IPC_LOCK", "SYS_TIME", "SYSLOG"} {
		all = append(all, "CAP_"+name)
	}
	config["process"].(object)["capabilities"] = object{"bounding": all, "effective": all, "permitted": all}
}

// withDevice gives a container a device of the node.
func withDevice(path string, major, minor int) change {
	return func(config object) {
		privileged(config)
		linux := config["linux"].(object)
		linux["devices"] = []object{{"path": path, "type": "c", "major": major, "minor": minor, "fileMode": 0o666}}
		linux["resources"].(object)["devices"] = []object{{"allow": true, "access": "rwm"}}
	}
}

// withoutNamespace leaves a container in the node's namespace.
func withoutNamespace(kind string) change {
	return func(config object) {
		linux := config["linux"].(object)
		var kept []any
		for _, ns := range linux["namespaces"].([]any) {
			if ns.(object)["type"] != kind {
				kept = append(kept, ns)
			}
		}
		linux["namespaces"] = kept
	}
}

func asUser(config object) {
	process := config["process"].(object)
	process["user"] = object{"uid": 1000, "gid": 1000}
	process["capabilities"] = object{}
}

// scene is one container, what Look finds, and what CRIU does with it.
type scene struct {
	args   []string
	change change
	// beside is done while the container runs, before it is looked at.
	beside func(t *testing.T, c *nodetest.Container)
	// want are the reasons of the findings.
	want []preflight.Reason
	// unasked is why CRIU is not asked.
	unasked string
	// passing is whether CRIU refuses the container only for a moment.
	passing bool
	// dumps is whether CRIU, or Lifeboat's way of using it, dumps what refuses all
	// the same, because it could not be restored. fails is whether that is tried.
	dumps, fails bool
	// ours is whether Lifeboat's way of using CRIU dumps what runc's does not.
	ours bool
	// stays is why the container cannot come back beside the pod that it was in.
	stays string
}

var scenes = map[string]scene{
	"plain":                 {args: []string{"plain"}},
	"common descriptors":    {args: []string{"descriptors"}},
	"ended child":           {args: []string{"child", "ended"}},
	"stopped child":         {args: []string{"child", "stopped"}, want: []preflight.Reason{preflight.StoppedProcess}, unasked: "with cgroup v1 CRIU waits for ever and cannot be killed"},
	"io_uring":              {args: []string{"syscall", "io_uring"}, want: []preflight.Reason{preflight.IOUring}},
	"userfaultfd":           {args: []string{"syscall", "userfaultfd"}, want: []preflight.Reason{preflight.Userfaultfd}},
	"perf event":            {args: []string{"syscall", "perf_event"}, change: privileged, want: []preflight.Reason{preflight.PerfEvent}},
	"secret memory":         {args: []string{"syscall", "memfd_secret"}, want: []preflight.Reason{preflight.SecretMemory}},
	"bpf map":               {args: []string{"syscall", "bpf map"}, change: privileged, want: []preflight.Reason{preflight.BPF}},
	"fanotify":              {args: []string{"syscall", "fanotify"}, change: privileged},
	"landlock":              {args: []string{"syscall", "landlock"}, want: []preflight.Reason{preflight.UnknownDescriptor}},
	"fsopen":                {args: []string{"syscall", "fsopen"}, change: privileged, want: []preflight.Reason{preflight.UnknownDescriptor}},
	"shared memory":         {args: []string{"memory", "80"}, want: []preflight.Reason{preflight.SharedMemory}},
	"packet socket":         {args: []string{"socket", "17", "3", "768"}, want: []preflight.Reason{preflight.PacketSocket}},
	"raw socket":            {args: []string{"socket", "2", "3", "1"}},
	"ping socket":           {args: []string{"socket", "2", "2", "1"}},
	"UDP-Lite socket":       {args: []string{"socket", "2", "2", "136"}},
	"SCTP socket":           {args: []string{"socket", "2", "1", "132"}, want: []preflight.Reason{preflight.UnsupportedSocket}},
	"MPTCP socket":          {args: []string{"socket", "2", "1", "262"}, want: []preflight.Reason{preflight.MPTCP}},
	"vsock socket":          {args: []string{"socket", "40", "1", "0"}, want: []preflight.Reason{preflight.UnsupportedSocket}},
	"crypto socket":         {args: []string{"socket", "38", "5", "0"}, want: []preflight.Reason{preflight.UnsupportedSocket}},
	"XDP socket":            {args: []string{"socket", "44", "3", "0"}, change: privileged, want: []preflight.Reason{preflight.UnsupportedSocket}},
	"key socket":            {args: []string{"socket", "15", "3", "2"}, change: privileged, want: []preflight.Reason{preflight.UnsupportedSocket}},
	"netlink route":         {args: []string{"socket", "16", "3", "0"}},
	"netlink uevent":        {args: []string{"socket", "16", "3", "15"}},
	"netlink generic":       {args: []string{"socket", "16", "3", "16"}},
	"netlink unread":        {args: []string{"socket", "16", "3", "0", "unread"}, want: []preflight.Reason{preflight.PendingMessages}, passing: true},
	"TCP connection":        {args: []string{"listen"}, want: []preflight.Reason{preflight.OpenConnections}},
	"UNIX stream outside":   {args: []string{"connect", "unix", "/scratch/server"}, want: []preflight.Reason{preflight.OutsideSocket}},
	"UNIX datagram outside": {args: []string{"connect", "unixgram", "/scratch/datagrams"}, want: []preflight.Reason{preflight.OutsideSocket}},
	"nested pid":            {args: []string{"namespace", "pid"}, change: privileged, want: []preflight.Reason{preflight.NestedNamespace}},
	"nested user":           {args: []string{"namespace", "user"}, change: privileged, want: []preflight.Reason{preflight.NestedNamespace}},
	"nested ipc":            {args: []string{"namespace", "ipc"}, change: privileged, want: []preflight.Reason{preflight.NestedNamespace}},
	"nested uts":            {args: []string{"namespace", "uts"}, change: privileged, want: []preflight.Reason{preflight.NestedNamespace}},
	"nested cgroup":         {args: []string{"namespace", "cgroup"}, change: privileged, want: []preflight.Reason{preflight.NestedNamespace}},
	"nested time":           {args: []string{"namespace", "time"}, change: privileged, want: []preflight.Reason{preflight.NestedNamespace}},
	"nested net":            {args: []string{"namespace", "net"}, change: privileged, want: []preflight.Reason{preflight.NestedNamespace}, dumps: true},
	"nested mnt":            {args: []string{"namespace", "mnt"}, change: privileged},
	"fuse device":           {args: []string{"open", "/dev/fuse"}, change: withDevice("/dev/fuse", 10, 229), want: []preflight.Reason{preflight.Device}},
	"kvm device":            {args: []string{"open", "/dev/kvm"}, change: withDevice("/dev/kvm", 10, 232), want: []preflight.Reason{preflight.Device}},
	"tun device":            {args: []string{"open", "/dev/net/tun"}, change: withDevice("/dev/net/tun", 10, 200)},
	"tun interface":         {args: []string{"tun"}, change: withDevice("/dev/net/tun", 10, 200), want: []preflight.Reason{preflight.Device}, dumps: true, fails: true},
	"kernel log":            {args: []string{"open", "/dev/kmsg"}, change: withDevice("/dev/kmsg", 1, 11)},
	"console":               {args: []string{"open", "/dev/tty1"}, change: withDevice("/dev/tty1", 4, 1)},
	"deleted large":         {args: []string{"deleted", "629145600", "full"}, want: []preflight.Reason{preflight.DeletedFile}},
	"deleted mapped":        {args: []string{"deleted", "629145600", "mapped"}, want: []preflight.Reason{preflight.DeletedFile}},
	"deleted sparse":        {args: []string{"deleted", "629145600", "sparse"}},
	"inotify on volume":     {args: []string{"watch", "/scratch"}},
	"inotify on image":      {args: []string{"watch", "/usr/share"}, want: []preflight.Reason{preflight.FileWatch}},
	"inotify on /etc":       {args: []string{"watch", "/etc"}},
	"inotify on hosts":      {args: []string{"watch", "/etc/hosts"}},
	"tmpfs inside":          {args: []string{"mount", "tmpfs"}, change: privileged},
	"ramfs inside":          {args: []string{"mount", "ramfs"}, change: privileged, want: []preflight.Reason{preflight.ForeignMount}},
	"fuse inside":           {args: []string{"mount", "fuse"}, change: withDevice("/dev/fuse", 10, 229), want: []preflight.Reason{preflight.ForeignMount, preflight.Device}},
	"message queue":         {args: []string{"queue"}, want: []preflight.Reason{preflight.MessageQueue}},
	"segment":               {args: []string{"segment"}, stays: "the segment is the pod's, and lives on in it"},
	"other user":            {args: []string{"plain"}, change: asUser, ours: true},
	"two users":             {args: []string{"users"}, want: []preflight.Reason{preflight.UnreadableLimits}},
	"exec from outside":     {args: []string{"plain"}, beside: execInside, want: []preflight.Reason{preflight.ForeignProcess}},
	"traced":                {args: []string{"plain"}, beside: trace, want: []preflight.Reason{preflight.Traced}},
	"node's IPC":            {args: []string{"plain"}, change: withoutNamespace("ipc"), want: []preflight.Reason{preflight.HostIPC}},
	"node's network":        {args: []string{"plain"}, change: withoutNamespace("network"), want: []preflight.Reason{preflight.HostNetwork}, dumps: true},
	"node's processes":      {args: []string{"plain"}, change: withoutNamespace("pid"), want: []preflight.Reason{preflight.HostProcesses}, dumps: true},
}

// TestFindingsAgreeWithCRIU: for each scene, what refuses is what CRIU refuses,
// and what CRIU dumps is not refused.
func TestFindingsAgreeWithCRIU(t *testing.T) {
	for _, name := range slices.Sorted(maps.Keys(scenes)) {
		t.Run(name, func(t *testing.T) {
			if nodetest.Inside(t) {
				scenes[name].run(t)
			}
		})
	}
}

func (s scene) run(t *testing.T) {
	serveOutside(t)
	c := s.start(t, nodetest.NewPod(t, "pod", "1"), "c1")
	defer c.Delete(t)
	report := look(t, c)
	for _, f := range report.Findings {
		t.Logf("%s %s: %s; %s", f.Severity, f.Reason, f.Message(), f.Hint)
	}
	if len(report.Unseen) > 0 {
		t.Errorf("could not look at %q", report.Unseen)
	}
	if got := reasons(report); !slices.Equal(got, s.want) {
		t.Errorf("found %v, want %v", got, s.want)
	}
	if s.unasked != "" {
		t.Logf("CRIU was not asked: %s", s.unasked)
		return
	}
	good := report.Checkpointable() && !s.passing
	if err := checkpoint(t, c); (err == nil) != good && !s.dumps {
		t.Errorf("checkpointable is %v, but Checkpoint says: %v", good, err)
	}
	images := t.TempDir()
	refused := s.dump(t, c, images)
	t.Logf("CRIU: %v", refused)
	if (refused == nil) != good && !s.dumps && !s.ours {
		t.Errorf("checkpointable is %v, but CRIU says: %v", good, refused)
	}
	if refused != nil || s.stays != "" || s.dumps && !s.fails {
		return
	}
	if err := restore(t, c, images); (err == nil) == s.fails {
		t.Errorf("restored: %v", err)
	}
}

// restore ends the container and has it come back.
func restore(t *testing.T, c *nodetest.Container, images string) error {
	t.Helper()
	c.Delete(t)
	work := t.TempDir()
	err := c.Runtime("runc", "restore", "--detach", "--bundle", c.Bundle, "--pid-file", c.PidFile(), "--image-path", images, "--work-path", work, "--file-locks", "--ext-unix-sk", c.ID)
	if err != nil {
		return fmt.Errorf("%w: %s", err, errorsIn(filepath.Join(work, "restore.log")))
	}
	return nil
}

// TestSharedSegmentIsRefused: CRIU would dump two containers with the same System V
// segment, and could restore neither.
func TestSharedSegmentIsRefused(t *testing.T) {
	if !nodetest.Inside(t) {
		return
	}
	serveOutside(t)
	s := scenes["segment"]
	pod := nodetest.NewPod(t, "pod", "1")
	one, other := s.start(t, pod, "c1"), s.start(t, pod, "c2")
	if report := look(t, one, other); !slices.Equal(reasons(report), []preflight.Reason{preflight.SharedSegment}) {
		t.Errorf("found %+v", report.Findings)
	}
	if err := checkpoint(t, one, other); err == nil || !strings.Contains(err.Error(), "shares System V segment") {
		t.Errorf("Checkpoint says: %v", err)
	}
}

// start starts the scene's container, and does what is to be done beside it.
func (s scene) start(t *testing.T, pod *nodetest.Pod, id string) *nodetest.Container {
	t.Helper()
	// The volume is the pod's own; the server outside is reached through it.
	for _, name := range []string{"server", "datagrams"} {
		if err := os.Link(filepath.Join(nodetest.Disk, name), filepath.Join(pod.EmptyDirs["scratch"], name)); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
	}
	c := pod.NewContainer(t, id, "main-"+id, nodetest.Spec{Args: s.args})
	file := filepath.Join(c.Bundle, "config.json")
	var config object
	content, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(content, &config)
	}
	if err != nil {
		t.Fatal(err)
	}
	config["annotations"].(object)["org.criu.config"] = options(t)
	if s.change != nil {
		s.change(config)
	}
	content, err = json.Marshal(config)
	if err == nil {
		err = os.WriteFile(file, content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.Start(t)
	nodetest.Eventually(t, 20e9, "the program is ready", func() bool {
		return slices.ContainsFunc(c.Output.Lines(), func(line string) bool { return line == "ready" || strings.HasPrefix(line, "skip") })
	})
	if why := c.Output.Last("skip "); why != "" {
		t.Skipf("the kernel does not let the program do that: %s", why)
	}
	if s.beside != nil {
		s.beside(t, c)
	}
	return c
}

// options writes the options of Lifeboat's dumps that runc has no flags for.
func options(t *testing.T) string {
	file := filepath.Join(t.TempDir(), "criu.conf")
	text := fmt.Sprintf("tcp-close\nskip-in-flight\nlink-remap\nghost-limit %d\nnetwork-lock skip\n", preflight.GhostLimit)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func look(t *testing.T, containers ...*nodetest.Container) preflight.Report {
	t.Helper()
	var targets []preflight.Target
	for _, c := range containers {
		targets = append(targets, preflight.Target{Name: c.Name, Pid: c.Pid(t), BundleDir: c.Bundle, RuncStateDir: filepath.Join(nodetest.RuncRoot, c.ID)})
	}
	started := time.Now()
	report, err := preflight.Look(targets)
	t.Logf("looked in %v", time.Since(started))
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func reasons(report preflight.Report) []preflight.Reason {
	var found []preflight.Reason
	for _, f := range report.Findings {
		found = append(found, f.Reason)
	}
	return found
}

// dump has CRIU dump the container, past every check of Lifeboat's, and returns
// what it refuses.
func (s scene) dump(t *testing.T, c *nodetest.Container, images string) error {
	t.Helper()
	work := t.TempDir()
	// CRIU may wait for ever; what is frozen could not even be killed.
	timer := time.AfterFunc(dumpTime, func() { thaw(t, c) })
	defer timer.Stop()
	err := c.Runtime("runc", "checkpoint", "--leave-running", "--file-locks", "--ext-unix-sk", "--image-path", images, "--work-path", work, c.ID)
	if lines := errorsIn(filepath.Join(work, "dump.log")); err != nil && lines != "" {
		return errors.New(lines)
	}
	return err
}

// errorsIn are the errors in one of CRIU's logs.
func errorsIn(file string) string {
	log, _ := os.ReadFile(file)
	var lines []string
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, "Error (") && !strings.Contains(line, "RLIMIT_NOFILE") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return strings.Join(lines, " | ")
}

// dumpTime is how long CRIU may take.
const dumpTime = 20 * time.Second

func thaw(t *testing.T, c *nodetest.Container) {
	group, err := cgroup.ForPath("/sys/fs/cgroup", c.CgroupsPath())
	if err == nil {
		err = group.Thaw(context.Background())
	}
	t.Logf("thawed, because CRIU waits: %v", err)
}

// checkpoint takes a checkpoint as Lifeboat does.
func checkpoint(t *testing.T, containers ...*nodetest.Container) error {
	t.Helper()
	p := containers[0].Pod
	target := criu.PodTarget{Namespace: p.Namespace, Name: p.Name, UID: p.UID, EmptyDirs: p.EmptyDirs, ShmDir: p.Shm, Hostname: p.Name}
	for _, c := range containers {
		target.Containers = append(target.Containers, criu.Target{
			Container: client.Container{ID: c.ID, Name: c.Name, Namespace: p.Namespace, PodName: p.Name, PodUID: p.UID, SandboxID: p.SandboxID},
			Pid:       c.Pid(t), BundleDir: c.Bundle, RuncStateDir: filepath.Join(nodetest.RuncRoot, c.ID),
		})
	}
	method, err := track.Probe()
	if err != nil {
		t.Fatal(err)
	}
	engine := criu.NewEngine(criu.Host{ProcRoot: "/proc", Root: "/"}, criu.Options{Tracking: method}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	defer engine.Forget(p.UID)
	dump, err := engine.Checkpoint(context.Background(), target, t.TempDir(), false)
	if err != nil {
		return err
	}
	defer dump.Close()
	// The pages that it writes are followed now, which must not look like a
	// userfaultfd of its own.
	if after := look(t, containers...); slices.Contains(reasons(after), preflight.Userfaultfd) {
		t.Errorf("after a checkpoint: %+v", after.Findings)
	}
	return nil
}

// serveOutside has UNIX sockets that a program outside of all pods serves.
func serveOutside(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(nodetest.Disk, "server"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
		}
	}()
	datagrams, err := net.ListenPacket("unixgram", filepath.Join(nodetest.Disk, "datagrams"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { datagrams.Close() })
}

// execInside runs a program in the container as kubectl exec does.
func execInside(t *testing.T, c *nodetest.Container) {
	// Without output of its own: the program would keep it open.
	if err := exec.Command("runc", "--root", nodetest.RuncRoot, "exec", "--detach", c.ID, "/bin/sleep", "3600").Run(); err != nil {
		t.Fatal(err)
	}
}

// trace traces the container's first process until the test ends.
func trace(t *testing.T, c *nodetest.Container) {
	attached, end := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // the tracer is a thread, and its end ends the tracing
		attached <- unix.PtraceSeize(c.Pid(t))
		<-end
	}()
	if err := <-attached; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(end) })
}
