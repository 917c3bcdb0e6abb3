package fence

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	hardenVariable = "LIFEBOAT_TEST_HARDEN"
	// hardenGroupVariable names a group of the cpu hierarchy to be hardened in.
	hardenGroupVariable = "LIFEBOAT_TEST_HARDEN_GROUP"
)

// TestHardenInAContainersGroup: the group of a container on cgroup v1 may have no
// real-time budget at all.
func TestHardenInAContainersGroup(t *testing.T) {
	group := filepath.Join(cgroupRoot, "cpu", fmt.Sprintf("lifeboat-harden-test-%d", os.Getpid()))
	if _, err := os.Stat(filepath.Join(filepath.Dir(group), "cgroup.procs")); err != nil {
		t.Skip("this machine has no cpu hierarchy of cgroup v1: there is nothing to leave")
	}
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(group) })
	copied := exec.Command(os.Args[0], "-test.run=^TestHarden$", "-test.v")
	copied.Env = append(os.Environ(), hardenVariable+"=1", hardenGroupVariable+"="+group)
	output, err := copied.CombinedOutput()
	t.Logf("the copy:\n%s", output)
	if err != nil {
		t.Error(err)
	}
	if strings.Contains(string(output), "refused here: schedule in real time") {
		t.Error("real time is refused in a container's group")
	}
}

// TestHarden hardens a copy of this program, and checks that each measure has
// either taken effect or was reported as refused.
func TestHarden(t *testing.T) {
	if os.Getenv(hardenVariable) == "" {
		copied := exec.Command(os.Args[0], "-test.run=^TestHarden$", "-test.v")
		copied.Env = append(os.Environ(), hardenVariable+"=1")
		output, err := copied.CombinedOutput()
		t.Logf("the copy:\n%s", output)
		if err != nil {
			t.Error(err)
		}
		return
	}
	if group := os.Getenv(hardenGroupVariable); group != "" {
		if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte("0"), 0); err != nil {
			t.Fatal(err)
		}
	}
	refused := Harden(cgroupRoot)
	for _, err := range refused {
		t.Logf("refused here: %v", err)
	}
	wasRefused := func(what string) bool {
		return slices.ContainsFunc(refused, func(err error) bool { return strings.HasPrefix(err.Error(), what) })
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(status), "VmLck:\t       0 kB") && !wasRefused("lock memory") {
		t.Error("no memory is locked")
	}
	if resident, size := program(t); resident < size && !wasRefused("lock the program") {
		t.Errorf("%d of %d KiB of the program are in memory", resident, size)
	}
	score, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(score)) != "-999" && !wasRefused("lower the OOM score") {
		t.Errorf("the OOM score is %s", score)
	}
	// The system call returns 20 minus the nice value.
	if nice, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err != nil || nice != 40 && !wasRefused("raise the priority") {
		t.Errorf("the priority is %d (%v), want 40", nice, err)
	}
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil || attr.Policy != unix.SCHED_FIFO && !wasRefused("schedule in real time") {
		t.Errorf("the scheduling is %+v (%v), want FIFO", attr, err)
	}
}

// program is how much of this program's instructions is in memory, and how much
// there is, in KiB. smaps counts what is locked by halves where two processes share it.
func program(t *testing.T) (resident, size int) {
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	inside := false
	for line := range strings.Lines(string(smaps)) {
		fields := strings.Fields(line)
		if strings.Contains(fields[0], "-") {
			inside = len(fields) == 6 && fields[1] == "r-xp" && strings.HasPrefix(fields[5], "/")
		}
		if !inside || len(fields) < 2 {
			continue
		}
		kib, _ := strconv.Atoi(fields[1])
		switch fields[0] {
		case "Size:":
			size += kib
		case "Rss:":
			resident += kib
		}
	}
	if size == 0 {
		t.Fatal("no instructions found")
	}
	return resident, size
}
