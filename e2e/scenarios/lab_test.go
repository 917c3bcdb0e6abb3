package scenarios

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/checkpointer/steady"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
	"github.com/lifeboat-dev/lifeboat/e2e/deploy"
	"github.com/lifeboat-dev/lifeboat/e2e/loss"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// enough is the least -timeout with which all scenarios end.
const enough = 40 * time.Minute

// patience bounds one wait of a scenario.
const patience = 3 * time.Minute

// lab is the cluster that all scenarios share; nil when they are skipped.
var lab *cluster.Cluster

// api is a client of the lab, config what it was started with.
var (
	api    client.Client
	config cluster.Config
)

// longestStall is for how long the machine may stand still in a scenario: within
// seconds, nodes are lost.
const longestStall = time.Second

func TestMain(m *testing.M) {
	os.Exit(steady.Main(func() int { return runAll(m) }, longestStall))
}

func runAll(m *testing.M) int {
	if testing.Short() {
		fmt.Println("scenarios: skipped, because they start a cluster and -short is set")
		return m.Run()
	}
	timeout := flag.Lookup("test.timeout").Value.(flag.Getter).Get().(time.Duration)
	if only := flag.Lookup("test.run").Value.String(); timeout > 0 && timeout < enough && only == "" {
		fmt.Printf("scenarios: -timeout is %s, and all of them need up to %s: go test -timeout 60m ./e2e/scenarios\n", timeout, enough)
		return 1
	}
	begin := time.Now()
	config = cluster.Config{Name: "scenarios", Progress: func(step string) {
		fmt.Printf("  %6.1f s  %s\n", time.Since(begin).Seconds(), step)
	}}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	attach := os.Getenv("LIFEBOAT_LAB_ATTACH") == "1"
	start := deploy.Start
	if attach {
		config.Name = os.Getenv("LIFEBOAT_LAB_NAME")
		start = deploy.Attach
	}
	var err error
	if lab, api, err = start(ctx, config); err != nil {
		fmt.Println("scenarios:", err)
		return 1
	}
	if attach {
		stop() // an interrupt just ends the tests
		return m.Run()
	}
	// An interrupt ends the tests, but not before the cluster is gone.
	disarm := context.AfterFunc(ctx, func() {
		fmt.Println("scenarios: interrupted", deploy.Stop(lab))
		os.Exit(1)
	})
	defer disarm()
	code := m.Run()
	if err := deploy.Stop(lab); err != nil {
		fmt.Println("scenarios:", err)
		return 1
	}
	// What Lifeboat started on the nodes must be gone with them.
	if left, err := lab.Leftovers(); err != nil || len(left) > 0 {
		fmt.Printf("scenarios: the cluster left behind: %s %v\n", strings.Join(left, ", "), err)
		return 1
	}
	return code
}

// scene gives a scenario a whole cluster and a namespace of its own. When the
// scenario is over, nodes without power get it back, and when it has failed, it
// first says in what state everything is.
func scene(t *testing.T, name string) (namespace string) {
	t.Helper()
	if lab == nil {
		t.Skip("needs a cluster, which -short does without")
	}
	namespace = name + "-" + rand.String(5)
	t.Cleanup(func() {
		// The test's own context has ended by now.
		ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
		defer cancel()
		if t.Failed() {
			dump(ctx, t, namespace)
		}
		if err := errors.Join(powerOn(ctx), remove(ctx, namespace)); err != nil {
			t.Errorf("clean up after the scenario: %v", err)
		}
	})
	if err := deploy.Whole(deadline(t), lab, api, func(string) {}); err != nil {
		t.Fatalf("the cluster is not whole: %v", err)
	}
	create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
	return namespace
}

// deadline is the test's context, bounded by patience.
func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func create(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, object := range objects {
		if err := api.Create(deadline(t), object); err != nil {
			t.Fatalf("create %T %s: %v", object, object.GetName(), err)
		}
	}
}

// powerOn gives every node its power back.
func powerOn(ctx context.Context) error {
	nodes, err := lab.Nodes()
	if err != nil {
		return err
	}
	for _, node := range nodes {
		if !node.PoweredOn {
			if err := lab.PowerOn(ctx, node.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// remove deletes a namespace, and waits until it is gone.
func remove(ctx context.Context, namespace string) error {
	object := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if err := api.Delete(ctx, object); client.IgnoreNotFound(err) != nil {
		return err
	}
	return observe.Until(ctx, "namespace "+namespace+" is gone", func(ctx context.Context) (bool, string, error) {
		err := api.Get(ctx, client.ObjectKeyFromObject(object), object)
		if apierrors.IsNotFound(err) {
			return true, "", nil
		}
		return false, fmt.Sprint(object.Status.Conditions), err
	})
}

// dump logs the state of Lifeboat and of a namespace, and the end of the runtime's
// log on each node.
func dump(ctx context.Context, t *testing.T, namespace string) {
	var text bytes.Buffer
	if rest, err := lab.RESTConfig(); err != nil {
		fmt.Fprintln(&text, err)
	} else if logs, err := kubernetes.NewForConfig(rest); err != nil {
		fmt.Fprintln(&text, err)
	} else {
		observe.Dump(ctx, &text, api, logs, namespace)
	}
	nodes, err := lab.Nodes()
	if err != nil {
		fmt.Fprintln(&text, err)
	}
	for _, node := range nodes {
		fmt.Fprintf(&text, "--- /run/lifeboat of %s\n", node.Name)
		if !node.PoweredOn {
			fmt.Fprintln(&text, "without power")
			continue
		}
		out, err := lab.NodeExec(ctx, node.Name, "sh", "-c", "cd /run/lifeboat && ls -R . && tail -n 40 *.log")
		fmt.Fprintf(&text, "%s", out)
		if err != nil {
			fmt.Fprintln(&text, err)
		}
	}
	t.Logf("state at the end:\n%s", text.String())
}

// openShop opens a shop whose cart belongs to owner, and sends a shopper.
func openShop(t *testing.T, namespace string, owner client.Object) *loss.Shop {
	t.Helper()
	shop := &loss.Shop{Cluster: lab, Client: api, Namespace: namespace}
	if err := shop.Open(deadline(t), owner); err != nil {
		t.Fatalf("open the shop: %v", err)
	}
	startShopper(t, shop)
	return shop
}

// startShopper sends a shopper and waits for checkpoints of its items.
func startShopper(t *testing.T, shop *loss.Shop) {
	t.Helper()
	if err := shop.StartShopper(deadline(t), 2); err != nil {
		t.Fatalf("send the shopper: %v", err)
	}
}

// lose takes the power from the cart's node and logs what the recovery took.
func lose(t *testing.T, shop *loss.Shop) *loss.Record {
	t.Helper()
	record, err := shop.Lose(t.Context(), nil)
	if err != nil {
		t.Fatalf("the recovery did not end: %v", err)
	}
	var steps []string
	for _, m := range record.Moments {
		steps = append(steps, fmt.Sprintf("%s %.2f s", m.Name, m.At.Sub(record.CutAt).Seconds()))
	}
	t.Logf("%s to %s: %s; RTO %s, by the shopper %s, RPO %s", record.Source, record.Target,
		strings.Join(steps, ", "), record.RTO(), record.ClientRTO(), record.RPO())
	return record
}
