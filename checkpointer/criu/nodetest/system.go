package nodetest

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/lifeboat-dev/lifeboat/e2e/image/debian"
)

// systemFolder returns a folder with a Debian trixie root file system that has
// runc, a CRIU for kernels from 6.16 on, and redis to be checkpointed. The folder
// is made once, with apt, and kept in the user's cache.
func systemFolder(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	cache = filepath.Join(cache, "lifeboat")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	// Programs of several packages run at the same time.
	lock, err := os.OpenFile(filepath.Join(cache, "node-rootfs.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", err
	}
	folder := filepath.Join(cache, "node-rootfs")
	if _, err := os.Stat(folder); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return folder, err
	}
	unfinished := folder + ".unfinished"
	if err := os.RemoveAll(unfinished); err != nil {
		return "", err
	}
	err = debian.Bootstrap(ctx, debian.Options{
		Suite: "trixie", Variant: "minbase",
		Include: []string{"runc", "criu", "iproute2", "iptables", "procps", "mount", "util-linux", "redis-server"},
	}, unfinished)
	if err == nil {
		err = debian.UnpackCRIU(ctx, unfinished)
	}
	if err != nil {
		return "", err
	}
	return folder, os.Rename(unfinished, folder)
}
