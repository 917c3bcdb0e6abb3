package criu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// thawTime bounds how long the containers are told to run again.
const thawTime = 10 * time.Second

// dumper is one container on its way through a checkpoint.
type dumper struct {
	*container
	criu   *swrk
	dir    string   // the container's folder
	images *os.File // the folder for CRIU's images
	// shared is the shared memory that CRIU leaves out; nil for none.
	shared *sharedMemory
	// connections is whether established connections are dumped.
	connections bool
}

func (d *dumper) name() string { return d.target.Container.Name }

// prepare does all that can be done while the pod runs.
func prepare(ctx context.Context, pod PodTarget, dir string) ([]*dumper, error) {
	path, err := program("criu")
	if err != nil {
		return nil, err
	}
	if err := errors.Join(warm(ctx, path), writeDumpConfig()); err != nil {
		return nil, err
	}
	var dumpers []*dumper
	for _, target := range pod.Containers {
		d := &dumper{dir: filepath.Join(dir, target.Container.Name), connections: pod.Silence != nil}
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
	for _, folder := range []string{images, filepath.Join(d.dir, TmpfsDir)} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return err
		}
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
	processes, err := d.group.Procs()
	if err != nil {
		return err
	}
	user, err := rlimitUser(processes)
	if err != nil {
		return err
	}
	if d.criu, err = startSwrk(ctx, criu, user); err != nil {
		return err
	}
	return d.criu.ready(ctx)
}

func (d *dumper) close() error {
	err := d.shared.close()
	if d.criu != nil {
		err = errors.Join(err, d.criu.close())
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

// dumpAll dumps the containers at the same time. When the images of all are
// written, and before any of them may go on, it calls capture: the processes are
// as they will go on, and CRIU's links to files that were deleted while open are
// on disk just then.
func dumpAll(ctx context.Context, dumpers []*dumper, capture func() error) error {
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
		if errs[len(dumpers)] = capture(); errs[len(dumpers)] != nil {
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
	if d.shared != nil {
		if err := d.shared.lead(); err != nil {
			return fmt.Errorf("lead the images of shared memory to nowhere: %w", err)
		}
	}
	req := &rpc.CriuReq{Type: rpc.CriuReqType_DUMP.Enum(), Opts: dumpOptions(d.container, d.images, d.connections)}
	err := d.criu.call(ctx, req, func(script string) error {
		if script != "post-dump" {
			return nil
		}
		err := written()
		// CRIU would serve the memory now, with the tasks stopped.
		return errors.Join(err, d.criu.pages.Close())
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
	var stat unix.Statfs_t
	if full := unix.Statfs(d.images.Name(), &stat) == nil && stat.Bavail == 0; full {
		err = fmt.Errorf("%w: %w in %s", err, unix.ENOSPC, d.images.Name()) // the log may have had no room either
	}
	err = explain(d.name(), err, string(log))
	if kept, keepErr := keepLog(d.target.Container.ID, log); keepErr == nil {
		err = fmt.Errorf("%w; all of CRIU's log is at %s of the node", err, kept)
	}
	return err
}

// logFolder has CRIU's log of each container's last dump that failed.
const logFolder = client.Folder + "/logs"

func keepLog(container string, log []byte) (string, error) {
	file := filepath.Join(logFolder, container+".log")
	err := os.MkdirAll(logFolder, 0o700)
	if err == nil {
		err = os.WriteFile(file, log, 0o600)
	}
	return file, err
}

// measure says what a container's part of the checkpoint is, and removes what
// only tells of CRIU's work. CRIU's own account of the time is not for a dump that
// leaves memory out: it begins its count anew in the middle.
func (d *dumper) measure(processes []memory.Process) (ContainerDump, error) {
	part := ContainerDump{Name: d.name()}
	for _, p := range processes {
		if p.Container != d.name() {
			continue
		}
		part.MemoryBytes += int64(p.Pages.Bytes())
		for _, s := range p.Fresh {
			part.FreshBytes += int64(len(s.Data))
		}
	}
	return part, errors.Join(os.Remove(filepath.Join(d.images.Name(), dumpLog)), os.Remove(filepath.Join(d.images.Name(), dumpStats)))
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
