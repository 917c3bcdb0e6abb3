package criu

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// diskKinds are the file systems whose times are trusted, and how they are made. One
// keeps whole seconds, as ext4 does where its inodes are small.
var diskKinds = map[string][]string{
	"ext4":               {"mkfs.ext4", "-q", "-F"},
	"ext4, small inodes": {"mkfs.ext4", "-q", "-F", "-I", "128"},
	"xfs":                {"mkfs.xfs", "-q"},
	"btrfs":              {"mkfs.btrfs", "-q"},
}

// onDisk calls do with a folder of a file system of a kind, which is mounted for the
// calling thread alone and gone with it.
func onDisk(t *testing.T, kind string, do func(t *testing.T, folder string)) {
	t.Helper()
	maker := diskKinds[kind]
	if _, err := exec.LookPath(maker[0]); err != nil {
		t.Skipf("%s is not installed", maker[0])
	}
	base := t.TempDir()
	image, folder := filepath.Join(base, "image"), filepath.Join(base, "mounted")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 400<<20); err != nil {
		t.Fatal(err)
	}
	if output, err := exec.CommandContext(t.Context(), maker[0], append(maker[1:], image)...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread's end is the mount's
		err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, "")
		}
		if err != nil {
			t.Error(err)
			return
		}
		if output, err := exec.Command("mount", "-o", "loop", image, folder).CombinedOutput(); err != nil {
			t.Errorf("mount: %v: %s", err, output)
			return
		}
		defer func() {
			if err := unix.Unmount(folder, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		}()
		do(t, folder)
	}()
	<-done
}
