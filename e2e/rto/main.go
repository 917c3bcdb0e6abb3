// Command rto measures how long a shopping cart is away when its node loses its
// power, over several losses in a row on a local cluster, each on the node that
// the cart has come to by then. It prints the median, the fastest and the slowest
// for each step of the recovery.
//
// It ends with status 1 when the cart did not outlive every loss.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/e2e/cart/workload"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
	"github.com/lifeboat-dev/lifeboat/e2e/deploy"
	"github.com/lifeboat-dev/lifeboat/e2e/loss"
)

const namespace = "shop"

// stepLimit bounds each wait between two losses.
const stepLimit = 3 * time.Minute

func main() {
	begin := time.Now()
	config := cluster.Config{Progress: func(step string) {
		fmt.Fprintf(os.Stderr, "  %6.1f s  %s\n", time.Since(begin).Seconds(), step)
	}}
	losses := flag.Int("losses", 10, "number of losses")
	generations := flag.Int64("generations", 2, "durable checkpoints of the shopper's items before each loss")
	flag.StringVar(&config.Name, "name", "rto", "the cluster's name")
	flag.Parse()
	// A second interrupt ends the program at once; the next start cleans up then.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop)
	if err := run(ctx, config, *losses, *generations); err != nil {
		fmt.Fprintln(os.Stderr, "rto:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, config cluster.Config, losses int, generations int64) (err error) {
	if losses < 1 {
		return fmt.Errorf("--losses %d: use at least 1", losses)
	}
	c, api, err := deploy.Start(ctx, config)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil && ctx.Err() == nil {
			err = errors.Join(err, deploy.Describe(c, namespace))
		}
		err = errors.Join(err, deploy.Stop(c))
	}()
	shop := &loss.Shop{Cluster: c, Client: api, Namespace: namespace}
	opening, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	if err := shop.Open(opening, workload.StatefulSet(namespace)); err != nil {
		return err
	}
	var records []*loss.Record
	for n := range losses {
		record, err := lose(ctx, shop, api, generations)
		if err != nil {
			return fmt.Errorf("loss %d of %d: %w", n+1, losses, err)
		}
		if err := record.Verdict(); err != nil {
			return fmt.Errorf("loss %d of %d: the cart did not outlive node %s: %w", n+1, losses, record.Source, err)
		}
		note := ""
		if record.LeaderLost {
			note = ", the leading watcher lost too"
		}
		config.Progress(fmt.Sprintf("loss %d of %d: %s to %s, RTO %.2f s, by the shopper %.2f s%s",
			n+1, losses, record.Source, record.Target, record.RTO().Seconds(), record.ClientRTO().Seconds(), note))
		records = append(records, record)
	}
	return table(os.Stdout, records)
}

// lose makes the cluster whole, sends a shopper, and takes the cart's node.
func lose(ctx context.Context, shop *loss.Shop, api client.Client, generations int64) (*loss.Record, error) {
	step, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	if err := deploy.Whole(step, shop.Cluster, api, func(string) {}); err != nil {
		return nil, err
	}
	if err := shop.StartShopper(step, generations); err != nil {
		return nil, err
	}
	record, err := shop.Lose(ctx, nil)
	if err != nil {
		return nil, err
	}
	after, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	if err := shop.StopShopper(after); err != nil {
		return nil, err
	}
	return record, shop.Cluster.PowerOn(after, record.Source)
}
