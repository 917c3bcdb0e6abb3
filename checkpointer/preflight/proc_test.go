package preflight

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseStatus(t *testing.T) {
	// From a process of a container, with a tracer.
	const content = "Name:\tmy app\nUmask:\t0022\nState:\tt (tracing stop)\nTgid:\t4711\nNgid:\t0\nPid:\t4711\nPPid:\t4700\nTracerPid:\t99\n" +
		"Uid:\t1000\t1001\t1002\t1003\nGid:\t5\t5\t5\t5\nFDSize:\t64\nNStgid:\t4711\t12\t1\nNSpid:\t4711\t12\t1\nRssShmem:\t    2048 kB\nHugetlbPages:\t    4096 kB\n"
	want := Process{
		Pid: 1, Command: "my app", NodePid: 4711, ParentPid: 4700, State: "t", Tracer: 99,
		Users: [4]uint32{1000, 1001, 1002, 1003}, Groups: [4]uint32{5, 5, 5, 5}, Shared: 2 << 20, Hugetlb: 4 << 20,
	}
	if diff := cmp.Diff(want, parseStatus(content)); diff != "" {
		t.Error(diff)
	}
}

func TestParseMountinfo(t *testing.T) {
	const content = "1 2 0:50 / / rw,relatime - overlay overlay rw,lowerdir=/l\n" +
		`36 1 8:1 /kubelet/pods/x /with\040blank rw shared:7 master:2 - ext4 /dev/sda1 rw` + "\n" +
		"37 1 0:70 / /nfs rw - nfs4 server:/share rw\nno mount\n"
	want := []Mount{{"/", "overlay", "0:50"}, {"/with blank", "ext4", "8:1"}, {"/nfs", "nfs4", "0:70"}}
	if diff := cmp.Diff(want, parseMountinfo(content)); diff != "" {
		t.Error(diff)
	}
}

func TestParseMaps(t *testing.T) {
	const content = `00400000-00452000 r-xp 00000000 08:02 173521                             /usr/bin/my app
00651000-00652000 r--p 00051000 08:02 173521                             /usr/bin/my app
7f0000000000-7f0000021000 rw-p 00000000 00:00 0
7f1000000000-7f1000001000 rw-s 00000000 00:01 0                          /SYSV00001267 (deleted)
7f2000000000-7f2000001000 rw-s 00000000 00:0e 1030                       anon_inode:[io_uring]
7f3000000000-7f3000001000 rw-s 00000000 00:01 4                          /dev/zero (deleted)
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
`
	want := []Mapping{
		{Path: "/usr/bin/my app", Device: "08:02", Inode: 173521}, {Path: "/SYSV00001267 (deleted)", Device: "00:01", Inode: 0},
		{Path: "anon_inode:[io_uring]", Device: "00:0e", Inode: 1030}, {Path: "/dev/zero (deleted)", Device: "00:01", Inode: 4},
	}
	got, ranges := parseMaps(content)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"00400000-00452000", "7f1000000000-7f1000001000", "7f2000000000-7f2000001000", "7f3000000000-7f3000001000"}, ranges); diff != "" {
		t.Error(diff)
	}
}

