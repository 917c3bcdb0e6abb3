package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/lifeboat-dev/lifeboat/e2e/image/debian"
)

// GoBinary builds a static program from a Go package. The folder is one of the module
// that the package, an import path or "./…", belongs to. Nothing is done when the output
// is up to date.
func GoBinary(ctx context.Context, folder, pkg, output string, flags ...string) error {
	args := append([]string{"build", "-o", output}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, pkg)...)
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// The compiler processes go too.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if text, err := cmd.CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("build %s: %w", pkg, ctx.Err())
		}
		return fmt.Errorf("build %s in %s: %w\n%s", pkg, folder, err, text)
	}
	return nil
}

// suite is the Debian release that images are made of.
const suite = "trixie"

// FromDebian makes an image of Debian packages, with what they depend on and a shell,
// and returns its archive. Archives are kept in the folder cache: the second call with
// the same arguments takes no time. It needs root.
func FromDebian(ctx context.Context, cache, name string, packages, cmd []string) (archive string, err error) {
	recipe := strings.Join(slices.Concat([]string{suite, name}, packages, []string{"--"}, cmd), "\n")
	sum := sha256.Sum256([]byte(recipe))
	folder := filepath.Join(cache, "images")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", fmt.Errorf("build image %s: %w", name, err)
	}
	archive = filepath.Join(folder, "debian-"+hex.EncodeToString(sum[:8])+".tar")
	if _, err := os.Stat(archive); err == nil {
		return archive, nil
	}
	work, err := os.MkdirTemp(folder, ".debian-")
	if err != nil {
		return "", fmt.Errorf("build image %s: %w", name, err)
	}
	defer os.RemoveAll(work)
	layer := filepath.Join(work, "layer.tar")
	err = debian.Bootstrap(ctx, debian.Options{
		Suite:   suite,
		Variant: "essential",
		Include: packages,
		Extra: []string{
			// The manual's folders stay: packages with alternatives put links into them.
			"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*/*",
			"--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-exclude=/usr/share/info/*",
		},
	}, layer)
	if err != nil {
		return "", fmt.Errorf("build image %s: %w", name, err)
	}
	if err := Write(archive, Config{Name: name, Cmd: cmd}, layer); err != nil {
		return "", err
	}
	return archive, nil
}

// Pause makes the image of the program that holds a pod's namespaces, from the Lifeboat
// module in the folder module.
func Pause(ctx context.Context, module, archive, name string) error {
	work, err := os.MkdirTemp(filepath.Dir(archive), ".pause-")
	if err != nil {
		return fmt.Errorf("build image %s: %w", name, err)
	}
	defer os.RemoveAll(work)
	binary := filepath.Join(work, "pause")
	if err := GoBinary(ctx, module, "./e2e/image/pause", binary, "-ldflags=-s -w"); err != nil {
		return err
	}
	return FromBinary(archive, name, binary)
}

// Module finds the folder of the Lifeboat module that the folder, or the working folder
// if it is empty, lies in.
func Module(folder string) (string, error) {
	start := folder
	if start == "" {
		var err error
		if start, err = os.Getwd(); err != nil {
			return "", fmt.Errorf("find the Lifeboat repository: %w", err)
		}
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(text, []byte("module github.com/lifeboat-dev/lifeboat\n")) {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s is not inside the Lifeboat repository, whose sources are needed: change to it", start)
		}
	}
}
