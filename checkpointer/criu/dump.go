// Package criu checkpoints the containers of a pod with CRIU so that stock
// runc restores them, and readies what runc needs for that.
//
// A checkpoint is one pause of the whole pod: every container is frozen, CRIU
// dumps each one, the file changes are copied, and only then does anything of
// the pod run again.
package criu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"github.com/checkpoint-restore/go-criu/v7/stats"

	"github.com/lifeboat-dev/lifeboat/checkpointer/cgroup"
)

// thawTime bounds how long the containers are told to run again.
const thawTime = 10 * time.Second

// Engine checkpoints pods of one node and readies their restore.
type Engine struct {
	host Host
	log  *slog.Logger
}

// NewEngine returns an engine for the containers of a node.
func NewEngine(host Host, log *slog.Logger) *Engine {
	return &Engine{host: host, log: log}
}

// Checkpoint writes a checkpoint of the pod into dir, which must exist, be
// empty, have the same path on the node as here, and should lie on a tmpfs. The
// pod runs again when Checkpoint returns, whether it succeeded or not. After an
// error the caller removes what is in dir.
//
// The error is a *NotCheckpointable where a container has to change first.
func (e *Engine) Checkpoint(ctx context.Context, pod PodTarget, dir string) (Dump, error) {
	var dump Dump
	err := e.host.Run(func() error {
		var err error
		dump, err = e.checkpoint(ctx, pod, dir)
		return err
	})
	if err != nil {
		return Dump{}, fmt.Errorf("checkpoint pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return dump, nil
}

func (e *Engine) checkpoint(ctx context.Context, pod PodTarget, dir string) (_ Dump, err error) {
	if len(pod.Containers) == 0 {
		return Dump{}, errors.New("it has no running container")
	}
	dumpers, err := prepare(ctx, pod, dir)
	defer func() {
		for _, d := range dumpers {
			err = errors.Join(err, d.close())
		}
	}()
	if err != nil {
		return Dump{}, err
	}

	result := Dump{TakenAt: time.Now()}
	err = freeze(ctx, dumpers)
	if err == nil {
		err = dumpAll(ctx, dumpers, func() error { return captureFiles(pod, dumpers, dir) })
	}
	err = errors.Join(err, thaw(ctx, dumpers))
	result.Pause = time.Since(result.TakenAt)
	if err != nil {
		return Dump{}, err
	}

	if err := errors.Join(divideIPC(dumpers), dropSharedSizes(pod, dumpers)); err != nil {
		return Dump{}, err
	}
	for _, d := range dumpers {
		part, err := d.measure()
		if err != nil {
			return Dump{}, err
		}
		result.Containers = append(result.Containers, part)
	}
	result.Bytes, err = sizeOf(dir)
	return result, err
}

// dumper is one container on its way through a checkpoint.
type dumper struct {
	*container
	criu   *swrk
	dir    string   // the container's folder
	images *os.File // the folder for CRIU's images
}

func (d *dumper) name() string { return d.target.Container.Name }

// prepare does all that can be done while the pod runs.
func prepare(ctx context.Context, pod PodTarget, dir string) ([]*dumper, error) {
	path, err := program("criu")
	if err != nil {
		return nil, err
	}
	if err := warm(ctx, path); err != nil {
		return nil, err
	}
	var dumpers []*dumper
	for _, target := range pod.Containers {
		d := &dumper{dir: filepath.Join(dir, target.Container.Name)}
		dumpers = append(dumpers, d)
		if err := d.prepare(ctx, path, pod, target); err != nil {
			return dumpers, fmt.Errorf("container %s: %w", target.Container.Name, err)
		}
	}
	return dumpers, nil
}

// kernelFacts is where CRIU keeps what it has found out about the kernel.
const kernelFacts = "/run/criu.kdat"

// warm has CRIU find out about the kernel, once a boot, while nothing waits for
// it: it takes CRIU longer than to dump a small container.
func warm(ctx context.Context, criu string) error {
	if _, err := os.Stat(kernelFacts); err == nil {
		return nil
	}
	output, err := command(ctx, criu, "check").CombinedOutput()
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("CRIU does not work on the node: %w: %s", err, output)
	}
	return ctx.Err()
}

func (d *dumper) prepare(ctx context.Context, criu string, pod PodTarget, target Target) error {
	var err error
	if d.container, err = inspect(target); err != nil {
		return err
	}
	images := filepath.Join(d.dir, ImagesDir)
	if err := os.MkdirAll(images, 0o700); err != nil {
		return err
	}
	if d.images, err = os.Open(images); err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(d.dir, ContainerFile), d.info(pod.Hostname)); err != nil {
		return err
	}
	// runc's restore connects what was a pipe here to its own standard streams.
	if err := writeJSON(filepath.Join(images, "descriptors.json"), d.state.Descriptors); err != nil {
		return err
	}
	if d.criu, err = startSwrk(ctx, criu); err != nil {
		return err
	}
	return d.criu.ready(ctx)
}

