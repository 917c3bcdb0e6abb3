// Package ramdisk keeps the temporary folders of tests off the disk.
package ramdisk

import "os"

// shared is a file system in memory that every Linux machine has.
const shared = "/dev/shm"

// TemporaryFolders makes testing.T.TempDir use memory where there is some, unless
// TMPDIR says where. It is for the tests of programs that wait for storage often, or
// that have their files in memory on a real node, such as the fencer in /run: a disk
// that is busy with something else must not decide how they end. Call it in TestMain.
func TemporaryFolders() {
	if info, err := os.Stat(shared); err == nil && info.IsDir() && os.Getenv("TMPDIR") == "" {
		os.Setenv("TMPDIR", shared)
	}
}
