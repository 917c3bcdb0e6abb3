package kubectl

import (
	"context"
	"io"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// request is what the commands have in common that ask for something of Migrations, and
// wait for what comes of it.
type request struct {
	base
	*output
	wait    bool
	timeout time.Duration // how long to wait; zero is for as long as it takes
	dry     dryRun
}

// waits says whether the command waits until the Migrations are done.
func (r *request) waits() bool { return r.wait && !r.dry.on() }

// told is where it is told how Migrations go on: people read that, and programs read the
// objects alone.
func (r *request) told() io.Writer {
	if r.text() {
		return r.streams.Out
	}
	return r.streams.ErrOut
}

// follow waits for Migrations, where the command is to, and prints them for programs. It
// leaves in asked how they are then, and returns how the waiting ended.
func (r *request) follow(ctx context.Context, c *cluster, asked []*v1alpha1.Migration) (ends []*followed, err error) {
	if r.waits() && len(asked) > 0 {
		ctx, cancel := withTimeout(ctx, r.timeout)
		defer cancel()
		ends, err = c.follow(ctx, r.told(), asked)
		for i, f := range ends {
			asked[i] = f.Migration
		}
	}
	if r.text() || len(asked) == 0 {
		return ends, err
	}
	if printed := r.print(asked); printed != nil {
		return nil, printed
	}
	return ends, err
}

// print prints Migrations for programs.
func (r *request) print(migrations []*v1alpha1.Migration) error {
	if len(migrations) == 1 {
		return r.object(r.streams.Out, migrations[0])
	}
	objects := make([]client.Object, len(migrations))
	for i, m := range migrations {
		objects[i] = m
	}
	return r.objects(r.streams.Out, objects)
}
