// Command soak keeps a local cluster's nodes and the machine under it as busy as they
// get, and looks whether Lifeboat takes a node for lost that is only slow: processors,
// disk and memory, with bursts of all. It fails when a declaration went as far as
// Fenced, a pod was moved, a container started anew, or a protected pod was frozen for
// too long.
//
// An interrupt prints what was seen until then, and leaves nothing behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
	"github.com/lifeboat-dev/lifeboat/e2e/deploy"
	"github.com/lifeboat-dev/lifeboat/e2e/stock"
)

const (
	namespace = "shop"
	cartName  = "cart"
	redisName = "redis"
	// openLimit bounds what comes before the load, closeLimit what comes after it.
	openLimit, closeLimit = 4 * time.Minute, 2 * time.Minute
	// generations are durable of each pod before the load begins.
	generations = 2
)

// errInterrupted says that the load did not last for as long as was asked for.
var errInterrupted = errors.New("interrupted: what is said above is of a shorter time")

type options struct {
	cluster     cluster.Config
	length      time.Duration
	every       time.Duration
	frozen      time.Duration
	burstMemory int64
	level       int
	grace       time.Duration
	write       string
}

func main() {
	begin := time.Now()
	o := options{cluster: cluster.Config{Progress: func(step string) {
		fmt.Fprintf(os.Stderr, "  %6.1f s  %s\n", time.Since(begin).Seconds(), step)
	}}}
	flag.DurationVar(&o.length, "for", 10*time.Minute, "how long the load lasts")
	flag.DurationVar(&o.every, "every", 30*time.Second, "time between two summaries")
	flag.DurationVar(&o.frozen, "frozen", 3*time.Second, "how long a protected pod may be frozen at a time")
	flag.Int64Var(&o.burstMemory, "burst-memory", 2<<30, "bytes of memory that each burst takes on one node")
	flag.IntVar(&o.level, "level", 1, "how many times the load: 1 is a spinner per processor on the nodes, and as many beside them")
	flag.DurationVar(&o.grace, "grace", 0, "count what Kubernetes takes for lost after so much silence, with its fastest settings (0: with its defaults)")
	flag.StringVar(&o.cluster.Name, "name", "soak", "the cluster's name")
	flag.StringVar(&o.write, "write", "", `document to write the outcome to, between its marks "soak"`)
	flag.Parse()
	// A second interrupt ends the program at once; the next start cleans up then.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop)
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if o.level < 1 || o.length <= 0 || o.every <= 0 {
		return fmt.Errorf("--level %d --for %s --every %s: use at least 1, and times above 0", o.level, o.length, o.every)
	}
	if o.grace > 0 {
		o.cluster.NodeMonitor = stock.Fastest
		o.cluster.NodeMonitor.Grace = o.grace
	}
	c, api, err := deploy.Start(ctx, o.cluster)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil && ctx.Err() == nil {
			err = errors.Join(err, deploy.Describe(c, namespace))
		}
		err = errors.Join(err, deploy.Stop(c))
	}()
	folder, err := os.MkdirTemp(filepath.Dir(c.Logs()), "soak-")
	if err != nil {
		return fmt.Errorf("make a folder for the load: %w", err)
	}
	defer os.RemoveAll(folder)
	o.cluster.Progress("opening the shop, starting redis")
	opening, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	s, err := open(opening, c, api, folder, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.observer.redis.close()) }()
	return s.soak(ctx, o)
}
