package criu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The tests in this file fail when one of the rules is left out that say which copies
// of files can be trusted.

// write gives a file a content that is as long each time.
func write(t *testing.T, file string, letter string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		_, err = f.WriteAt([]byte(strings.Repeat(letter, 100_000)), 0)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func stampAt(t *testing.T, file string) stamp {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Stat(file, &stat); err != nil {
		t.Fatal(err)
	}
	return stampOf(&stat)
}

// wantLetter checks what a tar file has of a file.
func wantLetter(t *testing.T, c *testCapture, name, letter string) {
	t.Helper()
	content := tarred(t, c.tree.file)[name]
	if len(content) == 0 || strings.Trim(content, letter) != "" {
		t.Errorf("of %s the tar file has %d bytes, not all %q", name, len(content), letter)
	}
}

// onEach runs a test on each kind of file system that is trusted.
func onEach(t *testing.T, do func(t *testing.T, folder string, age time.Duration)) {
	for kind := range diskKinds {
		t.Run(kind, func(t *testing.T) {
			onDisk(t, kind, func(t *testing.T, folder string) { do(t, folder, ageOn(kind)) })
		})
	}
}

func TestWhatDidNotChangeIsNotCopiedInThePause(t *testing.T) {
	onEach(t, func(t *testing.T, folder string, age time.Duration) {
		for _, name := range []string{"same", "written"} {
			write(t, filepath.Join(folder, name), "a")
		}
		time.Sleep(age + 4*testAge)
		c := prepareCapture(t, folder, age, filesBase{})
		c.readAhead()
		write(t, filepath.Join(folder, "written"), "b")
		captured := c.finish()
		if captured.late != 100_000 {
			t.Errorf("%d bytes were copied in the pause, and 100000 had changed", captured.late)
		}
		wantLetter(t, c, "same", "a")
		wantLetter(t, c, "written", "b")
	})
}

func TestFileOfTheSameTickIsCopiedAgain(t *testing.T) {
	onDisk(t, "ext4, small inodes", func(t *testing.T, folder string) {
		file := filepath.Join(folder, "f")
		for attempt := 0; ; attempt++ {
			// Just after a new second, so that all happens in it.
			time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second + 20*time.Millisecond)))
			write(t, file, "a")
			before := stampAt(t, file)
			c := prepareCapture(t, folder, settledAge, filesBase{})
			c.readAhead()
			write(t, file, "b")
			if stampAt(t, file) != before && attempt < 5 {
				continue // the machine stalled
			}
			c.finish()
			wantLetter(t, c, "f", "b")
			return
		}
	})
}

func TestMappedFileIsCopiedInThePause(t *testing.T) {
	for _, how := range []string{"mapped all the time", "unmapped before the pause"} {
		t.Run(how, func(t *testing.T) {
			onEach(t, func(t *testing.T, folder string, age time.Duration) {
				file := filepath.Join(folder, "f")
				write(t, file, "a")
				memory := mapFile(t, file)
				copy(memory, strings.Repeat("b", len(memory))) // from now on no store is noticed
				time.Sleep(age + 4*testAge)
				before := stampAt(t, file)
				c := prepareCapture(t, folder, age, filesBase{})
				c.readAhead()
				copy(memory, strings.Repeat("c", len(memory)))
				if stampAt(t, file) != before {
					t.Skip("the store was noticed: the pages were written to the disk meanwhile")
				}
				if how != "mapped all the time" {
					if err := unix.Munmap(memory); err != nil {
						t.Fatal(err)
					}
				}
				c.finish()
				wantLetter(t, c, "f", "c")
			})
		})
	}
}

func mapFile(t *testing.T, file string) []byte {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	memory, err := unix.Mmap(int(f.Fd()), 0, 100_000, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(memory) })
	return memory
}

