// Package deploy builds Lifeboat and the cart from this repository's sources and
// installs Lifeboat in a local cluster the way its manifests say.
package deploy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/lifeboat-dev/lifeboat/e2e/cart/workload"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
	"github.com/lifeboat-dev/lifeboat/e2e/image"
)

// Image is the image that the manifests name.
const Image = "ghcr.io/lifeboat-dev/lifeboat:dev"

// programs are what the image holds, each in its root.
var programs = []string{"lifeboat-watcher", "lifeboat-checkpointer", "lifeboat-runtime"}

// Built is what a cluster with Lifeboat is made of.
type Built struct {
	// Module is the folder of the Lifeboat module.
	Module string
	// Lifeboat and Cart are image archives.
	Lifeboat, Cart string
}

// Build builds Lifeboat's image and the cart's from the module that the working
// folder lies in, into the folder.
func Build(ctx context.Context, folder string, progress func(step string)) (Built, error) {
	module, err := image.Module("")
	if err != nil {
		return Built{}, err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return Built{}, fmt.Errorf("build Lifeboat: %w", err)
	}
	progress("building Lifeboat and the cart")
	b := Built{
		Module:   module,
		Lifeboat: filepath.Join(folder, "lifeboat.tar"),
		Cart:     filepath.Join(folder, "cart.tar"),
	}
	files := make([]image.File, len(programs))
	for i, name := range programs {
		files[i] = image.File{Path: "/" + name, Source: filepath.Join(folder, name), Mode: 0o755}
		if err := image.GoBinary(ctx, module, "./cmd/"+name, files[i].Source); err != nil {
			return b, err
		}
	}
	if err := image.FromFiles(b.Lifeboat, image.Config{Name: Image, Entrypoint: []string{"/lifeboat-watcher"}}, files...); err != nil {
		return b, err
	}
	binary := filepath.Join(folder, "cart")
	if err := image.GoBinary(ctx, module, "./e2e/cart/server", binary); err != nil {
		return b, err
	}
	return b, image.FromBinary(b.Cart, workload.Image, binary)
}

// Cluster adds to a cluster's configuration what Lifeboat needs of one: its
// scheduler, its runtime handler, and the images.
func (b Built) Cluster(config cluster.Config) cluster.Config {
	config.Module = b.Module
	config.Scheduler = cluster.Scheduler{
		Dir:        filepath.Join(b.Module, "cmd/lifeboat-scheduler"),
		ConfigFile: filepath.Join(b.Module, "manifests/scheduler/config.yaml"),
	}
	config.ContainerdDropIns = append(config.ContainerdDropIns, filepath.Join(b.Module, "manifests/node/containerd-1.7.toml"))
	config.Images = append(config.Images, b.Lifeboat, b.Cart)
	return config
}

// load brings the images into a cluster that runs already.
func (b Built) load(ctx context.Context, c *cluster.Cluster) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, archive := range []string{b.Lifeboat, b.Cart} {
		group.Go(func() error { return c.LoadImage(ctx, archive) })
	}
	return group.Wait()
}
