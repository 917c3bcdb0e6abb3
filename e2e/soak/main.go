// Command soak keeps a local cluster's nodes and the machine under it as busy as they
// get, and looks whether Lifeboat takes a node for lost that is only slow: processors,
// disk and memory, with bursts of all. It fails when a declaration went as far as
// Fenced, a pod was moved, a container started anew, or a protected pod stood still
// for too long.
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
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/cart/workload"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
	"github.com/lifeboat-dev/lifeboat/e2e/deploy"
	"github.com/lifeboat-dev/lifeboat/e2e/image"
	"github.com/lifeboat-dev/lifeboat/e2e/loss"
	"github.com/lifeboat-dev/lifeboat/e2e/marked"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
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
	standstill  time.Duration
	burstMemory int64
	level       int
	write       string
}

func main() {
	begin := time.Now()
	o := options{cluster: cluster.Config{Progress: func(step string) {
		fmt.Fprintf(os.Stderr, "  %6.1f s  %s\n", time.Since(begin).Seconds(), step)
	}}}
	flag.DurationVar(&o.length, "for", 10*time.Minute, "how long the load lasts")
	flag.DurationVar(&o.every, "every", 30*time.Second, "time between two summaries")
	flag.DurationVar(&o.standstill, "standstill", 3*time.Second, "how long a protected pod may stand still")
	flag.Int64Var(&o.burstMemory, "burst-memory", 2<<30, "bytes of memory that each burst takes on one node")
	flag.IntVar(&o.level, "level", 1, "how many times the load: 1 is a spinner per processor on the nodes, and as many beside them")
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

// soaking is everything that a run needs.
type soaking struct {
	stress   *stress
	observer *observer
	cart     string // the birth of its process
	redis    string // the run ID of its process
	address  func(ctx context.Context) (*redisClient, error)
}

// open brings the pods and their clients up, and the load program onto the nodes.
func open(ctx context.Context, c *cluster.Cluster, api client.Client, folder string, o options) (*soaking, error) {
	module, err := image.Module("")
	if err != nil {
		return nil, err
	}
	nodes, err := deploy.NodeNames(c)
	if err != nil {
		return nil, err
	}
	s := &soaking{stress: &stress{cluster: c, nodes: nodes, dir: folder, burstMemory: o.burstMemory, level: o.level}}
	binary, archive, err := buildLoad(ctx, module, folder)
	if err != nil {
		return nil, err
	}
	s.stress.binary = binary
	cacheDir, err := o.cluster.Folder()
	if err != nil {
		return nil, err
	}
	redisArchive, err := image.FromDebian(ctx, filepath.Join(cacheDir, "cache"), redisImage, []string{"redis-server"}, []string{"redis-server"})
	if err != nil {
		return nil, err
	}
	for _, archive := range []string{archive, redisArchive} {
		if err := c.LoadImage(ctx, archive); err != nil {
			return nil, err
		}
	}
	if err := s.stress.install(ctx); err != nil {
		return nil, err
	}
	rest, err := c.RESTConfig()
	if err != nil {
		return nil, err
	}
	watching, err := client.NewWithWatch(rest, client.Options{Scheme: api.Scheme()})
	if err != nil {
		return nil, fmt.Errorf("build the client: %w", err)
	}
	logs, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return nil, fmt.Errorf("build the client: %w", err)
	}
	s.observer = &observer{
		shop: &loss.Shop{Cluster: c, Client: api, Namespace: namespace},
		api:  watching, logs: logs, say: o.cluster.Progress, tally: newTally(),
	}
	if err := s.openPods(ctx, c, api); err != nil {
		return nil, err
	}
	return s, nil
}

// openPods starts the pods and their clients.
func (s *soaking) openPods(ctx context.Context, c *cluster.Cluster, api client.Client) error {
	o := s.observer
	if err := o.shop.Open(ctx, workload.StatefulSet(namespace)); err != nil {
		return err
	}
	if err := api.Create(ctx, redisPod()); err != nil {
		return fmt.Errorf("create redis: %w", err)
	}
	if err := o.shop.StartShopper(ctx, generations); err != nil {
		return err
	}
	redis, err := observe.ReadyPod(ctx, api, namespace, redisLabels)
	if err != nil {
		return err
	}
	if _, err := observe.Durable(ctx, api, redis, generations); err != nil {
		return err
	}
	if o.shopper, err = observe.ReadyPod(ctx, api, namespace, workload.ShopperLabels); err != nil {
		return err
	}
	for _, object := range s.stress.memoryPods() {
		if err := api.Create(ctx, object); err != nil {
			return fmt.Errorf("create %T %s: %w", object, object.GetName(), err)
		}
	}
	status, err := o.shop.At(o.shopper).Status(ctx)
	if err != nil {
		return fmt.Errorf("ask the shopper: %w", err)
	}
	o.acked, s.cart = status.Acked, status.Last.Birth
	s.address = func(ctx context.Context) (*redisClient, error) { return dialRedis(ctx, c, redis) }
	if o.redis, err = s.address(ctx); err != nil {
		return err
	}
	if s.redis, err = s.runID(ctx); err != nil {
		return err
	}
	return o.counters(ctx)
}

