package criu

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fown"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/regfile"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/timerfd"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/lifeboat-dev/lifeboat/checkpointer/memory"
)

func TestExplain(t *testing.T) {
	tests := map[string]struct {
		log          string
		reason, hint string // empty: no *NotCheckpointable
		text         string
	}{
		"io_uring": {
			log:    "(00.01) Error (criu/files-ext.c:98): Can't dump file 5 of that type [600] (unknown /proc/1/fd/anon_inode:[io_uring])\n(00.02) Error (criu/cr-dump.c:1): Dumping FAILED.\n",
			reason: "uses io_uring", hint: "UV_USE_IO_URING=0",
		},
		"MPTCP":       {log: "(00.01) Error (criu/sk-inet.c:191): inet: Unsupported proto 262 for socket 7\n", reason: "MPTCP", hint: "lifeboat"},
		"other proto": {log: "Error (criu/sk-inet.c:191): inet: Unsupported proto 132 for socket 7", reason: "IP protocol 132", hint: "close"},
		"ghost file": {
			log:    "Error (criu/files-reg.c:1030): Can't dump ghost file /tmp/big of 999999999 size, increase limit\n",
			reason: "/tmp/big is still open and has 999999999 bytes", hint: "emptyDir",
		},
		"limits":  {log: "(00.1) Error (criu/cr-dump.c:9): Can't get rlimit 0: Operation not permitted\n", reason: "CAP_SYS_RESOURCE", hint: "root"},
		"unknown": {log: "(00.01) Error (criu/x.c:1): something new\n(00.01) Warn  (criu/y.c:2): never mind\n", text: "dump container main: refused; CRIU's log: something new"},
		"harmless only": {
			log:  "(00.01) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n",
			text: "dump container main: refused",
		},
		"no log": {text: "dump container main: refused"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := explain("main", errors.New("refused"), test.log)
			var not *NotCheckpointable
			if is := errors.As(err, &not); is != (test.reason != "") {
				t.Fatalf("explain = %v", err)
			}
			if not == nil {
				if err.Error() != test.text {
					t.Errorf("explain = %q, want %q", err, test.text)
				}
				return
			}
			if !strings.Contains(not.Reason, test.reason) || !strings.Contains(not.Hint, test.hint) || !strings.Contains(err.Error(), "container main cannot be checkpointed: ") {
				t.Errorf("explain = %+v, want a reason with %q and a hint with %q", not, test.reason, test.hint)
			}
		})
	}
}

