// Package binaries provides the programs that a local cluster consists of to tests that
// need some of them and no cluster.
package binaries

import (
	"context"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster/internal/provision"
	"github.com/lifeboat-dev/lifeboat/e2e/image"
)

// Kubernetes returns a folder with the programs of Kubernetes and etcd. They lie in the
// cache of the local clusters and are the same as theirs: whoever needs them first builds
// them, which takes minutes, and tells progress each step. The working folder must lie in
// the Lifeboat repository.
func Kubernetes(ctx context.Context, progress func(step string)) (folder string, err error) {
	module, err := image.Module("")
	if err != nil {
		return "", err
	}
	dir, err := provision.DefaultDir()
	if err != nil {
		return "", err
	}
	return provision.Cache{Dir: provision.CacheDir(dir), Module: module, Progress: progress}.Binaries(ctx)
}