// runID is what redis calls its process.
func (s *soaking) runID(ctx context.Context) (string, error) {
	r, err := s.address(ctx)
	if err != nil {
		return "", err
	}
	defer r.conn.Close()
	if _, err := r.ask("INFO server"); err != nil {
		return "", err
	}
	for {
		line, err := r.in.ReadString('\n')
		if err != nil {
			return "", fmt.Errorf("redis does not tell its run_id: %w", err)
		}
		if id, found := strings.CutPrefix(strings.TrimSpace(line), "run_id:"); found {
			return id, nil
		}
	}
}

// soak keeps everything busy, looks, and judges.
func (s *soaking) soak(ctx context.Context, o options) error {
	begin := time.Now()
	loaded, end := context.WithTimeout(ctx, o.length)
	defer end()
	redisEnded, observed, stressed := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	looking, stopLooking := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLooking()
	go func() { defer close(redisEnded); s.observer.redis.run(loaded) }()
	go func() { defer close(observed); s.observer.run(looking) }()
	go func() { stressed <- s.stress.run(loaded) }()
	o.cluster.Progress(fmt.Sprintf("the load begins; it lasts %s", o.length))
	lines := newSummary(begin)
	lines.generations(loaded, s.observer)
	ticker := time.NewTicker(o.every)
	defer ticker.Stop()
	for loaded.Err() == nil {
		select {
		case <-loaded.Done():
		case <-ticker.C:
			fmt.Println(lines.line(loaded, s.observer))
		}
	}
	stressErr := <-stressed
	<-redisEnded
	took := time.Since(begin)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
	defer cancel()
	closeErr := s.close(closing, lines)
	stopLooking()
	<-observed
	text, verdict := s.observer.outcome(lines, took, o.standstill)
	fmt.Print(text)
	if ctx.Err() != nil {
		return errors.Join(errInterrupted, verdict)
	}
	if err := errors.Join(verdict, stressErr, closeErr); err != nil || o.write == "" {
		return err
	}
	return marked.Write(o.write, "soak", "```\n"+text+"```")
}

// close looks a last time, with the load gone, and whether the processes are those of
// the beginning and have all that was acknowledged.
func (s *soaking) close(ctx context.Context, lines *summary) error {
	// What was declared at the very end is decided by then.
	err := observe.Until(ctx, "no node is declared lost", func(ctx context.Context) (bool, string, error) {
		var fences v1alpha1.FenceList
		err := s.observer.api.List(ctx, &fences)
		for _, fence := range fences.Items {
			if fence.Spec.State != v1alpha1.FenceRunning {
				return false, fmt.Sprintf("node %s is %s", fence.Name, fence.Spec.State), err
			}
		}
		return true, "", err
	})
	if err != nil {
		return err
	}
	s.observer.look(ctx)
	lines.generations(ctx, s.observer)
	if err := s.observer.counters(ctx); err != nil {
		return err
	}
	return s.compare(ctx)
}

// compare looks whether the processes are those of the beginning, and miss nothing.
func (s *soaking) compare(ctx context.Context) error {
	o := s.observer
	pod, err := observe.ReadyPod(ctx, o.api, namespace, workload.Labels)
	if err != nil {
		return err
	}
	report, err := o.shop.At(o.shopper).Report(ctx)
	if err != nil {
		return fmt.Errorf("read the shopper's report: %w", err)
	}
	snapshot, err := o.shop.At(pod).Snapshot(ctx)
	if err != nil {
		return fmt.Errorf("read the cart: %w", err)
	}
	id, err := s.runID(ctx)
	if err != nil {
		return err
	}
	missing := 0
	for _, write := range report.Writes {
		if !snapshot.Has(report.Cart, write.SKU) {
			missing++
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if snapshot.Birth != s.cart {
		o.changed = append(o.changed, fmt.Sprintf("the cart was born as %s and now is %s", s.cart, snapshot.Birth))
	}
	if id != s.redis {
		o.changed = append(o.changed, fmt.Sprintf("redis ran as %s and now as %s", s.redis, id))
	}
	if missing > 0 {
		o.changed = append(o.changed, fmt.Sprintf("the cart misses %d of %d acknowledged items", missing, len(report.Writes)))
	}
	return nil
}
