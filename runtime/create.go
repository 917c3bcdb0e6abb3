package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
)

const (
	// answerTime is how long the checkpointer may take to say how to create a
	// container: it may have to fetch a checkpoint first, or to wait until the pod that
	// the container's takes the place of is stopped. kubelet gives up after two minutes.
	answerTime = 110 * time.Second
	// absentTime is how long a checkpointer that does not answer is waited for, from
	// when it was last there: it may just be starting anew.
	absentTime = 5 * time.Second
	// askEvery is how long to wait before such a checkpointer is asked again.
	askEvery = 100 * time.Millisecond
	// reportTime bounds the report of how a restore ended.
	reportTime = 5 * time.Second
)

// create restores the container where the checkpointer says so, and refuses it
// where the pod is no longer this node's. It returns whether that was all, and
// the exit status; otherwise runc is to create the container.
func (r *Runtime) create(a arguments, log logger) (done bool, status int) {
	started := time.Now()
	b, err := readBundle(a.bundle)
	if err != nil {
		log.warn("read the bundle of container %s: %v; it starts unprotected", a.id, err)
		return false, 0
	}
	if b == nil {
		return false, 0
	}
	container, err := b.container(a.id)
	if err != nil {
		log.warn("container %s: %v; it starts unprotected", a.id, err)
		return false, 0
	}
	registration := client.Registration{Container: container, CgroupsPath: b.config.Linux.CgroupsPath, Epoch: r.epoch(log)}
	if err := r.register(registration); err != nil {
		log.warn("register container %s: %v; the node cannot fence it", a.id, err)
	}
	if netNS := b.namespace("network"); netNS != "" {
		if err := disableMPTCP(netNS); err != nil {
			log.warn("switch MPTCP off for container %s: %v; it may not be checkpointable", a.id, err)
		}
	}

	answer, err := r.ask(client.CreateRequest{Container: container, Bundle: b.folder, Epoch: registration.Epoch})
	switch {
	case err != nil && r.confirmed(registration, log):
		log.warn("container %s: %v; it starts anew", a.id, err)
		return false, 0
	case err != nil:
		return true, r.refuse(a.id, fmt.Sprintf("%v; without it nobody can say whether its pod still belongs to this node", err), log)
	case answer.Refuse != "":
		return true, r.refuse(a.id, answer.Refuse, log)
	case !answer.Restore:
		if answer.Reason != "" {
			log.warn("container %s starts anew: %s", a.id, answer.Reason)
		}
		return false, 0
	}
	makes := b.absentIPC(answer.IPC, log)
	err = r.restore(a, b, answer)
	report := client.ReportRequest{Container: container, Restored: err == nil, Seconds: time.Since(started).Seconds()}
	if err != nil {
		report.Message = err.Error()
		log.warn("restore container %s from generation %d: %v", a.id, answer.Generation, err)
		if err := r.undo(a, b, append(makes, misplaced(restoreLog(answer), answer.IPC)...)); err != nil {
			log.warn("undo the restore of container %s: %v", a.id, err)
		}
	} else {
		log.info("restored container %s from generation %d in %.3f s", a.id, answer.Generation, report.Seconds)
		registration.Restored, registration.IPC = true, makes
		if err := r.register(registration); err != nil {
			log.warn("register container %s as restored: %v", a.id, err)
		}
	}
	r.report(report, log)
	if err != nil && answer.OrNothing {
		return true, r.refuse(a.id, fmt.Sprintf("it could not be restored from generation %d, and is not to start anew: %v", answer.Generation, err), log)
	}
	return report.Restored, 0
}

// refuse tells why a container is not created, and forgets it. It returns the exit status.
func (r *Runtime) refuse(id, why string, log logger) int {
	log.warn("container %s is not created: %s", id, why)
	fmt.Fprintf(os.Stderr, "lifeboat-runtime: container %s is not created: %s\n", id, why)
	if err := os.Remove(r.registrationPath(id)); err != nil {
		log.warn("container %s: %v", id, err)
	}
	return 1
}

// confirmed is whether the API has said, in the node's present epoch, that a
// container's pod is the node's. A node that was fenced may have lost it.
func (r *Runtime) confirmed(registration client.Registration, log logger) bool {
	raw, err := os.ReadFile(r.Confirmed)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	var epochs map[string]int64
	if err == nil {
		err = json.Unmarshal(raw, &epochs)
	}
	if err != nil {
		log.warn("read which pods are the node's: %v", err)
	}
	epoch, ok := epochs[registration.PodUID]
	return ok && epoch == registration.Epoch && epoch == r.epoch(log)
}

