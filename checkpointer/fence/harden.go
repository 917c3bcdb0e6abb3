package fence

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// memoryLimit is what Go may take before it collects more often. What is locked
	// is missing elsewhere, and the fencer needs a quarter of it.
	memoryLimit = 64 << 20
	// threadsAtOnce is how many goroutines may run at once, on a machine with fewer
	// processors as well: one that waits for a page keeps its place, and the brake
	// must find another.
	threadsAtOnce = 4
)

// Harden makes this process hard to starve, so that it freezes in time on a
// node that runs out of memory or processor time: it is the last to be killed
// for memory, neither its memory nor its program is paged out, and it runs before
// others.
//
// CgroupRoot is where the node's cgroup file systems are.
//
// Each of these needs a privilege that a node may withhold. Harden returns what
// was refused, which the caller may log; the fencer works without, only less
// surely.
//
// It asks for no memory.min of its cgroup: what is locked is not reclaimed in any
// cgroup, and kubelet owns the groups above.
func Harden(cgroupRoot string) []error {
	var refused []error
	try := func(what string, err error) {
		if err != nil {
			refused = append(refused, fmt.Errorf("%s: %w", what, err))
		}
	}
	debug.SetMemoryLimit(memoryLimit)
	if runtime.GOMAXPROCS(0) < threadsAtOnce {
		runtime.GOMAXPROCS(threadsAtOnce)
	}
	// -999, not -1000: a node that can free memory in no other way must be able to.
	try("lower the OOM score", os.WriteFile("/proc/self/oom_score_adj", []byte("-999"), 0))
	// Pages are locked when they are first used: Go reserves far more than it uses.
	try("lock memory", unix.Mlockall(unix.MCL_CURRENT|unix.MCL_FUTURE|unix.MCL_ONFAULT))
	// But for the program: what it does when the node is in trouble it may never
	// have done before, and then it cannot wait for a disk.
	try("lock the program", lockProgram())

	priority, realTime := hasten()
	if realTime != nil && leaveCPUGroup(cgroupRoot) == nil {
		priority, realTime = hasten()
	}
	try("raise the priority", priority)
	try("schedule in real time", realTime)
	return refused
}

// hasten puts every thread of this process ahead of what is not real-time.
func hasten() (priority, realTime error) {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err, err
	}
	for _, thread := range threads {
		// Linux keeps both for each thread; new threads inherit them.
		id, err := strconv.Atoi(thread.Name())
		if err != nil {
			continue
		}
		if err := unix.Setpriority(unix.PRIO_PROCESS, id, -20); err != nil {
			priority = err
		}
		// The lowest real-time priority is above everything that is not real-time.
		attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}
		if err := unix.SchedSetAttr(id, &attr, 0); err != nil {
			realTime = err
		}
	}
	return priority, realTime
}

// leaveCPUGroup moves this process from the container's group of the cpu hierarchy of
// cgroup v1 to the node's own. A kernel with CONFIG_RT_GROUP_SCHED grants no real
// time in groups that were not given some, and kubelet gives none; and a priority
// counts only among the processes of one group. There is no such hierarchy in cgroup
// v2, where groups cannot be left for one resource alone.
func leaveCPUGroup(cgroupRoot string) error {
	file, err := os.OpenFile(filepath.Join(cgroupRoot, "cpu", "cgroup.procs"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString("0") // the writer
	return errors.Join(err, file.Close())
}

// lockProgram brings the program's instructions into memory and keeps them there.
func lockProgram() error {
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer maps.Close()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		fields := strings.Fields(lines.Text()) // as "00400000-01c18000 r-xp 00000000 08:01 42 /lifeboat-checkpointer"
		if len(fields) < 6 || !strings.HasPrefix(fields[1], "r-x") || !strings.HasPrefix(fields[5], "/") {
			continue
		}
		var start, end uintptr
		if _, err := fmt.Sscanf(fields[0], "%x-%x", &start, &end); err != nil {
			return fmt.Errorf("read %q: %w", fields[0], err)
		}
		// Unlike mlockall above, mlock does not wait for the first use.
		if _, _, errno := unix.Syscall(unix.SYS_MLOCK, start, end-start, 0); errno != 0 {
			return errno
		}
	}
	return lines.Err()
}