// TestMappedFileOfAnOverlay has a file mapped by a path on which it has other numbers
// than in the folder that is captured.
func TestMappedFileOfAnOverlay(t *testing.T) {
	onDisk(t, "ext4", func(t *testing.T, disk string) {
		var folders []string
		for _, name := range []string{"lower", "upper", "work", "merged"} {
			folders = append(folders, filepath.Join(disk, name))
			if err := os.Mkdir(filepath.Join(disk, name), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		lower, upper, work, merged := folders[0], folders[1], folders[2], folders[3]
		write(t, filepath.Join(lower, "copied up"), "a")
		if err := unix.Mount("overlay", merged, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work)); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Unmount(merged, unix.MNT_DETACH) }()
		names := []string{"copied up", "new"}
		var memory [][]byte
		for _, name := range names {
			write(t, filepath.Join(merged, name), "a")
			m := mapFile(t, filepath.Join(merged, name))
			copy(m, strings.Repeat("b", len(m)))
			memory = append(memory, m)
		}
		write(t, filepath.Join(merged, "not mapped"), "a")
		time.Sleep(5 * testAge)
		c := prepareCapture(t, upper, testAge, filesBase{})
		c.tree.merged, c.tree.kind = merged, overlayUpper
		c.readAhead()
		for _, m := range memory {
			copy(m, strings.Repeat("c", len(m)))
		}
		captured := c.finish()
		for _, name := range names {
			wantLetter(t, c, name, "c")
		}
		if want := int64(len(names)) * 100_000; captured.late != want {
			t.Errorf("%d bytes were copied in the pause, and %d are of mapped files", captured.late, want)
		}
		for _, m := range memory {
			_ = unix.Munmap(m)
		}
	})
}

func TestFileForDirectWritesIsCopiedInThePause(t *testing.T) {
	onDisk(t, "ext4", func(t *testing.T, folder string) {
		write(t, filepath.Join(folder, "f"), "a")
		f, err := os.OpenFile(filepath.Join(folder, "f"), os.O_RDWR|unix.O_DIRECT, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		time.Sleep(5 * testAge)
		c := prepareCapture(t, folder, testAge, filesBase{})
		c.readAhead()
		if captured := c.finish(); captured.late != 100_000 {
			t.Errorf("%d bytes were copied in the pause, not the file that may have a write on its way", captured.late)
		}
	})
}

func TestNothingIsTrustedWhenTheClockWasSetBack(t *testing.T) {
	onDisk(t, "ext4", func(t *testing.T, folder string) {
		write(t, filepath.Join(folder, "f"), "a")
		time.Sleep(5 * testAge)
		c := prepareCapture(t, folder, testAge, filesBase{})
		c.readAhead()
		c.ahead.began.ahead += int64(time.Second) // as if it had been ahead
		if captured := c.finish(); captured.late != 100_000 {
			t.Errorf("%d bytes were copied in the pause", captured.late)
		}
	})
}

// TestWriteUnderWay has a write that got its time long ago and is not done: the page
// that it takes its bytes from is handed to the kernel late.
func TestWriteUnderWay(t *testing.T) {
	onEach(t, func(t *testing.T, folder string, age time.Duration) {
		file := filepath.Join(folder, "f")
		if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, 100_000)); err != nil {
			t.Fatal(err) // a hole, so that even whether there is something depends on the write
		}
		memory, supply := lateMemory(t)
		written := make(chan error, 1)
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		before := stampAt(t, file)
		time.Sleep(age) // for another stamp
		go func() {
			_, err := unix.Pwrite(int(f.Fd()), memory, 0)
			written <- err
		}()
		deadline := time.Now().Add(10 * time.Second)
		for stampAt(t, file) == before {
			if time.Now().After(deadline) {
				supply()
				t.Skip("this file system sets the time when the bytes are there")
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(age + 4*testAge)
		c := prepareCapture(t, folder, age, filesBase{})
		// The copy must wait, so the page comes while it is made.
		time.AfterFunc(300*time.Millisecond, supply)
		c.readAhead()
		if err := <-written; err != nil {
			t.Fatal(err)
		}
		c.finish()
		if got := tarred(t, c.tree.file)["f"][:len(memory)]; got != strings.Repeat("z", len(memory)) {
			t.Errorf("the tar file does not have what was written, but %q...", got[:10])
		}
	})
}

// lateMemory returns a page that is not there before supply fills it with z.
func lateMemory(t *testing.T) (memory []byte, supply func()) {
	t.Helper()
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0)
	if errno != 0 {
		t.Skipf("userfaultfd: %v", errno)
	}
	t.Cleanup(func() { unix.Close(int(fd)) })
	memory, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	const ( // of linux/userfaultfd.h
		uffdAPI, uffdioAPI, uffdioRegister, uffdioCopy = 0xaa, 0xc018aa3f, 0xc020aa00, 0xc028aa03
		modeMissing                                    = 1
	)
	start := uint64(uintptr(unsafe.Pointer(&memory[0])))
	call := func(request uintptr, argument unsafe.Pointer) {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(argument)); errno != 0 {
			t.Errorf("userfaultfd request %x: %v", request, errno)
		}
	}
	call(uffdioAPI, unsafe.Pointer(&[3]uint64{uffdAPI}))
	call(uffdioRegister, unsafe.Pointer(&[4]uint64{start, 4096, modeMissing}))
	content := []byte(strings.Repeat("z", 4096))
	return memory, func() {
		call(uffdioCopy, unsafe.Pointer(&[5]uint64{start, uint64(uintptr(unsafe.Pointer(&content[0]))), 4096}))
	}
}