// ask asks the checkpointer how to create a container.
func (r *Runtime) ask(req client.CreateRequest) (*client.CreateResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	absent := time.Now().Add(absentTime)
	for {
		asked := time.Now()
		resp, err := client.Do(ctx, r.Socket, client.Request{Create: &req})
		if err == nil && resp.Create == nil {
			err = errors.New("the checkpointer's answer is empty")
		}
		if err == nil {
			return resp.Create, nil
		}
		if ended := time.Now(); ended.Sub(asked) > askEvery {
			absent = ended.Add(absentTime) // it has been there, and went away while it was waited for
		}
		if !isAbsent(err) || time.Now().After(absent) {
			return nil, err
		}
		select {
		case <-time.After(askEvery):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// isAbsent is whether an error means that no checkpointer is there to answer,
// or that it went away before it did.
func isAbsent(err error) bool {
	for _, cause := range []error{fs.ErrNotExist, syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, io.EOF} {
		if errors.Is(err, cause) {
			return true
		}
	}
	return false
}

func (r *Runtime) report(req client.ReportRequest, log logger) {
	ctx, cancel := context.WithTimeout(context.Background(), reportTime)
	defer cancel()
	if _, err := client.Do(ctx, r.Socket, client.Request{Report: &req}); err != nil {
		log.warn("report the restore of container %s: %v", req.ID, err)
	}
}

// restore has runc restore the container. This program's standard streams are
// the container's, and runc hands them to it.
func (r *Runtime) restore(a arguments, b *bundle, answer *client.CreateResponse) error {
	utsNS := b.namespace("uts")
	var name string
	if utsNS != "" {
		var err error
		if name, err = hostname(utsNS); err != nil {
			return fmt.Errorf("read the pod's host name: %w", err)
		}
	}
	if answer.ConfigPath != "" {
		if err := b.setCRIUConfig(answer.ConfigPath); err != nil {
			return fmt.Errorf("name CRIU's configuration: %w", err)
		}
	}
	args := append([]string{}, a.global...)
	args = append(args, "restore", "--detach", "--bundle", b.folder, "--image-path", answer.ImagesPath, "--work-path", answer.WorkPath,
		"--manage-cgroups-mode", "ignore", "--file-locks", "--ext-unix-sk")
	for flag, value := range map[string]string{"--pid-file": a.pidFile, "--console-socket": a.console} {
		if value != "" {
			args = append(args, flag, value)
		}
	}
	if a.noPivot {
		args = append(args, "--no-pivot")
	}
	if answer.Lazy {
		args = append(args, "--lazy-pages")
	}
	if err := r.command(append(args, a.id)...).Run(); err != nil {
		return fmt.Errorf("runc restore: %w%s", err, logTail(restoreLog(answer)))
	}
	if utsNS != "" {
		// CRIU has set the name that the checkpointed pod had.
		if err := setHostname(utsNS, name); err != nil {
			return fmt.Errorf("set the pod's host name: %w", err)
		}
	}
	return nil
}

// undo removes what a failed restore has left, so that the container can start
// as if there had been none, also made, which it may have made in the IPC namespace.
func (r *Runtime) undo(a arguments, b *bundle, made []client.IPCObject) error {
	// Before runc has a state of the container this fails, and nothing is left.
	deleted := r.command(append(append([]string{}, a.global...), "delete", "--force", a.id)...)
	deleted.Stdout, deleted.Stderr = nil, nil
	_ = deleted.Run()
	var errs []error
	if a.pidFile != "" {
		if err := os.Remove(a.pidFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, b.reset(), b.removeIPC(made))
	if err := resetOverlay(b.rootfs()); err != nil {
		errs = append(errs, fmt.Errorf("remove the checkpoint's file changes: %w", err))
	}
	return errors.Join(errs...)
}

// restoreLog is where CRIU tells of a restore.
func restoreLog(answer *client.CreateResponse) string {
	return filepath.Join(answer.WorkPath, "restore.log")
}

// tailLines is how many error lines of CRIU's log are told.
const tailLines = 5

// logTail are the last errors in a log of CRIU, as ": a | b".
func logTail(file string) string {
	raw, err := os.ReadFile(file)
	if err != nil {
		return ": no log at " + file
	}
	var found []string
	for line := range strings.Lines(string(raw)) {
		_, message, isError := strings.Cut(line, "Error (")
		if isError && !strings.Contains(message, "RLIMIT_NOFILE") && !strings.Contains(message, "cgroupd: recv") {
			found = append(found, "("+strings.TrimSpace(message)) // those two fail nothing
		}
	}
	if len(found) > tailLines {
		found = found[len(found)-tailLines:]
	}
	return ": " + strings.Join(found, " | ")
}

func (r *Runtime) registrationPath(id string) string {
	return filepath.Join(r.Containers, id+".json")
}

// register notes a protected container for the fencer.
func (r *Runtime) register(registration client.Registration) error {
	if err := os.MkdirAll(r.Containers, 0o755); err != nil {
		return err
	}
	raw, err := json.Marshal(registration)
	if err != nil {
		return err
	}
	return replaceFile(r.registrationPath(registration.ID), raw)
}

func (r *Runtime) registration(id string) (client.Registration, error) {
	var registration client.Registration
	raw, err := os.ReadFile(r.registrationPath(id))
	if err != nil {
		return registration, err
	}
	err = json.Unmarshal(raw, &registration)
	return registration, err
}

// epoch is the node's fence epoch, or 0 where none was written yet.
func (r *Runtime) epoch(log logger) int64 {
	var record struct {
		Epoch int64 `json:"epoch"`
	}
	raw, err := os.ReadFile(r.Fence)
	if err == nil {
		err = json.Unmarshal(raw, &record)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.warn("read the node's fence record: %v", err)
	}
	return record.Epoch
}
