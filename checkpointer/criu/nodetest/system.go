package nodetest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// systemFolder returns a folder with a Debian trixie root file system that has
// runc, and CRIU 4.2.1 of Debian sid: older ones do not work on kernels from
// 6.16 on. The folder is made once, with apt, and kept in the user's cache.
func systemFolder() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	cache = filepath.Join(cache, "lifeboat")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	// Test programs of several packages run at the same time.
	lock, err := os.OpenFile(filepath.Join(cache, "test-rootfs.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", err
	}
	folder := filepath.Join(cache, "test-rootfs")
	if _, err := os.Stat(folder); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return folder, err
	}
	unfinished := folder + ".unfinished"
	if err := os.RemoveAll(unfinished); err != nil {
		return "", err
	}
	cmd := exec.Command("/bin/bash", "-euc", makeSystem, "bash", unfinished)
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w:\n%s", err, output)
	}
	return folder, os.Rename(unfinished, folder)
}

// makeSystem is the script that makes the folder $1. Sid's packages are only
// unpacked, because installing them would draw in sid's C library.
const makeSystem = `
command -v mmdebstrap >/dev/null || apt-get install -y mmdebstrap
mirror=$(sed -n 's/^URIs: //p' /etc/apt/sources.list.d/*.sources | grep -m1 '/debian/*$')
mmdebstrap --variant=minbase --include=runc,criu,iproute2,iptables,procps,mount,util-linux trixie "$1" "$mirror"
sid=$(mktemp -d); trap 'rm -rf "$sid"' EXIT
mkdir -p "$sid/lists/partial" "$sid/archives/partial"; echo "deb $mirror sid main" > "$sid/sid.list"
options=(-oDir::Etc::sourcelist="$sid/sid.list" -oDir::Etc::sourceparts=- -oDir::State::Lists="$sid/lists"
	-oDir::Cache::archives="$sid/archives" -oAPT::Sandbox::User=root -oAcquire::Check-Valid-Until=false)
apt-get "${options[@]}" update
cd "$sid"; apt-get "${options[@]}" download criu libcompel1 libnet9 libnl-3-200
for package in "$sid"/*.deb; do dpkg -x "$package" "$1"; done
chroot "$1" criu --version
`
