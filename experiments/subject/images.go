package subject

import (
	"context"
	"path/filepath"
	"slices"

	"github.com/lifeboat-dev/lifeboat/e2e/image"
	"github.com/lifeboat-dev/lifeboat/experiments/matrix"
)

// Images builds the images of some applications and returns their archives. Those of
// Debian's packages stay in the folder cache, where later calls find them.
func Images(ctx context.Context, cache, folder string, applications []matrix.Application) ([]string, error) {
	module, err := image.Module("")
	if err != nil {
		return nil, err
	}
	var archives []string
	if slices.Contains(applications, matrix.Cart) || slices.Contains(applications, matrix.Stateless) {
		binary, archive := filepath.Join(folder, "experiment"), filepath.Join(folder, "experiment.tar")
		if err := image.GoBinary(ctx, module, "./experiments/app/server", binary); err != nil {
			return nil, err
		}
		if err := image.FromBinary(archive, AppImage, binary); err != nil {
			return nil, err
		}
		archives = append(archives, archive)
	}
	for _, debian := range []struct {
		application  matrix.Application
		image        string
		packages, do []string
	}{
		{matrix.Redis, RedisImage, []string{"redis-server"}, []string{"redis-server"}},
		{matrix.PostgreSQL, PostgreSQLImage, []string{"postgresql"}, []string{"bash"}},
	} {
		if !slices.Contains(applications, debian.application) {
			continue
		}
		archive, err := image.FromDebian(ctx, cache, debian.image, debian.packages, debian.do)
		if err != nil {
			return nil, err
		}
		archives = append(archives, archive)
	}
	return archives, nil
}
