package criu

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// testAge is settledAge in tests: more than any clock's tick here.
const testAge = 25 * time.Millisecond

// ageOn is settledAge in a test on a kind of file system.
func ageOn(kind string) time.Duration {
	if kind == "ext4, small inodes" {
		return testAge + time.Second
	}
	return testAge
}

// testCapture is a capture of one folder, step by step.
type testCapture struct {
	t     testing.TB
	tree  tree
	ahead *filesAhead
}

func self() ([]int, error) { return []int{os.Getpid()}, nil }

// prepareCapture begins a capture of a folder.
func prepareCapture(t testing.TB, folder string, age time.Duration, base filesBase) *testCapture {
	t.Helper()
	out := t.TempDir()
	f, err := newFilesAhead(out, base, func() error { return nil }, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	f.age = age
	t.Cleanup(f.close)
	return &testCapture{t, tree{file: filepath.Join(out, "tree.tar"), name: "tree.tar", folder: folder, merged: folder}, f}
}

// readAhead copies what is there, while it may change.
func (c *testCapture) readAhead() {
	c.t.Helper()
	if err := c.ahead.read(c.t.Context(), []tree{c.tree}, self); err != nil {
		c.t.Fatal(err)
	}
}

// finish captures the folder, of which nothing changes any more.
func (c *testCapture) finish() *capturer {
	c.t.Helper()
	captured, err := captureFiles(c.t.Context(), []tree{c.tree}, c.ahead, self)
	if err == nil {
		err = captured.finish(c.t.Context())
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return captured
}

// tarred is what a tar file says of each name.
func tarred(t testing.TB, file string) map[string]string {
	t.Helper()
	in, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	entries := map[string]string{}
	contents := map[string]string{}
	for r := tar.NewReader(in); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		switch h.Typeflag {
		case tar.TypeReg:
			contents[h.Name] = string(content)
			entries[h.Name] = string(content)
		case tar.TypeLink:
			entries[h.Name] = contents[h.Linkname]
		}
	}
}

// truth is what the files of a folder have, read as anybody would.
func truth(t testing.TB, folder string) map[string]string {
	t.Helper()
	entries := map[string]string{}
	err := filepath.WalkDir(folder, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(name)
		relative, _ := filepath.Rel(folder, name)
		entries[relative] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// differences names the files that are not what they should be.
func differences(got, want map[string]string) []string {
	var names []string
	for name := range want {
		if got[name] != want[name] {
			at := 0
			for at < min(len(got[name]), len(want[name])) && got[name][at] == want[name][at] {
				at++
			}
			names = append(names, fmt.Sprintf("%s: %d bytes for %d, differs from byte %d on", name, len(got[name]), len(want[name]), at))
		}
	}
	for name := range got {
		if _, found := want[name]; !found {
			names = append(names, name+" is too many")
		}
	}
	slices.Sort(names)
	return names
}

// writer changes files in every way there is.
type writer struct {
	folder string
	random *rand.Rand
	// mappings stay from one change to the next.
	mappings [][]byte
	// open are files that stay open.
	open []*os.File
}

func (w *writer) close() {
	for _, m := range w.mappings {
		_ = unix.Munmap(m)
	}
	for _, f := range w.open {
		f.Close()
	}
}

func (w *writer) name() string {
	folder := filepath.Join(w.folder, []string{".", "a", "a/b"}[w.random.IntN(3)])
	return filepath.Join(folder, fmt.Sprintf("f%d", w.random.IntN(3)))
}

func (w *writer) bytes(n int) []byte {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(w.random.Uint32())
	}
	return data
}

// change does one thing. What cannot be done at the moment changes nothing.
func (w *writer) change() {
	name := w.name()
	switch kind := w.random.IntN(14); kind {
	case 0:
		_ = os.MkdirAll(filepath.Dir(name), 0o700)
		_ = os.WriteFile(name, w.bytes(w.random.IntN(400_000)), 0o600)
	case 1:
		_ = os.Truncate(name, int64(w.random.IntN(450_000)))
	case 2:
		_ = os.Rename(name, w.name())
	case 3:
		_ = os.Link(name, w.name())
	case 4:
		_ = os.Remove(name)
	case 5: // another file of the same size takes its place
		if info, err := os.Stat(name); err == nil {
			_ = os.WriteFile(name+".new", w.bytes(int(info.Size())), 0o600)
			_ = os.Chtimes(name+".new", info.ModTime(), info.ModTime())
			_ = os.Rename(name+".new", name)
		}
	case 6: // a write whose time is set back
		if info, err := os.Stat(name); err == nil {
			w.with(name, func(f *os.File) { _, _ = f.WriteAt(w.bytes(1), w.offset(f)) })
			_ = os.Chtimes(name, info.ModTime(), info.ModTime())
		}
	case 7:
		w.with(name, func(f *os.File) {
			_ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, w.offset(f), 50_000)
		})
	case 8:
		w.with(name, func(f *os.File) {
			_ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_ZERO_RANGE, w.offset(f), 5_000)
		})
	case 9: // a mapping that stays
		w.with(name, func(f *os.File) {
			if info, err := f.Stat(); err == nil && info.Size() > 0 && len(w.mappings) < 4 {
				if m, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
					w.mappings = append(w.mappings, m)
				}
			}
		})
	case 10, 11:
		w.store()
	case 12:
		if f, err := os.OpenFile(name, os.O_RDWR, 0); err == nil && len(w.open) < 4 {
			w.open = append(w.open, f)
		}
	default:
		for _, f := range w.open {
			_, _ = f.WriteAt(w.bytes(1+w.random.IntN(3)), w.offset(f))
		}
		w.with(name, func(f *os.File) { _, _ = f.WriteAt(w.bytes(1+w.random.IntN(9000)), w.offset(f)) })
	}
}