func (d *dumper) close() error {
	var err error
	if d.criu != nil {
		err = d.criu.close()
	}
	if d.images != nil {
		err = errors.Join(err, d.images.Close())
	}
	return err
}

// freeze stops all containers, each by its own cgroup: CRIU has to thaw a
// container while it works in it, which a frozen parent would not let it.
func freeze(ctx context.Context, dumpers []*dumper) error {
	for _, d := range dumpers {
		if err := d.group.Freeze(ctx); err != nil {
			return err
		}
	}
	return nil
}

// thaw lets all containers run, also when ctx has ended.
func thaw(ctx context.Context, dumpers []*dumper) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawTime)
	defer cancel()
	var errs []error
	for _, d := range dumpers {
		errs = append(errs, d.group.Thaw(ctx))
	}
	return errors.Join(errs...)
}

// dumpAll dumps the containers at the same time. When the memory of all is
// written, and before any of them may go on, it calls captureFiles: CRIU's
// links to files that were deleted while open are on disk just then.
func dumpAll(ctx context.Context, dumpers []*dumper, captureFiles func() error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var written, ended sync.WaitGroup
	captured := make(chan struct{})
	errs := make([]error, len(dumpers)+1)
	for i, d := range dumpers {
		written.Add(1)
		ended.Go(func() {
			once := sync.OnceFunc(written.Done)
			defer once()
			errs[i] = d.dump(ctx, func() error {
				once()
				<-captured
				return context.Cause(ctx)
			})
			if errs[i] != nil {
				cancel(errOtherFailed) // the others need not go on
			}
		})
	}
	written.Wait()
	if ctx.Err() == nil {
		if err := captureFiles(); err != nil {
			errs[len(dumpers)] = fmt.Errorf("copy the file changes: %w", err)
			cancel(errOtherFailed)
		}
	}
	close(captured)
	ended.Wait()
	return firstCause(errs)
}

// errOtherFailed ends the dump of a container because of another part of the
// same checkpoint, whose error tells why.
var errOtherFailed = errors.New("another part of the checkpoint failed")

// firstCause joins errors, but for those that only say that another one came first.
func firstCause(errs []error) error {
	var causes []error
	for _, err := range errs {
		if err != nil && !errors.Is(err, errOtherFailed) {
			causes = append(causes, err)
		}
	}
	if causes == nil {
		return errors.Join(errs...)
	}
	return errors.Join(causes...)
}

// dump has CRIU dump the container. When everything is written, and the tasks
// are still stopped, it calls written.
func (d *dumper) dump(ctx context.Context, written func() error) error {
	req := &rpc.CriuReq{Type: rpc.CriuReqType_DUMP.Enum(), Opts: dumpOptions(d.container, d.images)}
	err := d.criu.call(ctx, req, func(script string) error {
		if script == "post-dump" {
			return written()
		}
		return nil
	})
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		if !errors.Is(err, cause) {
			err = errors.Join(cause, err)
		}
		return fmt.Errorf("dump container %s: %w", d.name(), err)
	}
	log, _ := os.ReadFile(filepath.Join(d.images.Name(), dumpLog)) // without it the error is still told
	return explain(d.name(), err, string(log))
}

// measure reads what CRIU says of its work, and removes what only tells of it.
func (d *dumper) measure() (ContainerDump, error) {
	part := ContainerDump{Name: d.name()}
	entry, err := stats.CriuGetDumpStats(d.images)
	if err != nil {
		return part, fmt.Errorf("read CRIU's statistics of container %s: %w", d.name(), err)
	}
	part.Frozen = time.Duration(entry.GetFreezingTime()+entry.GetFrozenTime()) * time.Microsecond
	part.MemoryBytes = int64(entry.GetPagesWritten()+entry.GetShpagesWritten()) * int64(os.Getpagesize())
	return part, os.Remove(filepath.Join(d.images.Name(), dumpLog))
}

// ThawAll lets containers run that an earlier process has left frozen in the
// middle of a checkpoint. It takes the cgroupsPaths of their OCI
// configurations, and passes over those that are gone.
func (e *Engine) ThawAll(ctx context.Context, cgroupsPaths []string) error {
	return e.host.Run(func() error {
		var errs []error
		for _, path := range cgroupsPaths {
			group, err := cgroup.ForPath(cgroupRoot, path)
			if err == nil {
				err = group.Thaw(ctx)
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}

func writeJSON(file string, content any) error {
	raw, err := json.Marshal(content)
	if err != nil {
		return err
	}
	return os.WriteFile(file, raw, 0o600)
}

// sizeOf is the size of all files in dir.
func sizeOf(dir string) (int64, error) {
	var size int64
	err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	return size, err
}
