package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/checkpointer/criu"
	"github.com/lifeboat-dev/lifeboat/checkpointer/criu/nodetest"
)

// rig is the part of a benchmark that measures. It runs in a node of its own, and
// tells what it finds as events.
type rig struct {
	events *json.Encoder
	engine *criu.Engine
	peers  *peers
}

// measure measures the rows of a benchmark in this node. Rows that fail are told,
// and the others measured.
func measure(ctx context.Context, b bench, rows []row, out io.Writer) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	engine, tracking, err := newEngine(log)
	if err != nil {
		return err
	}
	r := &rig{events: json.NewEncoder(out), engine: engine}
	for _, folder := range []string{stockFolder, workFolder} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return err
		}
	}
	if err := r.tellFacts(ctx, tracking); err != nil {
		return err
	}
	if r.peers, err = newPeers(ctx, filepath.Join(nodetest.Disk, "stores"), log); err != nil {
		return err
	}
	do := map[bench]func(context.Context, []row) error{
		benchCheckpoint: r.checkpoints, benchStore: r.generations, benchRestore: r.restores,
	}[b]
	for len(rows) > 0 {
		same := 1
		for same < len(rows) && rows[same].workload == rows[0].workload {
			same++
		}
		if err := r.workload(ctx, rows[:same], do); err != nil {
			return err
		}
		rows = rows[same:]
	}
	return nil
}

// memoryNeed is how many times a workload's size must be free: for itself, its
// images, and what lies between them and the store.
const memoryNeed = 3.5

// workload measures the rows of one workload.
func (r *rig) workload(ctx context.Context, rows []row, do func(context.Context, []row) error) error {
	free, err := meminfo("MemAvailable")
	if err != nil {
		return err
	}
	if need := int64(memoryNeed * float64(rows[0].Bytes)); free < need {
		err = fmt.Errorf("it needs %d MB of free memory, and %d MB are", need/mebibyte, free/mebibyte)
	} else {
		err = do(ctx, rows)
	}
	err = errors.Join(err, removeStock(), os.RemoveAll(stagedFolder))
	if ctx.Err() != nil {
		return errors.Join(ctx.Err(), err)
	}
	if err != nil {
		for _, one := range rows {
			r.tell(event{Failed: &failure{one, err.Error()}})
		}
	}
	return nil
}

func (r *rig) tell(e event) {
	// The reader has gone: this process is about to be ended.
	_ = r.events.Encode(e)
}

func (r *rig) progress(format string, args ...any) {
	r.tell(event{Progress: fmt.Sprintf(format, args...)})
}

func (r *rig) sample(at row, s side, measure string, run int, value float64) {
	r.tell(event{Sample: &sample{Row: at, Side: s, Measure: measure, Run: run, Value: value}})
}

// tellFacts tells what must be known of the machine.
func (r *rig) tellFacts(ctx context.Context, tracking string) error {
	// It also leaves what CRIU finds out about the kernel for all later runs of it.
	node, err := criu.Probe(ctx, criu.Host{ProcRoot: "/proc", Root: "/"})
	if err != nil {
		return err
	}
	if node.Message != "" {
		return errors.New(node.Message)
	}
	bytes, err := meminfo("MemTotal")
	if err != nil {
		return err
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err
	}
	disk, err := fileSystem(nodetest.Disk)
	if err != nil {
		return err
	}
	r.tell(event{Facts: &facts{
		Kernel: node.KernelVersion, Processors: runtime.NumCPU(), MemoryMB: bytes / mebibyte,
		CRIU: node.CRIUVersion, Runc: node.RuncVersion, StoreDisk: disk, Tracking: tracking,
		Load: strings.Fields(string(load))[0],
	}})
	return nil
}

// preferCPU gives this node, and so both sides of every comparison, the processors
// before all else on the machine. It ends with the node's cgroup.
func preferCPU() error {
	for file, most := range map[string]string{
		"/sys/fs/cgroup/cpu.weight":             "10000",
		"/sys/fs/cgroup/cpu/cpu.shares":         "262144",
		"/sys/fs/cgroup/cpu,cpuacct/cpu.shares": "262144",
	} {
		if _, err := os.Stat(file); err == nil {
			return os.WriteFile(file, []byte(most), 0)
		}
	}
	return errors.New("--prefer-cpu: the machine has no cgroups for its processors")
}

// fileSystem names the kind of file system that is mounted at a folder.
func fileSystem(folder string) (string, error) {
	out, err := output("findmnt", "--noheadings", "--output", "FSTYPE", folder)
	return strings.TrimSpace(string(out)), err
}

// meminfo reads an entry of /proc/meminfo, in bytes.
func meminfo(name string) (int64, error) {
	content, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(content) {
		if fields := strings.Fields(string(line)); len(fields) > 1 && fields[0] == name+":" {
			kilobytes, err := strconv.ParseInt(fields[1], 10, 64)
			return kilobytes << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/meminfo has no %s", name)
}

// started makes a workload's container, and starts it.
func (r *rig) started(ctx context.Context, w workload) (*subject, error) {
	r.progress("%s: filling memory", w)
	s, err := newSubject(w)
	if err != nil {
		return nil, err
	}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.remove())
	}
	return s, nil
}

// processorTime is what this process and those that it has waited for have used.
func processorTime() (time.Duration, error) {
	var sum time.Duration
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var usage unix.Rusage
		if err := unix.Getrusage(who, &usage); err != nil {
			return 0, err
		}
		sum += time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	return sum, nil
}
