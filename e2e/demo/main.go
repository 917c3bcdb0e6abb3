// Command demo shows what Lifeboat does: it starts a local cluster, puts a
// shopping cart on it that keeps its state in memory alone, cuts the power of the
// cart's node while a client shops, and shows what came back, and when.
//
// It ends with status 1 when the cart did not outlive its node. It needs root on
// Linux and Go, and on first use Debian's packages.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/lifeboat-dev/lifeboat/e2e/cart/workload"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
	"github.com/lifeboat-dev/lifeboat/e2e/deploy"
	"github.com/lifeboat-dev/lifeboat/e2e/loss"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// namespace is where the cart lives.
const namespace = "shop"

// generations is how many checkpoints are durable before the power is cut.
const generations = 3

// setUpLimit bounds the wait for the cart and its first checkpoints.
const setUpLimit = 3 * time.Minute

func main() {
	var d demo
	d.out = os.Stdout
	keep, _ := strconv.ParseBool(os.Getenv("KEEP"))
	flag.BoolVar(&d.keep, "keep", keep, "leave the cluster running afterwards (default $KEEP)")
	flag.StringVar(&d.config.Name, "name", "lab", "the cluster's name")
	flag.Parse()
	// A second interrupt ends the program at once; the next start cleans up then.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop)
	if err := d.run(ctx); err != nil {
		if ctx.Err() != nil {
			err = errors.New("interrupted; the cluster is removed")
		}
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

type demo struct {
	out    io.Writer
	keep   bool
	config cluster.Config
}

func (d *demo) run(ctx context.Context) (err error) {
	fmt.Fprint(d.out, "Lifeboat demo: a shopping cart outlives its node\n\nSetting up\n")
	begin := time.Now()
	d.config.Keep = d.keep
	d.config.Progress = func(step string) {
		fmt.Fprintf(d.out, "  %6.1f s  %s\n", time.Since(begin).Seconds(), step)
	}
	c, api, err := deploy.Start(ctx, d.config)
	if errors.Is(err, cluster.ErrRunning) {
		return fmt.Errorf("%w\nremove it with: go run ./e2e/lab down --name %s", err, d.config.Name)
	}
	if err != nil {
		return err
	}
	defer func() {
		if err != nil && ctx.Err() == nil {
			if describeErr := deploy.Describe(c, namespace); describeErr != nil {
				err = errors.Join(err, describeErr)
			}
		}
		if d.keep && ctx.Err() == nil {
			d.hints(c)
			return
		}
		fmt.Fprint(d.out, "\nRemoving the cluster\n")
		err = errors.Join(err, deploy.Stop(c))
	}()

	shop := &loss.Shop{Cluster: c, Client: api, Namespace: namespace}
	if err := d.setUp(ctx, shop); err != nil {
		return err
	}
	fmt.Fprint(d.out, "\nThe loss\n")
	record, err := shop.Lose(ctx, func(since time.Duration, m loss.Moment) {
		fmt.Fprintf(d.out, "  %6.2f s  %s\n", since.Seconds(), m.Name)
	})
	if err != nil {
		return err
	}
	report(d.out, record)
	return record.Verdict()
}

// setUp opens the shop and waits until there is something to lose and something
// to come back from.
func (d *demo) setUp(ctx context.Context, shop *loss.Shop) error {
	ctx, cancel := context.WithTimeout(ctx, setUpLimit)
	defer cancel()
	d.config.Progress("opening the shop: a StatefulSet with " + annotations())
	if err := shop.Open(ctx, workload.StatefulSet(namespace)); err != nil {
		return err
	}
	d.config.Progress(fmt.Sprintf("sending a shopper; waiting for %d checkpoints of its items", generations))
	if err := shop.StartShopper(ctx, generations); err != nil {
		return err
	}
	pod, err := observe.ReadyPod(ctx, shop.Client, namespace, workload.Labels)
	if err != nil {
		return err
	}
	checkpoint, err := observe.Durable(ctx, shop.Client, pod, generations)
	if err != nil {
		return err
	}
	snapshot, err := shop.At(pod).Snapshot(ctx)
	if err != nil {
		return err
	}
	fmt.Fprint(d.out, "\nThe cart\n")
	fmt.Fprintf(d.out, "  %d items in %d carts, in the memory of one process on node %s\n", snapshot.Items, len(snapshot.Carts), pod.Spec.NodeName)
	status := checkpoint.Status
	fmt.Fprintf(d.out, "  generation %d is held by %v: pause %s, %s of state, %s new\n",
		status.Generation, status.Holders, milliseconds(status.PauseSeconds), size(status.Bytes), size(status.NewBytes))
	return nil
}

func annotations() string {
	return `lifeboat.dev/failover: "true"`
}

// hints says what can be tried on a cluster that was kept.
func (d *demo) hints(c *cluster.Cluster) {
	fmt.Fprintf(d.out, `
The cluster runs on. Try:
  export KUBECONFIG=%s
  alias kubectl=%s
  kubectl get checkpoints,migrations -n %s
  kubectl get fences
  kubectl get pods -A -o wide
  go run ./e2e/lab status --name %[4]s
  go run ./e2e/lab power-on NODE --name %[4]s
  go run ./e2e/lab down --name %[4]s
`, c.Kubeconfig(), c.Kubectl(), namespace, c.Name())
}
