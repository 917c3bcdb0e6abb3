// Command tour runs the commands of kubectl lifeboat one after the other in a local
// cluster, on the cart and its shopper, and writes what they print into
// docs/reference/kubectl.md. It ends with status 1, and writes nothing, when a command
// ends otherwise than it should.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/lifeboat-dev/lifeboat/e2e/cart/workload"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
	"github.com/lifeboat-dev/lifeboat/e2e/deploy"
	"github.com/lifeboat-dev/lifeboat/e2e/image"
	"github.com/lifeboat-dev/lifeboat/e2e/loss"
	"github.com/lifeboat-dev/lifeboat/e2e/marked"
)

// namespace is where the cart lives.
const namespace = "shop"

// generations is how many checkpoints are durable before the tour begins.
const generations = 2

// limit bounds the whole tour, without the start of the cluster.
const limit = 8 * time.Minute

type tour struct {
	config       cluster.Config
	attach, keep bool
	write, only  string
}

func main() {
	var t tour
	flag.StringVar(&t.config.Name, "name", "tour", "the cluster's name")
	flag.BoolVar(&t.attach, "attach", false, "use a cluster that runs already")
	flag.BoolVar(&t.keep, "keep", false, "leave the cluster running afterwards")
	flag.StringVar(&t.write, "write", "docs/reference/kubectl.md", "the document; empty only prints")
	flag.StringVar(&t.only, "only", "", "the steps to run, as in status,checkpoint (default all)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop)
	if err := t.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "tour:", err)
		os.Exit(1)
	}
}

func (t *tour) run(ctx context.Context) (err error) {
	begin := time.Now()
	t.config.Keep = t.keep
	t.config.Progress = func(step string) { fmt.Fprintf(os.Stderr, "%6.1f s  %s\n", time.Since(begin).Seconds(), step) }
	module, err := image.Module("")
	if err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "lifeboat-tour-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	plugin := filepath.Join(folder, "kubectl-lifeboat")
	if err := image.GoBinary(ctx, module, "./cmd/kubectl-lifeboat", plugin); err != nil {
		return err
	}
	start := deploy.Start
	if t.attach {
		start = deploy.Attach
	}
	c, api, err := start(ctx, t.config)
	if err != nil {
		return err
	}
	if !t.attach && !t.keep {
		defer func() { err = errors.Join(err, deploy.Stop(c)) }()
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	shop := &loss.Shop{Cluster: c, Client: api, Namespace: namespace}
	if err := shop.Open(ctx, workload.StatefulSet(namespace)); err != nil {
		return err
	}
	if err := shop.StartShopper(ctx, generations); err != nil {
		return err
	}
	p := &program{path: plugin, kubeconfig: c.Kubeconfig(), api: api, blocks: map[string]string{}}
	for _, s := range steps {
		if t.only != "" && !strings.Contains(","+t.only+",", ","+s.name+",") {
			continue
		}
		t.config.Progress(s.name)
		if err := s.run(ctx, p); err != nil {
			return fmt.Errorf("step %s: %w", s.name, err)
		}
		fmt.Print(p.blocks[s.name])
	}
	for name, text := range p.blocks {
		if t.write == "" {
			break
		}
		if err := marked.Write(filepath.Join(module, t.write), "tour-"+name, "```\n"+text+"```"); err != nil {
			return err
		}
	}
	return nil
}
