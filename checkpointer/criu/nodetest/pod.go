package nodetest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Where containerd keeps bundles and runc its state.
const (
	Bundles  = "/run/containerd/io.containerd.runtime.v2.task/k8s.io"
	RuncRoot = "/run/containerd/runc/k8s.io"
)

// workloadWord is the first argument of a copy of the test program that is a
// program in a container.
const workloadWord = "lifeboat-workload"

// Main runs the tests of a package; or one of its workloads, by name, where
// this process is a container's.
func Main(m *testing.M, workloads map[string]func(args []string)) {
	if Workload(workloads) {
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Workload runs one of the workloads where this process is a container's, and
// says whether it is.
func Workload(workloads map[string]func(args []string)) bool {
	if len(os.Args) < 3 || os.Args[1] != workloadWord {
		return false
	}
	if os.Args[2] == "pause" {
		time.Sleep(time.Hour)
		return true
	}
	workloads[os.Args[2]](os.Args[3:])
	return true
}

// Pod is what a sandbox gives to the containers of a pod: namespaces for
// network, IPC and host name, and shared memory.
type Pod struct {
	Name, UID, Namespace, SandboxID string
	Shm                             string // the folder behind /dev/shm
	EmptyDirs                       map[string]string
	pause                           int
}

// NewPod starts a pod's sandbox in the node. The node's end ends it.
func NewPod(t T, name, uid string) *Pod {
	t.Helper()
	cmd := exec.Command(Program, workloadWord, "pause")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start the sandbox: %v", err)
	}
	p := &Pod{
		Name: name, UID: uid, Namespace: "default", SandboxID: "sandbox-" + uid, pause: cmd.Process.Pid,
		Shm:       "/run/containerd/io.containerd.grpc.v1.cri/sandboxes/sandbox-" + uid + "/shm",
		EmptyDirs: map[string]string{"scratch": filepath.Join(Disk, "volumes", uid, "scratch")},
	}
	for _, dir := range []string{p.Shm, p.EmptyDirs["scratch"]} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("shm", p.Shm, "tmpfs", 0, "mode=1777"); err != nil {
		t.Fatal(err)
	}
	err := p.In(unix.CLONE_NEWNET|unix.CLONE_NEWUTS, func() error {
		if err := unix.Sethostname([]byte(name)); err != nil {
			return err
		}
		return LoopbackUp()
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// In calls do on a thread that is in the pod's namespaces of the given kinds.
func (p *Pod) In(kinds int, do func() error) error {
	return inNamespaces(map[int]string{
		unix.CLONE_NEWNET: p.NS("net"), unix.CLONE_NEWUTS: p.NS("uts"), unix.CLONE_NEWIPC: p.NS("ipc"),
	}, kinds, do)
}

// NS is the path of one of the pod's namespaces: "net", "ipc" or "uts".
func (p *Pod) NS(kind string) string { return fmt.Sprintf("/proc/%d/ns/%s", p.pause, kind) }

// Container is one container of a pod, with its bundle.
type Container struct {
	ID, Name, Bundle, Upper string
	Pod                     *Pod
	Output                  *Output
}

// Spec is what differs from one container to another.
type Spec struct {
	Args []string // the workload's name and arguments
	// Command is run instead of a workload.
	Command []string
	// Files are files and folders of the node, by their place in the container,
	// which sees them and cannot change them.
	Files       map[string]string
	Terminal    bool
	SharePID    string // a process namespace to join
	Annotations map[string]string
	// Restricted is whether the container runs as a pod of the restricted Pod
	// Security Standard does: as UID, no capabilities, a seccomp filter, a
	// read-only root file system.
	Restricted bool
	UID        int
}

// NewContainer makes a container's bundle as containerd would.
func (p *Pod) NewContainer(t T, id, name string, spec Spec) *Container {
	t.Helper()
	c := &Container{ID: id, Name: name, Pod: p, Bundle: filepath.Join(Bundles, id), Upper: filepath.Join(Disk, "snapshots", id, "fs"), Output: new(Output)}
	work, rootfs := filepath.Join(Disk, "snapshots", id, "work"), filepath.Join(c.Bundle, "rootfs")
	files := filepath.Join(Disk, "files", p.UID)
	for _, dir := range []string{c.Upper, work, rootfs, files} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for file, content := range map[string]string{"hosts": "127.0.0.1 localhost\n", "hostname": p.Name + "\n", "termination-log": ""} {
		if err := os.WriteFile(filepath.Join(files, file), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", System, c.Upper, work)
	if err := unix.Mount("overlay", rootfs, "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	config, err := json.MarshalIndent(c.config(spec, files), "", " ")
	if err == nil {
		err = os.WriteFile(filepath.Join(c.Bundle, "config.json"), config, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

type object = map[string]any

// config is like the OCI configuration that containerd 1.7 writes for a
// container of a pod on cgroup v1.
func (c *Container) config(spec Spec, files string) object {
	bind := func(destination, source string, more ...string) object {
		return object{"destination": destination, "type": "bind", "source": source, "options": append([]string{"rbind", "rprivate", "rw"}, more...)}
	}
	command := spec.Command
	if command == nil {
		command = append([]string{"/workload", workloadWord}, spec.Args...)
	}
	pid := object{"type": "pid"}
	if spec.SharePID != "" {
		pid["path"] = spec.SharePID
	}
	annotations := object{
		"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.container-name": c.Name,
		"io.kubernetes.cri.image-name": "example.org/workload:1", "io.kubernetes.cri.sandbox-id": c.Pod.SandboxID,
		"io.kubernetes.cri.sandbox-name": c.Pod.Name, "io.kubernetes.cri.sandbox-namespace": c.Pod.Namespace,
		"io.kubernetes.cri.sandbox-uid": c.Pod.UID,
	}
	for key, value := range spec.Annotations {
		annotations[key] = value
	}
	capabilities := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"}
	config := object{
		"ociVersion": "1.1.0",
		"process": object{
			"terminal": spec.Terminal, "user": object{"uid": 0, "gid": 0}, "cwd": "/",
			"args":         command,
			"env":          []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=" + c.Pod.Name},
			"capabilities": object{"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
		},
		"root": object{"path": "rootfs"},
		"mounts": []object{
			{"destination": "/proc", "type": "proc", "source": "proc", "options": []string{"nosuid", "noexec", "nodev"}},
			{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": []string{"nosuid", "noexec", "nodev"}},
			{"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": []string{"nosuid", "noexec", "nodev", "ro"}},
			{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
			bind("/etc/hosts", files+"/hosts"),
			bind("/dev/termination-log", files+"/termination-log"),
			bind("/etc/hostname", files+"/hostname"),
			bind("/dev/shm", c.Pod.Shm),
			bind("/scratch", c.Pod.EmptyDirs["scratch"]),
			bind("/workload", Program, "ro"),
		},
		"annotations": annotations,
		"linux": object{
			"cgroupsPath": c.CgroupsPath(),
			"resources":   object{"devices": []object{{"allow": false, "access": "rwm"}}, "cpu": object{"shares": 2}},
			"namespaces": []object{pid, {"type": "mount"}, {"type": "ipc", "path": c.Pod.NS("ipc")},
				{"type": "uts", "path": c.Pod.NS("uts")}, {"type": "network", "path": c.Pod.NS("net")}},
			"maskedPaths": []string{"/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
				"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"},
			"readonlyPaths": []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	for place, source := range spec.Files {
		config["mounts"] = append(config["mounts"].([]object), bind(place, source, "ro"))
	}
	if spec.Restricted {
		process := config["process"].(object)
		process["user"] = object{"uid": spec.UID, "gid": spec.UID, "additionalGids": []int{spec.UID, 2000}}
		process["noNewPrivileges"] = true
		process["capabilities"] = object{}
		config["root"].(object)["readonly"] = true
		config["linux"].(object)["seccomp"] = object{
			"defaultAction": "SCMP_ACT_ALLOW", "architectures": []string{"SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"},
			"syscalls": []object{{"names": []string{"userfaultfd", "mount", "ptrace", "io_uring_setup"}, "action": "SCMP_ACT_ERRNO"}},
		}
	}
	return config
}

// SetCRIUConfig has runc run CRIU with a configuration file.
func (c *Container) SetCRIUConfig(t T, config string) {
	t.Helper()
	file := filepath.Join(c.Bundle, "config.json")
	raw, err := os.ReadFile(file)
	var content object
	if err == nil {
		err = json.Unmarshal(raw, &content)
	}
	if err == nil {
		content["annotations"].(object)["org.criu.config"] = config
		raw, err = json.MarshalIndent(content, "", " ")
	}
	if err == nil {
		err = os.WriteFile(file, raw, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// CgroupsPath is the container's cgroup, as its configuration names it.
func (c *Container) CgroupsPath() string {
	return "/kubepods/besteffort/pod" + c.Pod.UID + "/" + c.ID
}

// PidFile is where the container's process ID is written.
func (c *Container) PidFile() string { return filepath.Join(c.Bundle, "init.pid") }

// Runtime calls an OCI runtime for the container as containerd's shim does: with
// the container's standard streams as its own.
func (c *Container) Runtime(program string, args ...string) error {
	global := []string{"--root", RuncRoot, "--log", filepath.Join(c.Bundle, "log.json"), "--log-format", "json"}
	cmd := exec.Command(program, append(global, args...)...)
	var stderr bytes.Buffer
	if args[0] == "create" || args[0] == "restore" {
		out, err := c.Output.Pipe()
		if err != nil {
			return err
		}
		defer out.Close()
		cmd.Stdout, cmd.Stderr = out, out
	} else {
		cmd.Stderr = &stderr
	}
	if err := cmd.Run(); err != nil {
		log, _ := os.ReadFile(filepath.Join(c.Bundle, "log.json"))
		return fmt.Errorf("%s %s: %w: %s %s", program, strings.Join(args, " "), err, stderr.String(), log)
	}
	return nil
}

// Start creates and starts the container with runc.
func (c *Container) Start(t T) {
	t.Helper()
	if err := c.Runtime("runc", "create", "--bundle", c.Bundle, "--pid-file", c.PidFile(), c.ID); err != nil {
		t.Fatal(err)
	}
	if err := c.Runtime("runc", "start", c.ID); err != nil {
		t.Fatal(err)
	}
}

// Delete kills the container and removes it from runc.
func (c *Container) Delete(t T) {
	t.Helper()
	if err := c.Runtime("runc", "delete", "--force", c.ID); err != nil {
		t.Fatal(err)
	}
}

// Pid is the container's first process.
func (c *Container) Pid(t T) int {
	t.Helper()
	content, err := os.ReadFile(c.PidFile())
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(content))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// Output collects the lines that a container writes.
type Output struct {
	mu    sync.Mutex
	lines []string
}

// Pipe makes a pipe to be the container's output.
func (o *Output) Pipe() (*os.File, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	go func() {
		defer reader.Close()
		for lines := bufio.NewScanner(reader); lines.Scan(); {
			o.mu.Lock()
			o.lines = append(o.lines, lines.Text())
			o.mu.Unlock()
		}
	}()
	return writer, nil
}

// Lines are all lines so far.
func (o *Output) Lines() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.lines)
}

// Last is the last line that begins with prefix, without the prefix, or "".
func (o *Output) Last(prefix string) string {
	rest, _ := o.last(prefix)
	return rest
}

func (o *Output) last(prefix string) (rest string, found bool) {
	for _, line := range slices.Backward(o.Lines()) {
		if rest, found := strings.CutPrefix(line, prefix); found {
			return rest, true
		}
	}
	return "", false
}

// WaitFor waits until a line begins with prefix and returns the rest of the
// last such line.
func (o *Output) WaitFor(t T, prefix string) string {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		if rest, found := o.last(prefix); found {
			return rest
		}
		if time.Now().After(limit) {
			lines := o.Lines()
			t.Fatalf("the container has not written %q; its last of %d lines:\n%s", prefix, len(lines), strings.Join(lines[max(0, len(lines)-20):], "\n"))
		}
	}
}
