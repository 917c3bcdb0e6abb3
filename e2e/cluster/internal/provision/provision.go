// Package provision makes what clusters are started from, the binaries and the nodes'
// root file system, once, and keeps it in a cache.
package provision

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/filelock"
	"github.com/lifeboat-dev/lifeboat/e2e/image"
	"github.com/lifeboat-dev/lifeboat/e2e/image/debian"
)

// KubernetesVersion is what the tools of the module e2e/kubernetes report as their version.
const KubernetesVersion = "1.35.4"

// PauseImage is what containerd 1.7 uses for a pod's sandbox by default.
const PauseImage = "registry.k8s.io/pause:3.8"

// DirVariable is the environment variable with the folder of all clusters and their cache.
const DirVariable = "LIFEBOAT_LAB"

// DefaultDir is the folder of all clusters and of their cache: what DirVariable says, or
// "lifeboat" in the user's cache folder.
func DefaultDir() (string, error) {
	if dir := os.Getenv(DirVariable); dir != "" {
		return filepath.Abs(dir)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a folder for the cluster: %w (set %s)", err, DirVariable)
	}
	return filepath.Join(cache, "lifeboat"), nil
}

// CacheDir is the folder of the cache in the folder of all clusters.
func CacheDir(dir string) string { return filepath.Join(dir, "cache") }

// A Cache holds what clusters are started from. Each thing lies under a name derived
// from its inputs, so a change of them makes a new one.
type Cache struct {
	Dir      string            // the cache's folder
	Module   string            // the folder of the Lifeboat module
	Progress func(step string) // told of long work
}

// tools are the programs of a cluster: what a package's program is called here.
var tools = map[string]string{
	"k8s.io/kubernetes/cmd/kube-apiserver":          "kube-apiserver",
	"k8s.io/kubernetes/cmd/kube-controller-manager": "kube-controller-manager",
	"k8s.io/kubernetes/cmd/kube-scheduler":          "kube-scheduler",
	"k8s.io/kubernetes/cmd/kubelet":                 "kubelet",
	"k8s.io/kubernetes/cmd/kube-proxy":              "kube-proxy",
	"k8s.io/kubernetes/cmd/kubectl":                 "kubectl",
	"go.etcd.io/etcd/server/v3":                     "etcd",
}

// Binaries returns a folder with the programs of Kubernetes and etcd.
func (c Cache) Binaries(ctx context.Context) (string, error) {
	module := filepath.Join(c.Module, "e2e/kubernetes")
	version := strings.Split(KubernetesVersion, ".")
	ldflags := fmt.Sprintf("-s -w -X k8s.io/component-base/version.gitVersion=v%s -X k8s.io/component-base/version.gitMajor=%s -X k8s.io/component-base/version.gitMinor=%s",
		KubernetesVersion, version[0], version[1])
	key, err := moduleKey(ctx, module)
	if err != nil {
		return "", fmt.Errorf("build Kubernetes: %w", err)
	}
	key = append([]string{ldflags}, key...)
	return c.once(ctx, "kubernetes", key, "building Kubernetes and etcd, some minutes the first time", func(ctx context.Context, dir string) error {
		var reports sync.WaitGroup
		defer reports.Wait()
		watched, stop := context.WithCancel(ctx)
		defer stop()
		reports.Go(func() { c.reportFiles(watched, dir) })
		var packages []string
		for pkg := range tools {
			packages = append(packages, pkg)
		}
		flags := append([]string{"-ldflags=" + ldflags}, packages[1:]...)
		if err := image.GoBinary(ctx, module, packages[0], dir+"/", flags...); err != nil {
			return err
		}
		for pkg, name := range tools {
			if err := os.Rename(filepath.Join(dir, builtName(pkg)), filepath.Join(dir, name)); err != nil {
				return fmt.Errorf("build %s: %w", name, err)
			}
		}
		return nil
	})
}

// moduleKey is what the programs of a module of tools depend on: its versions, and the Go
// that builds them.
func moduleKey(ctx context.Context, module string) ([]string, error) {
	var key []string
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(module, name))
		if err != nil {
			return nil, err
		}
		key = append(key, string(text))
	}
	goVersion := exec.CommandContext(ctx, "go", "version")
	goVersion.Dir = module // the module may choose another Go than the one on the PATH
	toolchain, err := goVersion.Output()
	if err != nil {
		return nil, fmt.Errorf("run go: %w (install Go and put it on the PATH)", err)
	}
	return append(key, string(toolchain)), nil
}

// S3Server returns the program of an S3 server.
func (c Cache) S3Server(ctx context.Context) (string, error) {
	module := filepath.Join(c.Module, "e2e/s3")
	key, err := moduleKey(ctx, module)
	if err != nil {
		return "", fmt.Errorf("build the S3 server: %w", err)
	}
	folder, err := c.once(ctx, "s3", key, "building the S3 server, a minute the first time", func(ctx context.Context, dir string) error {
		return image.GoBinary(ctx, module, "github.com/versity/versitygw/cmd/versitygw", filepath.Join(dir, "versitygw"), "-ldflags=-s -w")
	})
	if err != nil {
		return "", err
	}
	return filepath.Join(folder, "versitygw"), nil
}

