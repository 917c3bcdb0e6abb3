package track

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

// Areas returns the private anonymous memory of a process that CRIU can leave
// out of a lazy dump: heap, stacks and anonymous private mappings that are
// neither locked nor made of huge pages of hugetlbfs.
//
// Droppable mappings (MAP_DROPPABLE, Linux 6.11) are among them, although CRIU
// has those in its own images: they are small, and to tell them apart takes
// smaps, for which the kernel walks all pages of the process.
func Areas(pid int) (memory.Set, error) {
	areas, err := areasOf(pid)
	if err != nil {
		return nil, fmt.Errorf("list the memory of process %d: %w", pid, ended(err))
	}
	return areas, nil
}

func areasOf(pid int) (memory.Set, error) {
	status, err := readStatus(pid)
	if err != nil {
		return nil, err
	}
	name := "maps"
	if locked := status["VmLck"]; locked != "0 kB" {
		name = "smaps" // which areas are locked is in there alone
	}
	file, err := os.Open(fmt.Sprintf("/proc/%d/%s", pid, name))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	areas, err := parseAreas(file)
	if err == nil && len(areas) == 0 && status["VmLck"] == "" {
		return nil, ErrEnded // and its memory is gone already
	}
	return areas, err
}

// parseAreas picks the areas out of the content of /proc/PID/smaps, or of
// /proc/PID/maps when none is locked.
func parseAreas(content io.Reader) (memory.Set, error) {
	all, err := readMap(content)
	if err != nil {
		return nil, err
	}
	var spans []memory.Span
	for _, a := range all {
		if a.private() && !excluded(a.flags) {
			spans = append(spans, a.span)
		}
	}
	return memory.NewSet(spans...), nil
}

// readMap reads /proc/PID/maps, or /proc/PID/smaps.
func readMap(content io.Reader) ([]area, error) {
	var all []area
	lines := bufio.NewScanner(content)
	for lines.Scan() {
		line := lines.Text()
		if flags, found := strings.CutPrefix(line, "VmFlags:"); found && len(all) > 0 {
			all[len(all)-1].flags = flags
			continue
		}
		if line == "" || line[0] >= 'A' && line[0] <= 'Z' {
			continue // a figure of smaps
		}
		a, err := parseArea(line)
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, lines.Err()
}

// excluded is whether an area with such VmFlags is always in CRIU's own images:
// locked (lo), of hugetlbfs (ht), droppable (dp), or of a device (io, pf).
func excluded(flags string) bool {
	for flag := range strings.FieldsSeq(flags) {
		switch flag {
		case "lo", "ht", "dp", "io", "pf":
			return true
		}
	}
	return false
}

// area is one mapping of a process.
type area struct {
	span        memory.Span
	permissions string // as "rw-p"
	inode       string
	name        string
	flags       string // as "rd wr mr", where they are known
}

// parseArea reads a line as "7f10a000-7f10b000 rw-p 00000000 00:00 0   [heap]".
func parseArea(line string) (area, error) {
	var fields [5]string
	rest := line
	for i := range fields {
		fields[i], rest, _ = strings.Cut(rest, " ")
	}
	from, to, _ := strings.Cut(fields[0], "-")
	start, err := strconv.ParseUint(from, 16, 64)
	if err != nil {
		return area{}, fmt.Errorf("%q is no line of a process's memory map", line)
	}
	end, err := strconv.ParseUint(to, 16, 64)
	if err != nil || len(fields[1]) != len("rw-p") || fields[4] == "" {
		return area{}, fmt.Errorf("%q is no line of a process's memory map", line)
	}
	span := memory.Span{Start: start, End: end}
	return area{span: span, permissions: fields[1], inode: fields[4], name: strings.TrimLeft(rest, " ")}, nil
}

// private is whether the area is private and anonymous, and not one that the
// kernel has mapped for itself, as [vdso].
func (a area) private() bool {
	if a.permissions[3] != 'p' || a.inode != "0" {
		return false
	}
	return a.name == "" || a.name == "[heap]" || strings.HasPrefix(a.name, "[stack") || strings.HasPrefix(a.name, "[anon:")
}