func TestResolveIn(t *testing.T) {
	root := t.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Join(root, "run/lock"), 0o755), os.MkdirAll(filepath.Join(root, "var"), 0o755),
		os.Symlink("/run", filepath.Join(root, "var/run")), os.Symlink("../../../../run", filepath.Join(root, "climb")),
		os.Symlink("loop", filepath.Join(root, "loop"))); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"/run":                "/run",
		"/var/run/lock":       "/run/lock",
		"/var/run/lock/new/x": "/run/lock/new/x",
		"/climb/lock":         "/run/lock",
		"/loop/x":             "/loop/x",
		"/missing/file":       "/missing/file",
		"relative/../run/":    "/run",
		root + "/var/run":     "/run",
		"/":                   "/",
	} {
		if got := resolveIn(root, name); got != want {
			t.Errorf("resolveIn(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestParseMountinfo(t *testing.T) {
	got := parseMountinfo(`23 1 0:31 / / rw,relatime shared:1 - overlay overlay rw,lowerdir=/l1:/l2,upperdir=/u\040p,workdir=/w
24 23 0:32 / /sys/fs/cgroup/cpu,cpuacct ro,nosuid master:9 - cgroup cgroup rw,cpu,cpuacct
nonsense
`)
	want := []mountPoint{
		{"23", "/", "/", "overlay", false, []string{"rw", "lowerdir=/l1:/l2", "upperdir=/u p", "workdir=/w"}},
		{"24", "/", "/sys/fs/cgroup/cpu,cpuacct", "cgroup", true, []string{"rw", "cpu", "cpuacct"}},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(mountPoint{})); diff != "" {
		t.Error(diff)
	}
}

func TestCPUFeatures(t *testing.T) {
	tests := map[string]struct {
		cpuinfo string
		want    []string
	}{
		"amd64": {"processor\t: 0\nflags\t\t: sse2 fpu avx512f md_clear ibrs arch_capabilities aes fpu\nprocessor\t: 1\nflags\t\t: other\n", []string{"aes", "avx512f", "fpu", "sse2"}},
		"arm64": {"processor\t: 0\nFeatures\t: fp asimd atomics\n", []string{"asimd", "atomics", "fp"}},
		"none":  {"processor: 0\n", nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, cpuFeatures(test.cpuinfo)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// image makes a CRIU image of entries.
func image(t testing.TB, entries ...*fdinfo.FileEntry) []byte {
	t.Helper()
	content := []byte("magicMAG")
	for _, e := range entries {
		raw, err := proto.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		content = append(binary.LittleEndian.AppendUint32(content, uint32(len(raw))), raw...)
	}
	return content
}

func regular(id uint32, name string, size uint64) *fdinfo.FileEntry {
	return &fdinfo.FileEntry{Type: fdinfo.FdTypes_REG.Enum(), Id: &id, Reg: &regfile.RegFileEntry{
		Id: &id, Flags: proto.Uint32(0), Pos: proto.Uint64(0), Name: &name, Size: &size,
		Fown: &fown.FownEntry{Uid: &id, Euid: &id, Signum: &id, PidType: &id, Pid: &id},
	}}
}

func TestEditImage(t *testing.T) {
	file := filepath.Join(t.TempDir(), "files.img")
	unknown := regular(3, "third", 30)
	unknown.ProtoReflect().SetUnknown([]byte{0xfa, 0x3f, 1, 'x'})
	if err := os.WriteFile(file, image(t, regular(1, "first", 10), regular(2, "second", 20), unknown), 0o600); err != nil {
		t.Fatal(err)
	}
	err := editImage(file, func(e *fdinfo.FileEntry) bool {
		if e.GetId() != 2 {
			e.Reg.Size = nil
		}
		return e.GetId() != 1
	})
	if err != nil {
		t.Fatal(err)
	}
	unknown.Reg.Size = nil
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if want := image(t, regular(2, "second", 20), unknown); string(got) != string(want) {
		t.Errorf("the image is\n%q, want\n%q", got, want)
	}
}

// FuzzEditImage checks that no image, however damaged, does more than fail.
func FuzzEditImage(f *testing.F) {
	whole := image(f, regular(1, "first", 10), regular(2, "second", 20))
	f.Add(whole)
	f.Add(whole[:len(whole)-3])
	f.Add(whole[:10])
	f.Add([]byte("magicMAG\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, content []byte) {
		file := filepath.Join(t.TempDir(), "files.img")
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		err := editImage(file, func(*fdinfo.FileEntry) bool { return true })
		after, readErr := os.ReadFile(file)
		if readErr != nil {
			t.Fatal(readErr)
		}
		if err != nil && string(after) != string(content) {
			t.Errorf("after %v the image has changed", err)
		}
	})
}

func TestRearm(t *testing.T) {
	timer := func(ticks, vsec, vnsec, isec, insec uint64) *timerfd.TimerfdEntry {
		return &timerfd.TimerfdEntry{Ticks: &ticks, Vsec: &vsec, Vnsec: &vnsec, Isec: &isec, Insec: &insec}
	}
	tests := map[string]struct {
		timer     *timerfd.TimerfdEntry
		sec, nsec uint64
	}{
		"expired and not read": {timer(1, 0, 0, 2, 3), 2, 3},
		"running":              {timer(1, 1, 0, 2, 3), 1, 0},
		"disarmed":             {timer(0, 0, 0, 2, 3), 0, 0},
		"once":                 {timer(1, 0, 0, 0, 0), 0, 0},
	}
	for name, test := range tests {
		rearm(test.timer)
		if sec, nsec := test.timer.GetVsec(), test.timer.GetVnsec(); sec != test.sec || nsec != test.nsec {
			t.Errorf("%s: %d s and %d ns are left", name, sec, nsec)
		}
	}
	rearm(nil) // another kind of file
}

// pagemapImage is an image with entries of an address, a number of pages and flags.
func pagemapImage(entries ...[3]uint64) []byte { return numbered(1, entries...) }

// numbered is the same of an image that names the image of its pages by a number.
func numbered(number uint64, entries ...[3]uint64) []byte {
	image := make([]byte, imageHeader)
	add := func(entry []byte) {
		image = binary.LittleEndian.AppendUint32(image, uint32(len(entry)))
		image = append(image, entry...)
	}
	add(protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), number))
	for _, e := range entries {
		var entry []byte
		for i, field := range []protowire.Number{1, 5, 4} {
			entry = protowire.AppendVarint(protowire.AppendTag(entry, field, protowire.VarintType), e[i])
		}
		add(entry)
	}
	return image
}

func leftOutOf(image []byte) (memory.Set, error) {
	_, set, err := parsePagemap(image, isLeftOut)
	return set, err
}

func TestParseLeftOut(t *testing.T) {
	image := pagemapImage([3]uint64{0x10000, 2, pageLazy}, [3]uint64{0x12000, 1, pageLazy | pagePresent}, [3]uint64{0x20000, 1, pagePresent}, [3]uint64{0x30000, 3, pageLazy})
	got, err := leftOutOf(image)
	want := memory.Set{{Start: 0x10000, End: 0x10000 + 2*pageSize}, {Start: 0x30000, End: 0x30000 + 3*pageSize}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	for what, bad := range map[string][]byte{
		"cut short":     image[:len(image)-1],
		"no header":     {1},
		"beyond memory": pagemapImage([3]uint64{1 << 63, 1 << 62, pageLazy}),
		"crooked":       pagemapImage([3]uint64{17, 1, pageLazy}),
	} {
		if got, err := leftOutOf(bad); err == nil {
			t.Errorf("%s: %v", what, got)
		}
	}
}

func FuzzParseLeftOut(f *testing.F) {
	f.Add(pagemapImage([3]uint64{0x10000, 2, pageLazy}))
	f.Fuzz(func(t *testing.T, image []byte) {
		set, err := leftOutOf(image)
		if err == nil && len(memory.Subtract(set, memory.NewSet(set...))) > 0 {
			t.Errorf("%v is not in order", set)
		}
	})
}