// nextCapture captures a folder again, as the generation after another one.
func nextCapture(t *testing.T, folder string, before *testCapture, captured *capturer) (*testCapture, *capturer) {
	t.Helper()
	c := prepareCapture(t, folder, testAge, filesBase{until: before.ahead.began, saved: captured.saved})
	c.readAhead()
	next := c.finish()
	fillKept(t, c.tree.file, before.tree.file, next.kept)
	return c, next
}

func TestFileIsLeftToTheBase(t *testing.T) {
	onDisk(t, "ext4", func(t *testing.T, folder string) {
		file := filepath.Join(folder, "f")
		write(t, file, "a")
		time.Sleep(5 * testAge)
		c := prepareCapture(t, folder, testAge, filesBase{})
		c.readAhead()
		captured := c.finish()
		for range 2 { // the second one's base has it from its own base
			c, captured = nextCapture(t, folder, c, captured)
			wantLetter(t, c, "f", "a")
			if len(captured.kept) != 1 || len(c.ahead.copies) != 0 || captured.late != 0 {
				t.Fatalf("%d files are left to the base, %d were copied ahead, %d bytes in the pause", len(captured.kept), len(c.ahead.copies), captured.late)
			}
		}
		write(t, file, "b")
		c, captured = nextCapture(t, folder, c, captured)
		wantLetter(t, c, "f", "b")
		if len(captured.kept) != 0 {
			t.Error("a file that was written is left to the base")
		}
		time.Sleep(5 * testAge)
		c, captured = nextCapture(t, folder, c, captured)
		c.ahead.began.ahead += int64(time.Second) // as if the clock had been ahead
		c, captured = nextCapture(t, folder, c, captured)
		wantLetter(t, c, "f", "b")
		if len(captured.kept) != 0 {
			t.Error("files are left to the base although the clock was set back")
		}
		if _, captured = nextCapture(t, folder, c, captured); len(captured.kept) != 1 {
			t.Error("nothing is left to the base any more once the clock was set back")
		}
	})
}

// A store to a page that waits for the disk leaves no trace in the times, and the mapping may
// be gone when it is looked for.
func TestMappedFileIsNotLeftToTheBase(t *testing.T) {
	onDisk(t, "ext4", func(t *testing.T, folder string) {
		file := filepath.Join(folder, "f")
		write(t, file, "a")
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		memory, err := unix.Mmap(int(f.Fd()), 0, 100_000, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			t.Fatal(err)
		}
		store := func(letter byte) {
			for i := range memory {
				memory[i] = letter
			}
		}
		store('b')
		before := stampAt(t, file)
		time.Sleep(5 * testAge)
		c := prepareCapture(t, folder, testAge, filesBase{})
		c.readAhead()
		captured := c.finish()
		wantLetter(t, c, "f", "b")
		store('c')
		if err := unix.Munmap(memory); err != nil {
			t.Fatal(err)
		}
		if stampAt(t, file) != before {
			t.Skip("the page was on the disk meanwhile: this run shows nothing")
		}
		c, captured = nextCapture(t, folder, c, captured)
		wantLetter(t, c, "f", "c")
		if len(captured.kept) != 0 {
			t.Error("a file that was mapped is left to the base")
		}
	})
}