func TestParseTCP(t *testing.T) {
	const content = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 00000000bb1e8667 100 0 0 10 0
   1: 0100007F:1F90 0100007F:A001 01 00000000:00000000 00:00000000 00000000     0        0 12 1 00000000bb1e8667 20 4 30 10 -1
   2: 0100007F:A001 0100007F:1F90 08 00000000:00000000 00:00000000 00000000     0        0 13 1 00000000bb1e8667 20 4 30 10 -1
   3: 0100007F:A002 0100007F:1F90 06 00000000:00000000 03:00000AAA 00000000     0        0 0 3 00000000bb1e8667
`
	if diff := cmp.Diff([]uint64{12, 13}, parseTCP(content)); diff != "" {
		t.Error(diff)
	}
}

func TestParseNetlink(t *testing.T) {
	const content = `sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
00000000e381503d 0   0          00000000 0        0        0     2        0        4
000000005b361f8d 0   71         00000000 2304     0        0     2        0        1430
`
	if diff := cmp.Diff([]uint64{1430}, parseNetlink(content)); diff != "" {
		t.Error(diff)
	}
}

func TestParseLocks(t *testing.T) {
	const content = `1: POSIX  ADVISORY  WRITE 3568 fd:00:2531452 0 EOF
2: FLOCK  ADVISORY  WRITE 3517 00:46:2531448 0 EOF
2: -> FLOCK  ADVISORY  WRITE 3518 00:46:2531448 0 EOF
3: OFDLCK ADVISORY  READ -1 00:15:1 0 EOF
`
	want := []Lock{{3568, "253:0"}, {3517, "0:70"}, {-1, "0:21"}}
	if diff := cmp.Diff(want, parseLocks(content)); diff != "" {
		t.Error(diff)
	}
}

func TestParseWatches(t *testing.T) {
	const content = "pos:\t0\nflags:\t00\nmnt_id:\t16\nino:\t1057\n" +
		"inotify wd:2 ino:9e7e sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:7e9e0000640d1b6d\n" +
		"inotify wd:1 ino:a111 sdev:2e mask:2 ignored_mask:0\n" +
		"fanotify flags:10 event-flags:0\nfanotify mnt_id:12 mflags:40 mask:38 ignored_mask:40000003\n" +
		"fanotify ino:4f969 sdev:800013 mflags:0 mask:3b ignored_mask:40000000\n"
	want := []Watch{{"8:19", 0x9e7e, false}, {"0:46", 0xa111, false}, {"8:19", 0x4f969, false}}
	if diff := cmp.Diff(want, parseWatches(content)); diff != "" {
		t.Error(diff)
	}
}

func TestParseHandle(t *testing.T) {
	for content, want := range map[string]int{"pos:\t0\nPid:\t4711\nNSpid:\t4711\t1\n": 4711, "Pid:\t-1\nNSpid:\t-1\n": -1} {
		if pid, found := parseHandle(content); !found || pid != want {
			t.Errorf("parseHandle(%q) = %d, %v", content, pid, found)
		}
	}
	if _, found := parseHandle("pos:\t0\n"); found {
		t.Error("a file without a process has one")
	}
}

func TestParseInterface(t *testing.T) {
	for content, want := range map[string]string{"pos:\t0\niff:\ttun7\n": "tun7", "pos:\t0\niff:\t\n": "", "pos:\t0\n": ""} {
		if got := parseInterface(content); got != want {
			t.Errorf("parseInterface(%q) = %q, want %q", content, got, want)
		}
	}
}

// FuzzParsers: no content of a file of /proc makes a parser fail, and what the
// parsers return is whole.
func FuzzParsers(f *testing.F) {
	for _, seed := range []string{
		"Name:\tx\nNSpid:\t1\t2\nUid:\t1\t2\t3\t4\t5\nRssShmem:\t9 kB\n", "1 2 0:50 / / rw - overlay overlay rw\n",
		"00-10 r-xp 0 08:02 17 /a b (deleted)\n", "0: 0:0 0:0 01 0:0 0:0 0 0 0 12 1\n", "e3 0 0 0 1 0 0 2 0 4\n",
		"1: POSIX ADVISORY WRITE 3 fd:00:2 0 EOF\n", "inotify wd:2 ino:9e sdev:80 mask:8\n", "Pid:\t-1\n", "socket:[12]",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, content string) {
		if p := parseStatus(content); p.Shared < 0 || p.Hugetlb < 0 {
			t.Errorf("sizes %d, %d", p.Shared, p.Hugetlb)
		}
		for _, m := range parseMountinfo(content) {
			if m.Point == "" || m.Kind == "" {
				t.Errorf("mount %+v", m)
			}
		}
		if mappings, ranges := parseMaps(content); len(mappings) != len(ranges) {
			t.Errorf("%d mappings, %d ranges", len(mappings), len(ranges))
		}
		for _, inode := range append(parseTCP(content), parseNetlink(content)...) {
			if inode == 0 && len(parseNetlink(content)) == 0 {
				t.Error("a socket without inode")
			}
		}
		for _, w := range parseWatches(content) {
			if w.Device == "" {
				t.Error("a watch without a device")
			}
		}
		parseLocks(content)
		parseHandle(content)
		parseInode(content)
		parseInterface(content)
	})
}
