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
// neither locked, nor made of huge pages of hugetlbfs, nor droppable.
func Areas(pid int) (memory.Set, error) {
	areas, err := areasOf(pid)
	if err != nil {
		return nil, fmt.Errorf("list the memory of process %d: %w", pid, ended(err))
	}
	return areas, nil
}

func areasOf(pid int) (memory.Set, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return parseAreas(file)
}

// parseAreas picks the areas out of the content of /proc/PID/smaps, or of
// /proc/PID/maps, which lacks the flags that exclude some.
func parseAreas(content io.Reader) (memory.Set, error) {
	var spans []memory.Span
	picked := false // the line before was one of the picked area
	lines := bufio.NewScanner(content)
	for lines.Scan() {
		line := lines.Text()
		if flags, found := strings.CutPrefix(line, "VmFlags:"); found {
			if picked && excluded(flags) {
				spans, picked = spans[:len(spans)-1], false
			}
			continue
		}
		if line == "" || line[0] >= 'A' && line[0] <= 'Z' {
			continue // a figure of smaps
		}
		area, err := parseArea(line)
		if err != nil {
			return nil, err
		}
		if picked = area.private(); picked {
			spans = append(spans, area.span)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	return memory.NewSet(spans...), nil
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

// area is one line of /proc/PID/maps.
type area struct {
	span        memory.Span
	permissions string // as "rw-p"
	inode       string
	name        string
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
	return area{memory.Span{Start: start, End: end}, fields[1], fields[4], strings.TrimLeft(rest, " ")}, nil
}

// private is whether the area is private and anonymous, and not one that the
// kernel has mapped for itself, as [vdso].
func (a area) private() bool {
	if a.permissions[3] != 'p' || a.inode != "0" {
		return false
	}
	return a.name == "" || a.name == "[heap]" || strings.HasPrefix(a.name, "[stack") || strings.HasPrefix(a.name, "[anon:")
}
