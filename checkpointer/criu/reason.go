package criu

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/lifeboat-dev/lifeboat/checkpointer/preflight"
)

// NotCheckpointable is a container that cannot be checkpointed as it is. To try
// again is of no use until the container has changed.
type NotCheckpointable struct {
	// Container is the container's name in its pod.
	Container string
	// Reason says what is in the way; from CRIU's log where CRIU found it.
	Reason string
	// Hint says what to do about it; empty where nothing is known.
	Hint string
	// Preflight has all that was found before the pause; nil where CRIU found what
	// is in the way.
	Preflight *preflight.Report
}

func (e *NotCheckpointable) Error() string {
	text := fmt.Sprintf("container %s cannot be checkpointed: %s", e.Container, e.Reason)
	if e.Hint != "" {
		text += "; " + e.Hint
	}
	return text
}

// obstacles are the errors in CRIU's log that mean a container cannot be
// checkpointed, with what to tell its owner. The first that matches counts.
var obstacles = []struct {
	pattern *regexp.Regexp
	reason  string
	hint    string
}{
	{regexp.MustCompile(`anon_inode:\[io_uring\]`), "a process uses io_uring",
		"switch it off: UV_USE_IO_URING=0 for Node.js, io_method=worker for PostgreSQL 18, or a seccomp profile that denies io_uring_setup"},
	{regexp.MustCompile(`anon_inode:\[userfaultfd\]`), "a process uses userfaultfd", "switch that off in the program"},
	{regexp.MustCompile(`anon_inode:\[perf_event\]`), "a process uses perf events", "end the profiler"},
	{regexp.MustCompile(`anon_inode:kvm-vm`), "a process runs a virtual machine", ""},
	{regexp.MustCompile(`Can't retrieve FDs from socket`), "a process has a file open that the kernel does not hand over, such as an io_uring", "have the program close it"},
	{regexp.MustCompile(`Can't dump file .* of that type .*\(unknown (\S+?)\)?$`), "a process has a file open of a kind that CRIU does not know: $1", "have the program close it"},
	{regexp.MustCompile(`Unsupported proto 262`), "a process listens with MPTCP",
		"start the container through the RuntimeClass lifeboat, which switches MPTCP off, or set GODEBUG=multipathtcp=0"},
	{regexp.MustCompile(`inet: Unsupported proto (\d+)`), "a process has a socket of IP protocol $1, which CRIU does not know", "have the program close it"},
	{regexp.MustCompile(`Unsupported (?:socket )?(?:family|type) (\S+)`), "a process has a socket of kind $1, which CRIU does not know", "have the program close it"},
	{regexp.MustCompile(`Can't dump ghost file (\S+) of (\d+) size`), "the deleted file $1 is still open and has $2 bytes, above the limit of 512 MiB", "have the program close it or keep it in an emptyDir"},
	{regexp.MustCompile(`already has tracer|is traced by|[Tt]racer (?:detected|pid)`), "a process is being traced", "end the debugger"},
	{regexp.MustCompile(`Can't dump nested (\w+) namespace`), "a process has a $1 namespace of its own", "containers inside of containers cannot be checkpointed"},
	{regexp.MustCompile(`fsnotify:\s*(?:Can't dump that handle|Handle .* cannot be opened)`), "a process watches files of a file system that cannot name them again", "have the program watch a folder in an emptyDir"},
	{regexp.MustCompile(`Can't lookup mount=\d+ for fd=\d+ path=(\S+)`), "a process has $1 open, which no longer lies in a mount of the container", "have the program open it again, for one as it is when a ConfigMap is updated"},
	{regexp.MustCompile(`FS mnt (\S+) .*unsupported|unable to dump mount|mnt: .*unsupported`), "a file system is mounted inside of the container that CRIU does not know", "mount it as a volume of the pod"},
	{regexp.MustCompile(`External socket is used`), "a UNIX socket is connected to a process outside of the container", "have the program close it before a checkpoint"},
	{regexp.MustCompile(`hugetlb|HugeTLB`), "a process uses huge pages in a way that CRIU does not know", "use transparent huge pages"},
	{regexp.MustCompile(`Can't get rlimit`), "CRIU may not read the limits of a process that is not root's, because the node lacks CAP_SYS_RESOURCE",
		"give the node that capability, or run the container as root"},
	{regexp.MustCompile(`is in .*dead state|[Zz]ombie.*not supported`), "a process is in a state that CRIU does not know", ""},
}

var logError = regexp.MustCompile(`(?:^|\n)(?:\([\d.]+\) )?\s*Error \([^)]*\): ([^\n]*)`)

// harmless matches errors in the log that fail nothing, or only say that
// something has failed.
var harmless = regexp.MustCompile(`RLIMIT_NOFILE|cgroupd: recv req error|Dumping FAILED`)

// errorLines are the messages of the errors in CRIU's log.
func errorLines(log string) []string {
	var lines []string
	for _, match := range logError.FindAllStringSubmatch(log, -1) {
		if line := strings.TrimSpace(match[1]); !harmless.MatchString(line) {
			lines = append(lines, line)
		}
	}
	return lines
}

// maxErrorLines is how many lines of CRIU's log an error quotes.
const maxErrorLines = 6

// explain turns a failed dump and what CRIU has logged into an error that says
// what is in the way.
func explain(container string, err error, log string) error {
	lines := errorLines(log)
	for _, o := range obstacles {
		for _, line := range lines {
			if match := o.pattern.FindStringSubmatchIndex(line); match != nil {
				return &NotCheckpointable{
					Container: container,
					Reason:    string(o.pattern.ExpandString(nil, o.reason, line, match)) + ` (CRIU: "` + line + `")`,
					Hint:      o.hint,
				}
			}
		}
	}
	if len(lines) > maxErrorLines {
		lines = lines[:maxErrorLines]
	}
	if len(lines) > 0 {
		return fmt.Errorf("dump container %s: %w; CRIU's log: %s", container, err, strings.Join(lines, " | "))
	}
	return fmt.Errorf("dump container %s: %w", container, err)
}
