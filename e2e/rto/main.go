// Command rto measures how long a shopping cart is away when its node loses its
// power, over several losses in a row on a local cluster, each on the node that
// the cart has come to by then. It prints the median, the 95th percentile, the
// fastest and the slowest for each step of the recovery.
//
// Beside it runs the same cart without protection, on the same node, on Kubernetes
// with settings that notice a lost node as fast as they go. What the same cuts do to
// that one is printed too.
//
// It ends with status 1 when the protected cart did not outlive every loss.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/lifeboat-dev/lifeboat/e2e/cart/workload"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
	"github.com/lifeboat-dev/lifeboat/e2e/deploy"
	"github.com/lifeboat-dev/lifeboat/e2e/loss"
	"github.com/lifeboat-dev/lifeboat/e2e/marked"
	"github.com/lifeboat-dev/lifeboat/e2e/stock"
)

const namespace = "shop"

// stepLimit bounds each wait between two losses.
const stepLimit = 3 * time.Minute

// options are what the command line says.
type options struct {
	cluster     cluster.Config
	losses      int
	generations int64
	stock       bool
	waits       int
	wait        time.Duration
	csv, write  string
}

func main() {
	begin := time.Now()
	o := options{cluster: cluster.Config{NodeMonitor: stock.Fastest, Progress: func(step string) {
		fmt.Fprintf(os.Stderr, "  %6.1f s  %s\n", time.Since(begin).Seconds(), step)
	}}}
	flag.IntVar(&o.losses, "losses", 20, "number of losses")
	flag.Int64Var(&o.generations, "generations", 2, "durable checkpoints of the shopper's items before each loss")
	flag.StringVar(&o.cluster.Name, "name", "rto", "the cluster's name")
	flag.BoolVar(&o.stock, "stock", true, "lose a cart without protection too, on Kubernetes' fastest settings (false: neither)")
	flag.DurationVar(&o.cluster.NodeMonitor.Grace, "grace", stock.Fastest.Grace, "how long a node may be silent until Kubernetes takes it for lost")
	flag.DurationVar(&o.wait, "stock-wait", time.Minute, "how much longer the cart without protection is waited for in some losses")
	flag.IntVar(&o.waits, "stock-waits", 3, "number of those losses")
	flag.StringVar(&o.csv, "csv", "", "file to write every loss to, as comma-separated values")
	flag.StringVar(&o.write, "write", "", `document to write the tables to, between its marks "rto"`)
	flag.Parse()
	// A second interrupt ends the program at once; the next start cleans up then.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop)
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "rto:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	switch {
	case o.losses < 1:
		return fmt.Errorf("--losses %d: use at least 1", o.losses)
	case o.wait < 0 || o.waits < 0:
		return fmt.Errorf("--stock-wait %s --stock-waits %d: use 0 or more", o.wait, o.waits)
	}
	if !o.stock {
		o.cluster.NodeMonitor = cluster.NodeMonitor{}
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
	l := &lab{shop: &loss.Shop{Cluster: c, Client: api, Namespace: namespace}, generations: o.generations, progress: o.cluster.Progress}
	opening, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	if err := l.shop.Open(opening, workload.StatefulSet(namespace)); err != nil {
		return err
	}
	if o.stock {
		l.stock = newStock(l.shop)
		if err := l.stock.Open(opening, stockCart()); err != nil {
			return err
		}
	}
	watch := stock.WatchFalseLosses(ctx, c, api, func(node string) {
		o.cluster.Progress("false loss: Kubernetes takes node " + node + " for lost, and it has power")
	})
	trials, err := o.measure(ctx, l)
	r := results{trials: trials, monitor: o.cluster.NodeMonitor, falseLosses: watch.End()}
	return errors.Join(err, o.report(os.Stdout, r, err == nil))
}

// measure takes the carts' node as often as asked for.
func (o options) measure(ctx context.Context, l *lab) (trials []*trial, err error) {
	for n := range o.losses {
		wait := time.Duration(0)
		if n < o.waits {
			wait = o.wait
		}
		t, err := l.lose(ctx, wait)
		if err != nil {
			return trials, fmt.Errorf("loss %d of %d: %w", n+1, o.losses, err)
		}
		if err := t.Verdict(); err != nil {
			return trials, fmt.Errorf("loss %d of %d: the cart did not outlive node %s: %w", n+1, o.losses, t.Source, err)
		}
		note := ""
		if t.LeaderLost {
			note = ", the leading watcher lost too"
		}
		if t.stock != nil {
			note += fmt.Sprintf("; without protection back after %.2f s, %d of %d items kept",
				t.stock.firstReply.Sub(t.CutAt).Seconds(), t.stock.kept, t.stock.acked)
		}
		o.cluster.Progress(fmt.Sprintf("loss %d of %d: %s to %s, RTO %.2f s, by the shopper %.2f s%s",
			n+1, o.losses, t.Source, t.Target, t.RTO().Seconds(), t.ClientRTO().Seconds(), note))
		trials = append(trials, t)
	}
	return trials, nil
}

// report prints what was measured. Only a whole run gets into the files.
func (o options) report(out io.Writer, r results, whole bool) error {
	if len(r.trials) == 0 {
		return nil
	}
	var text strings.Builder
	if err := r.tables(&text); err != nil {
		return err
	}
	if _, err := io.WriteString(out, text.String()); err != nil || !whole {
		return err
	}
	if o.csv != "" {
		if err := r.writeCSV(o.csv); err != nil {
			return err
		}
	}
	if o.write == "" {
		return nil
	}
	return marked.Write(o.write, "rto", "```\n"+machine()+text.String()+"```")
}
