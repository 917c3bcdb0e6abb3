package preflight

import (
	"fmt"
	"strconv"
	"strings"
)

// The parsers below read files of /proc. What they do not understand they leave
// out: kernels add lines and columns.

// unescape undoes how /proc writes blanks in paths.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// parseMountinfo reads a process's mountinfo.
func parseMountinfo(content string) []Mount {
	var mounts []Mount
	for line := range strings.Lines(content) {
		before, after, _ := strings.Cut(strings.TrimSpace(line), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if len(left) < 5 || len(right) < 1 {
			continue
		}
		mounts = append(mounts, Mount{Point: unescape.Replace(left[4]), Kind: right[0], Device: left[2]})
	}
	return mounts
}

// parseStatus reads a process's status.
func parseStatus(content string) Process {
	var p Process
	for line := range strings.Lines(content) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Name":
			p.Command = value
		case "Pid":
			p.NodePid, _ = strconv.Atoi(value)
		case "State":
			p.State, _, _ = strings.Cut(value, " ")
		case "PPid":
			p.ParentPid, _ = strconv.Atoi(value)
		case "TracerPid":
			p.Tracer, _ = strconv.Atoi(value)
		case "NSpid":
			// The last number is that in the innermost namespace.
			if numbers := strings.Fields(value); len(numbers) > 0 {
				p.Pid, _ = strconv.Atoi(numbers[len(numbers)-1])
			}
		case "Uid":
			p.Users = parseIDs(value)
		case "Gid":
			p.Groups = parseIDs(value)
		case "HugetlbPages":
			p.Hugetlb = parseKilobytes(value)
		case "RssShmem":
			p.Shared = parseKilobytes(value)
		}
	}
	return p
}

func parseIDs(value string) (ids [4]uint32) {
	for i, field := range strings.Fields(value) {
		if i < len(ids) {
			id, _ := strconv.ParseUint(field, 10, 32)
			ids[i] = uint32(id)
		}
	}
	return ids
}

func parseKilobytes(value string) int64 {
	number, _, _ := strings.Cut(value, " ")
	kilobytes, err := strconv.ParseInt(number, 10, 64)
	if err != nil || kilobytes < 0 || kilobytes > 1<<50 {
		return 0
	}
	return kilobytes << 10
}

// parseMaps reads, of a process's maps, the parts that have a file, each file
// once. The text before the path of each is the range of addresses.
func parseMaps(content string) (mappings []Mapping, ranges []string) {
	seen := map[Mapping]bool{}
	for line := range strings.Lines(content) {
		fields := strings.Fields(line)
		if len(fields) < 6 {
			continue
		}
		// The first System V segment has the number 0.
		if fields[4] == "0" && !strings.HasPrefix(fields[5], "anon_inode:") && !strings.HasPrefix(fields[5], "/SYSV") {
			continue
		}
		inode, err := strconv.ParseUint(fields[4], 10, 64)
		if err != nil {
			continue
		}
		// The path is the rest of the line, blanks and all.
		_, path, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " "+fields[4]+" ")
		m := Mapping{Path: strings.ReplaceAll(strings.TrimLeft(path, " "), `\012`, "\n"), Device: fields[3], Inode: inode}
		if !seen[m] {
			seen[m] = true
			mappings, ranges = append(mappings, m), append(ranges, fields[0])
		}
	}
	return mappings, ranges
}

// tcpListen and the like are the states of a TCP socket that has no peer.
const (
	tcpClose  = 0x07
	tcpListen = 0x0A
)

// parseTCP reads the inodes of connected sockets from net/tcp or net/tcp6.
func parseTCP(content string) (connected []uint64) {
	for line := range strings.Lines(content) {
		fields := strings.Fields(line)
		if len(fields) < 10 || !strings.HasSuffix(fields[0], ":") {
			continue
		}
		state, err := strconv.ParseUint(fields[3], 16, 8)
		inode, inodeErr := strconv.ParseUint(fields[9], 10, 64)
		// A socket that the program has closed has no inode any more.
		if err == nil && inodeErr == nil && inode != 0 && state != tcpClose && state != tcpListen {
			connected = append(connected, inode)
		}
	}
	return connected
}

// parseNetlink reads, from net/netlink, the inodes of sockets with messages
// that were not read.
func parseNetlink(content string) (pending []uint64) {
	for line := range strings.Lines(content) {
		fields := strings.Fields(line)
		if len(fields) < 10 || fields[4] == "0" {
			continue
		}
		unread, err := strconv.ParseInt(fields[4], 10, 64)
		inode, inodeErr := strconv.ParseUint(fields[9], 10, 64)
		if err == nil && inodeErr == nil && unread > 0 {
			pending = append(pending, inode)
		}
	}
	return pending
}

// parseLocks reads /proc/locks. A process that waits for a lock is left out.
func parseLocks(content string) []Lock {
	var locks []Lock
	for line := range strings.Lines(content) {
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[1] == "->" {
			continue
		}
		pid, err := strconv.Atoi(fields[4])
		parts := strings.Split(fields[5], ":")
		if err != nil || len(parts) != 3 {
			continue
		}
		major, err := strconv.ParseUint(parts[0], 16, 32)
		minor, minorErr := strconv.ParseUint(parts[1], 16, 32)
		if err == nil && minorErr == nil {
			locks = append(locks, Lock{NodePid: pid, Device: fmt.Sprintf("%d:%d", major, minor)})
		}
	}
	return locks
}

// parseWatches reads, from the fdinfo of an inotify or a fanotify, what it watches.
func parseWatches(info string) (watches []Watch) {
	for line := range strings.Lines(info) {
		if !strings.HasPrefix(line, "inotify ") && !strings.HasPrefix(line, "fanotify ino:") {
			continue
		}
		var w Watch
		for field := range strings.FieldsSeq(line) {
			key, text, _ := strings.Cut(field, ":")
			number, err := strconv.ParseUint(text, 16, 64)
			switch {
			case err != nil:
			case key == "ino":
				w.Inode = number
			case key == "sdev":
				// As the kernel packs it: 20 bits for the minor number.
				w.Device = fmt.Sprintf("%d:%d", number>>20, number&(1<<20-1))
			}
		}
		if w.Device != "" {
			watches = append(watches, w)
		}
	}
	return watches
}

// parseHandle reads, from the fdinfo of a pidfd, which process it stands for, by
// the numbers of whoever has read it: -1 for one that has ended.
func parseHandle(info string) (pid int, found bool) {
	for line := range strings.Lines(info) {
		if text, is := strings.CutPrefix(line, "Pid:"); is {
			pid, err := strconv.Atoi(strings.TrimSpace(text))
			return pid, err == nil
		}
	}
	return 0, false
}

// parseInterface reads, from the fdinfo of an open /dev/net/tun, which interface
// it stands for, or "".
func parseInterface(info string) string {
	for line := range strings.Lines(info) {
		if name, found := strings.CutPrefix(line, "iff:"); found {
			return strings.TrimSpace(name)
		}
	}
	return ""
}

// parseInode reads the number in a link such as "socket:[1234]"; 0 for none.
func parseInode(link string) uint64 {
	_, text, _ := strings.Cut(link, ":[")
	inode, err := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 64)
	if err != nil {
		return 0
	}
	return inode
}