// store writes to a mapping. Its file may have become shorter, so the kernel writes it.
func (w *writer) store() {
	if len(w.mappings) == 0 {
		return
	}
	m := w.mappings[w.random.IntN(len(w.mappings))]
	if w.random.IntN(8) == 0 {
		_ = unix.Munmap(m)
		w.mappings = slices.DeleteFunc(w.mappings, func(other []byte) bool { return &other[0] == &m[0] })
		return
	}
	// A read from a pipe into the mapping fails where a store would be fatal.
	var pipe [2]int
	if unix.Pipe(pipe[:]) != nil {
		return
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	at := w.random.IntN(len(m))
	n, _ := unix.Write(pipe[1], w.bytes(1+w.random.IntN(4)))
	_, _ = unix.Read(pipe[0], m[at:min(len(m), at+n)])
}

func (w *writer) with(name string, do func(*os.File)) {
	if f, err := os.OpenFile(name, os.O_RDWR, 0); err == nil {
		do(f)
		f.Close()
	}
}

func (w *writer) offset(f *os.File) int64 {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return 0
	}
	return w.random.Int64N(info.Size())
}

// TestFilesAreOfOneMoment has files change in every way before, while and after they
// are copied ahead, and compares the tar file with what they are when nothing changes
// any more.
func TestFilesAreOfOneMoment(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			onDisk(t, kind, func(t *testing.T, disk string) {
				var trusted trust
				rapid.Check(t, func(rt *rapid.T) {
					run := oneMoment(t, rt, disk, testAge)
					trusted.copies, trusted.kept = trusted.copies+run.copies, trusted.kept+run.kept
				})
				if (trusted.copies == 0 || trusted.kept == 0) && !t.Failed() {
					t.Errorf("%+v was ever trusted: this test shows nothing", trusted)
				}
				t.Logf("%+v", trusted)
			})
		})
	}
}

// trust is how many copies were trusted, and how many files were left to the base.
type trust struct{ copies, kept int }

// oneMoment is one run, of three generations.
func oneMoment(t *testing.T, rt *rapid.T, disk string, age time.Duration) (trusted trust) {
	folder := filepath.Join(disk, fmt.Sprint(time.Now().UnixNano()))
	if err := os.Mkdir(folder, 0o700); err != nil {
		rt.Fatal(err)
	}
	defer os.RemoveAll(folder)
	w := &writer{folder: folder, random: rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 0))}
	defer w.close()
	changes := rapid.IntRange(0, 12)
	for range 10 + changes.Draw(rt, "before") {
		w.change()
	}
	var base filesBase
	var stored string
	for generation := range 3 {
		c, captured := oneCapture(t, rt, w, age, base)
		fillKept(t, c.tree.file, stored, captured.kept)
		if wrong := differences(tarred(t, c.tree.file), truth(t, folder)); len(wrong) > 0 {
			rt.Fatalf("generation %d is not what was in its pause: %v", generation, wrong)
		}
		for _, copied := range c.ahead.copies {
			if copied.settled {
				trusted.copies++
			}
		}
		trusted.kept += len(captured.kept)
		stored, base = c.tree.file, filesBase{until: c.ahead.began, saved: captured.saved}
	}
	return trusted
}

// fillKept puts what is kept into an archive, from where the one before has it.
func fillKept(t testing.TB, archive, before string, kept []KeptFile) {
	t.Helper()
	if len(kept) == 0 {
		return
	}
	out, err := os.OpenFile(archive, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := os.Open(before)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	for _, k := range kept {
		if _, err := io.Copy(io.NewOffsetWriter(out, k.Offset), io.NewSectionReader(in, k.BaseOffset, k.Length)); err != nil {
			t.Fatal(err)
		}
	}
}

// oneCapture captures a folder that changes at any time but in the pause.
func oneCapture(t *testing.T, rt *rapid.T, w *writer, age time.Duration, base filesBase) (*testCapture, *capturer) {
	changes := rapid.IntRange(0, 12)
	if rapid.IntRange(0, 3).Draw(rt, "settle") > 0 {
		time.Sleep(age + 15*time.Millisecond)
	}
	for range changes.Draw(rt, "just before") {
		w.change()
	}
	c := prepareCapture(t, w.folder, age, base)
	var beside sync.WaitGroup
	if n := changes.Draw(rt, "while"); n > 0 {
		beside.Go(func() {
			for range n {
				w.change()
			}
		})
	}
	c.readAhead()
	beside.Wait()
	for range changes.Draw(rt, "after") {
		w.change()
	}
	captured := c.finish()
	return c, captured
}
