// Package runtime is an OCI runtime that restores containers. It stands between
// containerd and runc: every call goes on to runc as it is, but for the creation
// of a container of a protected pod. For that one it asks the node's
// checkpointer, and where a checkpoint is to be restored it has runc restore it.
//
// It fails open: whatever goes wrong here, runc gets the call. The one exception is
// a protected container of which nobody can say that its pod still belongs to the
// node: it could run twice, so it is not created, and kubelet tries again.
package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
)

// runcVariable names the environment variable that says where runc is.
const runcVariable = "LIFEBOAT_RUNC"

// Runtime is one call of the runtime.
type Runtime struct {
	// Runc is the path of the real runc.
	Runc string
	// Socket is where the checkpointer listens.
	Socket string
	// Containers is the folder of registrations.
	Containers string
	// Fence is the file in which the fencer keeps the node's fence record.
	Fence string
	// Confirmed is the file with the pods that the API said are the node's.
	Confirmed string
}

// FromEnvironment returns the runtime of this node.
func FromEnvironment() (*Runtime, error) {
	runc := os.Getenv(runcVariable)
	if runc == "" {
		runc = "runc"
	}
	path, err := exec.LookPath(runc)
	if err != nil {
		return nil, fmt.Errorf("find runc: %w; install it, or name it in %s", err, runcVariable)
	}
	if self, err := os.Executable(); err == nil {
		ours, errOurs := os.Stat(self)
		theirs, errTheirs := os.Stat(path)
		if errOurs == nil && errTheirs == nil && os.SameFile(ours, theirs) {
			return nil, fmt.Errorf("%s is this program itself; name the real runc in %s", path, runcVariable)
		}
	}
	return &Runtime{
		Runc: path, Socket: client.SocketPath, Containers: client.ContainersFolder,
		Fence: filepath.Join(client.Folder, "fence.json"), Confirmed: client.ConfirmedPath,
	}, nil
}

// Run does what the arguments, without the program's name, ask for, and returns
// the exit code. Where runc takes over it does not return.
func (r *Runtime) Run(args []string) int {
	a, err := parse(args)
	if err != nil {
		return r.runc(args)
	}
	log := logger{a.log, a.json}
	done, code := r.handle(a, log)
	if done {
		return code
	}
	return r.runc(args)
}

// handle does what this program does itself. It returns false where runc is to
// have the call.
func (r *Runtime) handle(a arguments, log logger) (done bool, code int) {
	defer func() {
		if p := recover(); p != nil {
			log.warn("%s of container %s: internal error: %v; runc goes on alone", a.command, a.id, p)
			done = false
		}
	}()
	switch a.command {
	case "create":
		return r.create(a, log)
	case "start":
		return r.start(a, log), 0
	case "delete":
		return r.delete(a, log)
	}
	return false, 0
}

// runc replaces this program by runc.
func (r *Runtime) runc(args []string) int {
	err := syscall.Exec(r.Runc, append([]string{r.Runc}, args...), os.Environ())
	fmt.Fprintf(os.Stderr, "lifeboat-runtime: start %s: %v\n", r.Runc, err)
	return 1
}

// command readies runc as a child, with the container's standard streams.
func (r *Runtime) command(args ...string) *exec.Cmd {
	cmd := exec.Command(r.Runc, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd
}

// start does nothing for a container that was restored: it runs already.
func (r *Runtime) start(a arguments, log logger) bool {
	registration, err := r.registration(a.id)
	if err != nil || !registration.Restored {
		return false
	}
	if _, err := client.FirstProcess(a.root, "/proc", a.id); err != nil {
		log.warn("start of restored container %s: %v", a.id, err)
		return false
	}
	return true
}

// delete has runc delete the container, and then forgets it. A container that
// runc could not delete may still run, so it stays registered.
func (r *Runtime) delete(a arguments, log logger) (bool, int) {
	if _, err := os.Lstat(r.registrationPath(a.id)); err != nil {
		return false, 0
	}
	args := append(append([]string{}, a.global...), "delete")
	if a.force {
		args = append(args, "--force")
	}
	err := r.command(append(args, a.id)...).Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return true, max(exit.ExitCode(), 1)
	case err != nil:
		log.warn("delete container %s: %v", a.id, err)
		return false, 0
	}
	if err := os.Remove(r.registrationPath(a.id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.warn("forget container %s: %v", a.id, err)
	}
	return true, 0
}