// builtName is what go build calls a package's program.
func builtName(pkg string) string {
	base := filepath.Base(pkg)
	if base == "v3" {
		return filepath.Base(filepath.Dir(pkg))
	}
	return base
}

// reportFiles tells of each program that appears in a folder.
func (c Cache) reportFiles(ctx context.Context, dir string) {
	begin := time.Now()
	seen := map[string]bool{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, entry := range entries {
			if !seen[entry.Name()] {
				seen[entry.Name()] = true
				c.Progress(fmt.Sprintf("  built %s (%d of %d, after %s)", entry.Name(), len(seen), len(tools), time.Since(begin).Round(time.Second)))
			}
		}
	}
}

// nodePackages are Debian's packages that a node consists of.
var nodePackages = []string{
	"ca-certificates", "conntrack", "containerd", "containernetworking-plugins", "criu", "iproute2", "iptables",
	"mount", "nftables", "procps", "runc", "util-linux",
}

// NodeRoot returns the root file system of a node.
func (c Cache) NodeRoot(ctx context.Context) (string, error) {
	const nodeSuite = "trixie"
	key := append([]string{nodeSuite, "CRIU of sid"}, nodePackages...)
	return c.once(ctx, "node", key, "making the nodes' root file system from Debian packages", func(ctx context.Context, dir string) error {
		root := filepath.Join(dir, "root")
		err := debian.Bootstrap(ctx, debian.Options{
			Suite:   nodeSuite,
			Variant: "minbase",
			Include: nodePackages,
			Extra:   []string{"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*"},
		}, root)
		if err != nil {
			return err
		}
		return debian.UnpackCRIU(ctx, root)
	})
}

// Pause returns the archive of the image that holds a pod's namespaces.
func (c Cache) Pause(ctx context.Context) (string, error) {
	source, err := os.ReadFile(filepath.Join(c.Module, "e2e/image/pause/main.go"))
	if err != nil {
		return "", fmt.Errorf("build pause image: %w", err)
	}
	dir, err := c.once(ctx, "pause", []string{PauseImage, string(source)}, "building the pause image", func(ctx context.Context, dir string) error {
		return image.Pause(ctx, c.Module, filepath.Join(dir, "pause.tar"), PauseImage)
	})
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "pause.tar"), nil
}

// Scheduler builds the program in a module's folder and returns its path. It is built
// anew whenever its sources have changed.
func (c Cache) Scheduler(ctx context.Context, folder string) (string, error) {
	output := filepath.Join(c.Dir, "scheduler-"+hash([]string{folder}), "kube-scheduler")
	if err := os.MkdirAll(filepath.Dir(output), 0o755); err != nil {
		return "", fmt.Errorf("build scheduler: %w", err)
	}
	unlock, err := c.lock(ctx, filepath.Base(filepath.Dir(output)))
	if err != nil {
		return "", err
	}
	defer unlock()
	begin := time.Now()
	c.Progress("building the scheduler in " + folder)
	if err := image.GoBinary(ctx, folder, ".", output, "-ldflags=-s -w"); err != nil {
		return "", err
	}
	c.Progress(fmt.Sprintf("built the scheduler in %s", time.Since(begin).Round(time.Second)))
	return output, nil
}

// once returns the folder named after kind and key, which it has made fill, unless an
// earlier call did. A folder that is there is complete.
func (c Cache) once(ctx context.Context, kind string, key []string, doing string, fill func(ctx context.Context, dir string) error) (string, error) {
	name := kind + "-" + hash(key)
	final := filepath.Join(c.Dir, name)
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	unlock, err := c.lock(ctx, name)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	begin := time.Now()
	c.Progress(doing)
	partial := final + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return "", fmt.Errorf("%s: %w", doing, err)
	}
	if err := os.MkdirAll(partial, 0o755); err != nil {
		return "", fmt.Errorf("%s: %w", doing, err)
	}
	if err := fill(ctx, partial); err != nil {
		return "", errors.Join(fmt.Errorf("%s: %w", doing, err), os.RemoveAll(partial))
	}
	if err := os.Rename(partial, final); err != nil {
		return "", fmt.Errorf("%s: %w", doing, err)
	}
	c.Progress(fmt.Sprintf("%s: done in %s", doing, time.Since(begin).Round(100*time.Millisecond)))
	return final, nil
}

func (c Cache) lock(ctx context.Context, name string) (unlock func(), err error) {
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("make cache: %w", err)
	}
	lock, err := filelock.Wait(ctx, filepath.Join(c.Dir, name+".lock"), func(holder string) {
		c.Progress("waiting for " + holder + ", which makes " + name)
	})
	if err != nil {
		return nil, err
	}
	return lock.Release, nil
}

func hash(parts []string) string {
	sum := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(sum, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(sum.Sum(nil)[:6])
}
