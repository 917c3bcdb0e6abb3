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
	cache, err := openCache(progress)
	if err != nil {
		return "", err
	}
	return cache.Binaries(ctx)
}

// S3Server returns the program of an S3 server, versitygw. It lies in the same cache and
// is built, within a minute, by whoever needs it first.
func S3Server(ctx context.Context, progress func(step string)) (program string, err error) {
	cache, err := openCache(progress)
	if err != nil {
		return "", err
	}
	return cache.S3Server(ctx)
}

func openCache(progress func(step string)) (provision.Cache, error) {
	module, err := image.Module("")
	if err != nil {
		return provision.Cache{}, err
	}
	dir, err := provision.DefaultDir()
	if err != nil {
		return provision.Cache{}, err
	}
	return provision.Cache{Dir: provision.CacheDir(dir), Module: module, Progress: progress}, nil
}
